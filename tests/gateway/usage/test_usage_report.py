"""Sums by anything, exact on both databases, and the same once more from the records (A07)."""

from __future__ import annotations

import csv
import datetime
import io
import json
import random
from collections.abc import Iterator
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, update

from gateway.database import Database, open_database
from gateway.record import Usage
from gateway.usage import intake as intake_module
from gateway.usage.frames import Item
from gateway.usage.intake import Intake
from gateway.usage.recompute import recompute
from gateway.usage.record import Pricing, Tariff, UsageRecord
from gateway.usage.report import By, Line, Query, csv_of, report
from gateway.usage.store import store
from gateway.usage.tables import usage
from tests.gateway.usage.calls import MODEL, call, kept, pricing

NOON = 1_795_348_800.0
"""On 2026-11-22."""
DAY_S = 86_400.0


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url)
    yield opened
    opened.close()


def put_in(database: Database, records: list[UsageRecord], prices: Pricing | None = None) -> None:
    prices = prices or pricing()
    items: list[Item] = [*records]
    for model in {record.engine_model for record in records}:
        price = prices.price(model)
        if price is not None:
            items.append(Tariff(prices.version, model, price))
    with database.write() as connection:
        store(connection, items)


def of(line: Line, *names: str) -> tuple[Any, ...]:
    return tuple(getattr(line, name) for name in names)


def test_without_calls_a_report_is_zeros(database: Database) -> None:
    found = report(database, Query(by=(By.TENANT,)))
    assert found.lines == [] and of(found.total, "calls", "prompt_tokens", "usd") == (0, 0, "0")


def test_calls_are_summed_by_what_is_asked_for(database: Database) -> None:
    records = [
        kept(call(prompt=1, completion=0), "a", NOON),
        kept(call(prompt=2, completion=0, tenant="beta"), "b", NOON),
        kept(call(prompt=4, completion=0), "c", NOON + DAY_S),
        kept(call(prompt=8, completion=0), "d", NOON + 10 * DAY_S),
    ]
    put_in(database, records)
    by_day = report(database, Query(by=(By.DAY, By.TENANT)))
    assert [of(line, "day", "tenant", "prompt_tokens") for line in by_day.lines] == [
        ("2026-11-22", "acme", 1),
        ("2026-11-22", "beta", 2),
        ("2026-11-23", "acme", 4),
        ("2026-12-02", "acme", 8),
    ]
    by_month = report(database, Query(by=(By.MONTH,)))
    assert [of(line, "month", "calls", "usd") for line in by_month.lines] == [
        ("2026-11", 3, "0.0000175"),
        ("2026-12", 1, "0.00002"),
    ]
    assert of(by_month.total, "calls", "prompt_tokens", "usd") == (4, 15, "0.0000375")


def test_teams_and_keys_of_the_same_name_in_two_organisations_are_two(database: Database) -> None:
    records = [
        kept(call(tenant=tenant, team=team, key_name="ci", key_id=key_id), f"{tenant}{team}{key_id}")
        for tenant, team, key_id in product(("acme", "beta"), ("", "ops"), ("1", "2"))
    ]
    put_in(database, records)
    teams = report(database, Query(by=(By.TEAM,))).lines
    assert [of(line, "tenant", "team", "calls") for line in teams] == [
        ("acme", "", 2),
        ("acme", "ops", 2),
        ("beta", "", 2),
        ("beta", "ops", 2),
    ]
    keys = report(database, Query(by=(By.KEY,), tenant="beta", team="ops")).lines
    assert [of(line, "tenant", "key", "key_id", "calls") for line in keys] == [
        ("beta", "ci", "1", 1),
        ("beta", "ci", "2", 1),
    ]


def test_a_report_filters_by_days_and_names(database: Database) -> None:
    put_in(
        database, [kept(call(deployment=f"d{i % 2}", key_name=f"k{i % 3}"), f"{i}", NOON + i * DAY_S) for i in range(6)]
    )
    day = datetime.date(2026, 11, 22)

    def calls(**filters: Any) -> int:
        return report(database, Query(**filters)).total.calls

    assert calls(since=day, until=day) == 1
    assert calls(since=day + datetime.timedelta(2)) == 4
    assert calls(until=day + datetime.timedelta(2)) == 3
    assert (calls(deployment="d1"), calls(key="k2"), calls(deployment="d1", key="k1")) == (3, 2, 1)
    assert (calls(tenant="nobody"), calls(team="")) == (0, 6)


def test_a_report_tells_how_calls_ended_and_what_is_not_known(database: Database) -> None:
    records = [
        kept(call(), "ok"),
        kept(call(status=429, error_type="rate_limit_exceeded", usage=Usage()), "refused"),
        kept(call(error_type="upstream_died"), "cut"),
        kept(call(status=499, error_type="client_disconnected"), "gone"),
        kept(call(engine_model="our-own", usage=Usage(5, 5, estimated=True)), "unpriced"),
    ]
    put_in(database, records)
    total = report(database, Query()).total
    assert of(total, "calls", "refused", "failed", "estimated", "unpriced") == (5, 1, 2, 1, 1)


def test_csv_has_a_head_the_groups_and_the_sums(database: Database) -> None:
    put_in(database, [kept(call(variant=name), name) for name in "ab"])
    rows = list(csv.DictReader(io.StringIO(csv_of(report(database, Query(by=(By.VARIANT,)))))))
    assert [(row["deployment"], row["variant"], row["calls"], row["usd"]) for row in rows] == [
        ("chat", "a", "1", "0.00035"),
        ("chat", "b", "1", "0.00035"),
    ]
    assert list(rows[0])[:3] == ["deployment", "variant", "calls"]
    (total,) = csv.DictReader(io.StringIO(csv_of(report(database, Query()))))
    assert total["calls"] == "2"


def test_a_report_in_json_has_money_as_text_and_groups_by_name(database: Database) -> None:
    put_in(database, [kept(call(), "a")])
    found = json.loads(report(database, Query(by=(By.TENANT,))).model_dump_json(exclude_none=True))
    assert found["by"] == ["tenant"] and found["lines"][0]["tenant"] == "acme" and found["total"]["usd"] == "0.00035"
    assert "team" not in found["lines"][0]


def test_a07_sums_of_many_random_calls_are_exact_and_the_same_when_recomputed(database: Database) -> None:
    rng = random.Random(7)
    prices = pricing(cheap={"input": 0.0123, "output": 0.045678, "cached_input": 0.00123, "reasoning": 0.1})
    records = [
        kept(
            call(
                engine_model=rng.choice([MODEL, "cheap", "gpt-5.4", "our-own", "claude-opus-4-1"]),
                tenant=rng.choice("abc"),
                usage=Usage(rng.randrange(400_000), rng.randrange(9_000), rng.randrange(9_000), rng.randrange(5_000)),
            ),
            f"{number}",
            prices=prices,
        )
        for number in range(500)
    ]
    put_in(database, records, prices)
    truth = sum((Decimal(record.usd or 0) for record in records), Decimal(0))
    found = report(database, Query(by=(By.TENANT,)))
    assert Decimal(found.total.usd) == truth
    assert sum((Decimal(line.usd) for line in found.lines), Decimal(0)) == truth
    again = recompute(database, Query(), prices.version)
    assert (Decimal(again.recomputed_usd), again.difference_usd, again.wrong.calls) == (truth, "0", 0)
    assert (again.calls, again.not_kept.calls, again.other_versions) == (500, 0, {})


def test_a07_calls_reckoned_by_other_prices_are_named_and_still_come_to_the_same(database: Database) -> None:
    """A new release, or new prices in the configuration, change nothing of what was reckoned before."""
    before, now = pricing(x={"input": 1}), pricing(x={"input": 3})
    put_in(database, [kept(call(engine_model="x", completion=0), "old", prices=before)], before)
    put_in(database, [kept(call(engine_model="x", completion=0), "new", prices=now)], now)
    again = recompute(database, Query(), now.version)
    assert (again.usd, again.recomputed_usd) == ("0.0004", "0.0004")
    assert again.other_versions == {before.version: again.other_versions[before.version]}
    assert again.other_versions[before.version].ids == ["old"]


def test_a07_a_record_that_was_tampered_with_is_found(database: Database) -> None:
    put_in(database, [kept(call(), f"{number}") for number in range(3)])
    with database.write() as connection:
        connection.execute(update(usage).where(usage.c.id == "1").values(usd="9"))
    again = recompute(database, Query(), pricing().version)
    assert (again.wrong.ids, again.wrong.calls, again.difference_usd) == (["1"], 1, "0")
    with database.write() as connection:
        connection.execute(update(usage).where(usage.c.id == "2").values(prompt_tokens=1))
        connection.execute(delete(usage).where(usage.c.id == "0"))
    again = recompute(database, Query(), pricing().version)
    assert (again.wrong.ids, again.missing, again.calls) == (["1", "2"], 1, 2)
    assert Decimal(again.difference_usd) == Decimal("-0.00035") - 99 * Decimal("0.0000025")


def test_records_that_come_again_are_summed_once(database: Database) -> None:
    one, other = kept(call(), "one"), kept(call(), "other")
    put_in(database, [one, one])
    put_in(database, [one, other, other])
    total = report(database, Query()).total
    assert of(total, "calls", "prompt_tokens", "usd") == (2, 200, "0.0007")


def test_sums_outlive_the_records_and_are_then_not_compared(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in(database, [kept(call(), f"{age}", NOON - age * DAY_S) for age in (0, 1, 2, 3)])
    monkeypatch.setattr(intake_module, "wall_time_s", lambda: NOON)
    assert Intake(database, tmp_path).prune(1) == 2
    assert of(report(database, Query()).total, "calls", "usd") == (4, "0.0014")
    again = recompute(database, Query(), pricing().version)
    assert (again.since, again.calls, again.missing) == ("2026-11-21", 2, 0)
    assert (again.usd, again.difference_usd) == ("0.0007", "0")
    Intake(database, tmp_path).prune(30)
    assert recompute(database, Query(), pricing().version).since == "2026-11-21"


def test_calls_whose_prices_are_not_kept_are_named(database: Database) -> None:
    with database.write() as connection:
        store(connection, [kept(call(), "a")])
    again = recompute(database, Query(), pricing().version)
    assert again.not_kept.ids == ["a"] and again.difference_usd == "0"
