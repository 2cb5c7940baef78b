"""From the configuration's `prices` to those of the table."""

from __future__ import annotations

from decimal import Decimal

from gateway.config import Config
from gateway.prices.table import Price

SOURCE = "configuration"


def overrides_of(config: Config) -> dict[str, Price]:
    """By model name."""
    return {
        name: Price(
            source=SOURCE,
            input=_written(price.input),
            output=_written(price.output),
            cached_input=_maybe(price.cached_input),
            cache_write=_maybe(price.cache_write),
            reasoning=_maybe(price.reasoning),
            batch=_maybe(price.batch),
        )
        for name, price in config.prices.items()
    }


def _written(value: float) -> Decimal:
    """The decimal fraction that stands in the file: the shortest that reads as this number."""
    return Decimal(repr(value))


def _maybe(value: float | None) -> Decimal | None:
    return None if value is None else _written(value)
