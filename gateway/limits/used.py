"""What a call used in the end, as its record says: the same figures as in the usage that is kept of it."""

from __future__ import annotations

from decimal import ROUND_CEILING

from gateway.config import Config
from gateway.limits.units import NANO
from gateway.prices import Price, PriceTable, cost, shipped
from gateway.prices.overrides import overrides_of
from gateway.record import Record

_REMEMBERED = 4_096


class Bookkeeper:
    """Turns records into tokens and money."""

    def __init__(self, config: Config) -> None:
        self._table = PriceTable(shipped(), overrides_of(config))
        self._prices: dict[str, Price | None] = {}

    def tokens(self, record: Record) -> int:
        """None were used by an answer from the cache."""
        usage = record.usage
        return 0 if record.is_kept_answer else usage.prompt_tokens + usage.completion_tokens

    def nano_usd(self, record: Record) -> int:
        """Billionths of a US dollar, rounded up; 0 where the model has no price."""
        if record.is_kept_answer:
            return 0
        model = record.engine_model
        if model not in self._prices:
            if len(self._prices) >= _REMEMBERED:
                self._prices.clear()
            self._prices[model] = self._table.find(model)
        price = self._prices[model]
        if price is None:
            return 0
        return int((cost(price, record.usage) * NANO).to_integral_value(ROUND_CEILING))
