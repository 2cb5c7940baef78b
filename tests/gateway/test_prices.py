"""What models cost: the release's table, exact sums, and what a configuration says otherwise."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from gateway.cli.root import app
from gateway.config import Config
from gateway.config.load import parse_config
from gateway.prices import LongContext, Price, PriceTable, cost, shipped
from gateway.prices.overrides import overrides_of
from gateway.prices.table import decode
from gateway.record import Usage
from gateway.sse import EventFilter

PRICE = Price(
    input=Decimal("3"),
    output=Decimal("15"),
    cached_input=Decimal("0.3"),
    cache_write=Decimal("3.75"),
    reasoning=Decimal("20"),
    batch=Decimal("0.5"),
)
USAGE = Usage(
    prompt_tokens=1_000, completion_tokens=100, cached_tokens=600, cache_write_tokens=300, reasoning_tokens=40
)
TABLE = {
    "version": "1",
    "currency": "USD",
    "per_tokens": 1_000_000,
    "sources": {"s": {"what": "a list", "read": "2026-01-02"}},
    "models": {"m": {"source": "s", "input": 1, "output": 0.1}},
}


# The sum


def test_each_kind_of_token_has_its_price() -> None:
    """A07."""
    # 100 x 3 + 600 x 0.3 + 300 x 3.75 + 60 x 15 + 40 x 20 = 3305 millionths
    assert cost(PRICE, USAGE) == Decimal("0.003305")
    assert cost(PRICE, USAGE, batch=True) == Decimal("0.0016525")


def test_kinds_without_a_price_cost_what_their_whole_kind_does() -> None:
    plain = Price(input=Decimal("1.25"), output=Decimal("10"))
    assert cost(plain, USAGE) == Decimal("0.00225")
    assert cost(plain, USAGE, batch=True) == Decimal("0.00225")
    assert cost(Price(input=Decimal("0.02")), Usage(prompt_tokens=7)) == Decimal("0.00000014")


def test_a_long_prompt_changes_the_price_of_the_whole_request() -> None:
    long = LongContext(over_tokens=1_000, input=Decimal(2), output=Decimal(20))
    price = Price(input=Decimal(1), output=Decimal(10), long_context=long)
    assert cost(price, Usage(prompt_tokens=1_000, completion_tokens=1)) == Decimal("0.00101")
    assert cost(price, Usage(prompt_tokens=1_001, completion_tokens=1)) == Decimal("0.002022")


def test_counts_that_contradict_each_other_cost_no_more_than_the_whole() -> None:
    usage = Usage(prompt_tokens=10, cached_tokens=50, cache_write_tokens=50, completion_tokens=10, reasoning_tokens=50)
    assert cost(PRICE, usage) == Decimal("0.000203")


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9)), max_size=30))
def test_a_sum_of_costs_is_the_same_in_any_order(counts: list[tuple[int, int, int]]) -> None:
    """A07: recomputed from the records, the ledger is the same to the last digit."""
    costs = [cost(PRICE, Usage(prompt_tokens=a + b, cached_tokens=b, completion_tokens=c)) for a, b, c in counts]
    millionths = sum(a * 3_000 + b * 300 + c * 15_000 for a, b, c in counts)
    assert sum(costs, Decimal(0)) == sum(reversed(costs), Decimal(0)) == Decimal(millionths) / 10**9


def test_what_an_engine_wrote_to_its_cache_is_counted_in_streams() -> None:
    events = EventFilter(strip_usage=True)
    usage = {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 2, "cache_creation_tokens": 3}}
    events.feed(b"data: %b\n\n" % json.dumps({"choices": [], "usage": usage}).encode())
    assert events.usage == Usage(prompt_tokens=9, cached_tokens=2, cache_write_tokens=3)


# The table


def test_the_shipped_table_is_whole() -> None:
    table = shipped()
    assert len(table.models) >= 48
    assert {price.provider for price in table.models.values()} == {"openai", "anthropic", "google", "bedrock"}
    assert table.models["gpt-4o-mini"].cached_input == Decimal("0.075")
    assert shipped() is table
    assert repr(PriceTable(table)) == f"<PriceTable {table.version} models={len(table.models)} overrides=0>"


@pytest.mark.parametrize(
    ("model", "known_as"),
    [
        ("gpt-5-mini-2025-08-07", "gpt-5-mini"),
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5"),
        ("google/gemini-2.5-flash", "gemini-2.5-flash"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
    ],
)
def test_a_snapshot_costs_what_its_model_does_unless_it_has_a_price_of_its_own(model: str, known_as: str) -> None:
    assert PriceTable(shipped()).find(model) == shipped().models[known_as]


def test_a_model_that_nobody_knows_has_no_price() -> None:
    assert PriceTable(shipped()).find("gpt-99") is None


def test_decimal_fractions_are_read_as_they_are_written() -> None:
    assert decode(json.dumps(TABLE).encode()).models["m"].output == Decimal("0.1")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"currency": "EUR"}, "currency"),
        ({"per_tokens": 1000}, "per_tokens"),
        ({"extra": 1}, "extra"),
        ({"models": {"m": {"source": "s"}}}, "input"),
        ({"models": {"m": {"source": "s", "input": -1}}}, "input is -1"),
        ({"models": {"m": {"source": "s", "input": "NaN"}}}, "input is NaN"),
        ({"models": {"m": {"source": "s", "input": 1, "inptu": 2}}}, "inptu"),
        ({"models": {"m": {"source": "s", "input": 1, "batch": 1.5}}}, "batch is 1.5"),
        ({"models": {"m": {"source": "t", "input": 1}}}, "'t' of m"),
    ],
)
def test_a_table_that_is_not_right_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=said):
        decode(json.dumps(TABLE | change).encode())


# The configuration

CONFIG = """
prices:
  gpt-4o-mini: {input: 0.1, output: 0.3, cached_input: 0.025, batch: 0.5}
  llama: {input: 0.07, reasoning: 1, cache_write: 0.2}
"""


def config() -> Config:
    return parse_config(CONFIG)


def test_the_configuration_comes_before_the_table() -> None:
    table = PriceTable(shipped(), overrides_of(config()))
    found = table.find("gpt-4o-mini-2024-07-18")
    assert found == Price(
        source="configuration",
        input=Decimal("0.1"),
        output=Decimal("0.3"),
        cached_input=Decimal("0.025"),
        batch=Decimal("0.5"),
    )
    assert table.find("llama") == Price(
        source="configuration",
        input=Decimal("0.07"),
        output=Decimal("0.0"),
        reasoning=Decimal("1.0"),
        cache_write=Decimal("0.2"),
    )


# The command


def test_prices_are_listed_for_people() -> None:
    result = CliRunner().invoke(app, ["prices"], env={"HEADRACE_CONFIG": None})
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].split() == [
        "model",
        "input",
        "cached",
        "input",
        "cache",
        "write",
        "output",
        "reasoning",
        "batch",
        "source",
    ]
    assert any(line.split() == ["gpt-5", "1.25", "0.125", "10", "0.5", "openai-2025"] for line in lines)
    assert any(line.startswith("  prompts over 272,000 tokens") for line in lines)
    assert any(line.startswith("version ") for line in lines)


def test_prices_are_listed_for_programs_with_those_of_a_configuration(tmp_path: Path) -> None:
    file = tmp_path / "headrace.yaml"
    file.write_text(CONFIG)
    result = CliRunner().invoke(app, ["prices", "--json", "--config", str(file)])
    found = json.loads(result.output)
    assert found["models"]["llama"]["input"] == "0.07"
    assert found["models"]["gpt-5"]["output"] == "10"
    assert found["version"] == shipped().version


def test_a_configuration_that_is_wrong_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "headrace.yaml"
    file.write_text("prices: {m: {input: -1}}")
    assert CliRunner().invoke(app, ["prices", "--config", str(file)]).exit_code == 1
