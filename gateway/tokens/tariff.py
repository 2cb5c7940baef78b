"""What a call of a deployment costs at most, in whole billionths of a US dollar."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import ROUND_CEILING, Decimal
from typing import NamedTuple

from gateway.prices import Price, PriceTable
from gateway.prices.table import PER_TOKENS, Rates

NANO = Decimal(10**9)
MOST_NANO_USD = 2**53 - 1
"""More is taken for this: every store can count it exactly."""


class _Rate(NamedTuple):
    """Of a million tokens, each kind at its dearest. over_tokens: what longer prompts cost stands in `long`."""

    input: int
    output: int
    over_tokens: int = 0
    long: tuple[int, int] | None = None


class Tariff:
    """The worst case of the variants' prices.

    A model without a known price costs nothing that can be counted.
    """

    __slots__ = ("_rates",)

    def __init__(self, prices: Iterable[Price | None]) -> None:
        self._rates = tuple(dict.fromkeys(_rate(price) for price in prices if price is not None))

    def __repr__(self) -> str:
        return f"<Tariff {self._rates}>"

    def most_nano_usd(self, prompt_tokens: int, output_tokens: int) -> int:
        """What so many tokens cost at most, rounded up."""
        most = 0
        for rate in self._rates:
            is_long = rate.long is not None and prompt_tokens > rate.over_tokens
            in_rate, out_rate = rate.long if is_long and rate.long is not None else (rate.input, rate.output)
            most = max(most, -(-(prompt_tokens * in_rate + output_tokens * out_rate) // PER_TOKENS))
        return min(most, MOST_NANO_USD)


def tariff_of(engine_models: Iterable[str], prices: PriceTable) -> Tariff:
    return Tariff(prices.find(model) for model in engine_models)


def _rate(price: Price) -> _Rate:
    usual, long = _dearest(price), price.long_context
    if long is None:
        return _Rate(*usual)
    return _Rate(*usual, long.over_tokens, _dearest(long))


def _dearest(rates: Rates) -> tuple[int, int]:
    into = max(rates.input, rates.cached_input or rates.input, rates.cache_write or rates.input)
    out = max(rates.output, rates.reasoning or rates.output)
    return _nano(into), _nano(out)


def _nano(usd: Decimal) -> int:
    return int((usd * NANO).to_integral_value(ROUND_CEILING))
