"""What a call costs at most."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from gateway.prices import LongContext, Price, PriceTable, cost, shipped
from gateway.record import Usage
from gateway.tokens.tariff import MOST_NANO_USD, Tariff, tariff_of

PLAIN = Price(input=Decimal("3"), output=Decimal("15"))
CACHING = Price(input=Decimal("3"), output=Decimal("15"), cache_write=Decimal("3.75"), reasoning=Decimal("20"))
LONG = Price(
    input=Decimal("1.25"),
    output=Decimal("10"),
    long_context=LongContext(input=Decimal("2.5"), output=Decimal("15"), over_tokens=200_000),
)


def test_it_is_what_the_tokens_cost() -> None:
    assert Tariff([PLAIN]).most_nano_usd(1_000, 100) == 4_500_000


def test_of_several_prices_the_dearest_counts_for_each_call() -> None:
    cheap_prompt = Price(input=Decimal("1"), output=Decimal("30"))
    tariff = Tariff([PLAIN, cheap_prompt, None])
    assert tariff.most_nano_usd(1_000_000, 0) == 3 * 10**9
    assert tariff.most_nano_usd(0, 1_000_000) == 30 * 10**9


def test_what_may_be_written_to_the_cache_or_thought_counts_as_if_all_were() -> None:
    assert Tariff([CACHING]).most_nano_usd(1_000_000, 1_000_000) == 23_750_000_000


def test_a_long_prompt_costs_what_long_ones_cost() -> None:
    tariff = Tariff([LONG])
    assert tariff.most_nano_usd(200_000, 0) == 250_000_000
    assert tariff.most_nano_usd(200_001, 0) == 500_002_500


def test_without_a_price_nothing_can_be_counted() -> None:
    assert Tariff([None]).most_nano_usd(10**6, 10**6) == 0
    assert tariff_of(["nobody knows it"], PriceTable(shipped())).most_nano_usd(10**6, 10**6) == 0


def test_no_number_is_too_large_for_a_store() -> None:
    assert Tariff([PLAIN]).most_nano_usd(10**13, 10**13) == MOST_NANO_USD


tokens = st.integers(0, 10**6)


@given(
    prompt=tokens, output=tokens, cached=st.integers(0, 10**6), reasoning=tokens, price=st.sampled_from([CACHING, LONG])
)
def test_no_use_of_so_many_tokens_costs_more(
    prompt: int, output: int, cached: int, reasoning: int, price: Price
) -> None:
    used = Usage(prompt_tokens=prompt, completion_tokens=output, cached_tokens=cached, reasoning_tokens=reasoning)
    assert Tariff([price]).most_nano_usd(prompt, output) >= cost(price, used) * 10**9
