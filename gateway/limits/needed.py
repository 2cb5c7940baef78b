"""Whether limits are to be counted at all."""

from __future__ import annotations

from gateway.config import Config
from gateway.limits.plan import has_limits


def needs_store(config: Config) -> bool:
    """Whether the configuration limits anybody, or has a database that may."""
    return config.database is not None or has_limits(config)
