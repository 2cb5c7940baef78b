"""What engines tell of their load on their Prometheus pages."""

from engines.metrics.page import Figures, read_page

__all__ = ["Figures", "read_page"]
