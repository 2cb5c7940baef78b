"""Load on an OpenAI endpoint, and what came of it. Speaks HTTP only, and shares no code with what it measures."""

from loadtest.asks import Ask, chat_asks, completion_asks
from loadtest.client import Arrivals, Load, Target
from loadtest.report import Quantiles, Report, Slo, summarize, table
from loadtest.results import Failure, Results

__all__ = [
    "Arrivals",
    "Ask",
    "Failure",
    "Load",
    "Quantiles",
    "Report",
    "Results",
    "Slo",
    "Target",
    "chat_asks",
    "completion_asks",
    "summarize",
    "table",
]
