"""What is kept of a call, and what it costs (A07)."""

from __future__ import annotations

import pytest

from gateway.record import Record, Usage
from gateway.usage.record import counts, outcome_of, plain
from gateway.usage.report import sum_of
from gateway.usage.store import day_of, parts_of
from tests.gateway.usage.calls import call, kept, pricing


def test_a07_cached_and_reasoning_tokens_are_priced_apart_and_exactly() -> None:
    record = call(prompt=1_000_003, cached=400_001, completion=7)
    # 600,002 x 2.5 + 400,001 x 1.25 + 7 x 10, for a million tokens
    assert kept(record).usd == "2.00007625"


def test_a07_the_version_of_the_prices_names_what_the_configuration_says_otherwise() -> None:
    plain_version = pricing().version
    assert "+" not in plain_version
    one, other = pricing(x={"input": 1}).version, pricing(x={"input": 2}).version
    assert one.startswith(f"{plain_version}+") and one != other
    assert pricing(x={"input": 1}, y={"input": 2}).version == pricing(y={"input": 2}, x={"input": 1}).version


def test_a_model_without_a_price_has_no_cost_and_is_not_free() -> None:
    record = kept(call(engine_model="our-own"))
    assert (record.usd, record.price_version) == ("", pricing().version)


def test_what_the_configuration_says_comes_before_the_table() -> None:
    assert kept(call(prompt=1_000_000, completion=0), prices=pricing(**{"gpt-4o": {"input": 0.07}})).usd == "0.07"


@pytest.mark.parametrize("record", [call(cache="hit"), call(prompt=0, completion=0, engine_model="")])
def test_what_no_engine_did_costs_nothing(record: Record) -> None:
    assert (kept(record).usd, kept(record).price_version) == ("0", "")


def test_a_record_tells_who_where_and_how_long() -> None:
    record = kept(call(team="a", key_id="0123456789ab", key_name="k", pool="p", replica="p-0", stream=True))
    assert (record.tenant, record.team, record.key_id, record.key_name) == ("acme", "a", "0123456789ab", "k")
    assert (record.deployment, record.variant, record.pool, record.replica) == ("chat", "v", "p", "p-0")
    assert (record.ttft_s, record.duration_s, record.stream) == (0.25, 1.5, True)
    assert kept(call(first_token_s=0.0)).ttft_s is None


@pytest.mark.parametrize(
    ("status", "error", "outcome"),
    [
        (200, "", "ok"),
        (200, "upstream_died", "cut"),
        (429, "rate_limit_exceeded", "refused"),
        (503, "no_healthy_backend", "failed"),
        (499, "client_disconnected", "abandoned"),
    ],
)
def test_an_outcome_says_how_a_call_ended(status: int, error: str, outcome: str) -> None:
    assert outcome_of(call(status=status, error_type=error)) == outcome


def test_only_model_calls_that_reached_admission_count() -> None:
    assert counts(call()) and counts(call(status=429, error_type="rate_limit_exceeded"))
    assert not counts(call(operation=""))
    assert not counts(call(sensitivity="", status=404, error_type="model_not_found"))
    assert not counts(call(status=403, error_type="residency_violation"))


def test_the_usage_of_a_record_is_that_of_the_call() -> None:
    usage = Usage(100, 10, 7, 3, 5, estimated=True)
    assert kept(call(usage=usage)).usage == usage


@pytest.mark.parametrize("usd", ["0", "0.000000012", "12.345678901234567891", "1000000.000000000000000001", ""])
def test_money_as_integers_is_the_same_money(usd: str) -> None:
    assert plain(sum_of(*parts_of(usd))) == (usd or "0")


def test_a_day_is_one_in_utc() -> None:
    assert day_of(1_795_348_800.0) == 20261122
    assert (day_of(0.0), day_of(86_399.9), day_of(86_400.0)) == (19700101, 19700101, 19700102)
