"""The fake engine: vLLM's wire format without a model, for tests and for trying out a configuration."""

from engines.fake.connection import Request
from engines.fake.engine import EngineStats, FakeEngine
from engines.fake.options import Death, FakeOptions, Hang, Malformed, OptionError, Overrides, Split

__all__ = [
    "Death",
    "EngineStats",
    "FakeEngine",
    "FakeOptions",
    "Hang",
    "Malformed",
    "OptionError",
    "Overrides",
    "Request",
    "Split",
]
