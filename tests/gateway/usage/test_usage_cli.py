"""`headrace usage`, as people call it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from gateway.database import open_database
from gateway.prices import PriceTable, shipped
from gateway.usage.intake import Intake
from gateway.usage.record import version_of
from gateway.usage.store import forget_before, store
from gateway.usage.tables import usage
from tests.gateway.test_cli import Answer
from tests.gateway.usage.calls import call, kept, pricing, spool_in


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Of a gateway that has served six calls of two organisations."""
    spool = spool_in(tmp_path / "usage")
    for number in range(6):
        spool.append(call(number, tenant="acme" if number % 3 else "beta", prompt=1_000_000, completion=0))
    spool.close()
    database = open_database(f"sqlite:///{tmp_path}/db")
    Intake(database, tmp_path / "usage").take_in()
    database.close()
    file = tmp_path / "headrace.yaml"
    file.write_text(json.dumps({"database": {"url": f"sqlite:///{tmp_path}/db"}}))
    return file


def asked(config: Path, *args: str) -> Answer:
    return Answer("usage", "--config", str(config), *args)


def test_usage_is_shown_by_organisation_with_a_total(config: Path) -> None:
    lines = [line.split() for line in asked(config).out.splitlines() if line.strip()]
    head = ["TENANT", "CALLS", "REFUSED", "FAILED", "PROMPT", "CACHED", "COMPLETION", "UNPRICED", "USD"]
    assert lines == [
        head,
        ["acme", "4", "0", "0", "4,000,000", "0", "0", "0", "10"],
        ["beta", "2", "0", "0", "2,000,000", "0", "0", "0", "5"],
        ["total", "6", "0", "0", "6,000,000", "0", "0", "0", "15"],
    ]


def test_without_groups_the_total_is_shown(config: Path) -> None:
    assert asked(config, "--by", "", "--tenant", "beta").out.splitlines()[-1].split()[-1] == "5"


def test_usage_as_json_and_as_csv_say_the_same(config: Path) -> None:
    found = json.loads(asked(config, "--by", "tenant,deployment", "--json").out)
    rows = list(csv.DictReader(io.StringIO(asked(config, "--by", "tenant,deployment", "--csv").out)))
    assert [line["usd"] for line in found["lines"]] == [row["usd"] for row in rows] == ["10", "5"]
    assert [row["tenant"] for row in rows] == ["acme", "beta"]


def test_days_and_names_filter(config: Path) -> None:
    assert json.loads(asked(config, "--json", "--from", "2999-01-01").out)["total"]["calls"] == 0
    assert json.loads(asked(config, "--json", "--to", "2000-01-01").out)["total"]["calls"] == 0
    assert json.loads(asked(config, "--json", "--tenant", "beta", "--team", "").out)["total"]["calls"] == 2


def test_a07_recompute_says_that_the_sums_are_the_same(config: Path) -> None:
    answer = asked(config, "--recompute")
    assert answer.status == 0 and "6 calls cost 15 USD" in answer.out and "the sums are the same" in answer.out
    assert json.loads(asked(config, "--recompute", "--json").out)["difference_usd"] == "0"


def test_a07_recompute_names_what_differs_and_fails(config: Path, tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/db")
    older = pricing(x={"input": 1})
    with database.write() as connection:
        store(connection, [kept(call(engine_model="x"), "other", prices=older)])
        connection.execute(update(usage).where(usage.c.request_id == "req_1").values(usd="2"))
        connection.execute(delete(usage).where(usage.c.request_id == "req_2"))
        forget_before(connection, 20000101)
    database.close()
    answer = asked(config, "--recompute")
    assert answer.status == 1
    assert "records before 2000-01-01 were deleted" in answer.out
    assert "1 calls were summed, and their records are gone" in answer.out and "difference -2.5 USD" in answer.out
    assert "1 calls (other): reckoned by prices of version " + older.version in answer.out
    assert "the prices that they were reckoned by are not kept" in answer.out
    assert "their records say another amount" in answer.out


def test_a_single_call_is_found_by_its_request_id(config: Path) -> None:
    (found,) = json.loads(asked(config, "--request-id", "req_3").out)["calls"]
    assert (found["tenant"], found["usd"], found["outcome"]) == ("beta", "2.5", "ok")
    assert json.loads(asked(config, "--request-id", "req_3", "--tenant", "acme").out)["calls"] == []


def test_wrong_words_are_told_with_the_right_ones(config: Path, tmp_path: Path) -> None:
    answer = asked(config, "--by", "week")
    assert answer.status == 2 and "month" in answer.err
    assert asked(config, "--csv", "--json").status == 2
    without = tmp_path / "without.yaml"
    without.write_text("{}")
    answer = asked(without)
    assert answer.status == 1 and "has no `database`" in answer.err
    broken = tmp_path / "broken.yaml"
    broken.write_text("database: {url: 'sqlite:////no/such/folder/db'}")
    answer = asked(broken)
    assert answer.status == 1 and "/no/such/folder" in answer.err
    broken.write_text("data_base: {}")
    assert asked(broken).status == 1


def test_the_version_is_the_tables_own_where_nothing_is_configured() -> None:
    assert version_of(PriceTable(shipped())) == shipped().version
