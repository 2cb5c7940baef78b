"""What people are told of the response cache, and what they may do to it: reports, entries, purges, feedback."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cache.entry import Judged, Purged, Quarantined, Record, Selector
from cache.journal.sqlite import SqliteJournal
from cache.planted import JudgeError
from cache.semantics.seam import CohortStatus
from gateway.caching.asking import EVERYBODY
from gateway.caching.desk import REPORT
from gateway.caching.judge import Labeller
from gateway.caching.metrics import watch_cache
from gateway.caching.report import CacheReport, merge_reports
from gateway.cli import app
from gateway.cli.cache_output import summary
from gateway.clock import RealClock
from gateway.config.cache_options import JudgeOptions
from gateway.errors import NotFound
from gateway.identity import ANYBODY, Caller
from tests.gateway.caching.desks import NOW, desk_of, entry, library_of
from tests.gateway.caching.labelling import answer, completion, own_calls, wish
from tests.harness import CHAT, Json, Server, chat, config_of, engine_by_hand, engine_running, nobody, serving, whole

KEYS: list[Json] = [
    {"name": "ops", "key": "sk-ops", "tenant": "ops", "admin": True},
    {"name": "a", "key": "sk-a", "tenant": "a"},
    {"name": "b", "key": "sk-b", "tenant": "b"},
]
OF_A = {"tenant": "a", "cohort": "a/m"}
ADMIN = "/admin/cache"
JSON = {"content-type": "application/json"}


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer sk-{name}"} | JSON


def certified(monkeypatch: pytest.MonkeyPatch, desk: Any, name: str, **more: Any) -> None:
    """Have a cohort say that it is certified."""
    known: Json = {"state": "certified", "cut": 0.9, "bound": 0.01, "labels": 500, "hits": 90, "audited": 20}
    status = CohortStatus(**(known | {"audited_wrong": 1, "interval": (0.001, 0.25)} | more))
    cohort = desk.library.cohort(name)
    learned: list[Judged] = []

    class Certified:
        def __getattr__(self, attribute: str) -> Any:
            return getattr(cohort, attribute)

        def status(self) -> CohortStatus:
            return status

        def learn(self, judged: Judged) -> None:
            learned.append(judged)

    monkeypatch.setitem(desk.library.cohorts, name, Certified())
    desk.learned = learned


def cli(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["cache", *arguments], env={"HEADRACE_URL": None, "HEADRACE_KEY": None})


# Reports


def test_a_report_tells_what_there_is_and_what_it_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = desk_of(entry(1), entry(2))
    desk.library.hit(entry(1).id)
    desk.tally.saved(entry(1))
    desk.tally.looked_up("exact", hit=True)
    desk.tally.looked_up("exact", hit=False)
    desk.tally.refused("semantic", "tool_result")
    certified(monkeypatch, desk, "default/m")
    found = desk.report()
    assert (found.workers, found.entries, found.hits) == ([0], 2, {"exact": 1, "semantic": 0})
    assert (found.misses, found.refusals) == ({"exact": 1}, {"semantic: tool_result": 1})
    assert (found.saved_tokens, found.saved_s, found.saved_usd) == (1001, 1.5, 0.002)
    (cohort,) = found.cohorts
    assert (cohort.tenant, cohort.deployment, cohort.state, cohort.cut) == ("default", "m", "certified", 0.9)
    assert (cohort.bound, cohort.stated_bound) == (0.01, 0.01)
    assert (cohort.audited.wrong, cohort.audited.of, cohort.audited.high) == (1, 20, 0.25)
    assert found.judge.deployment == ""
    assert "exact" in repr(desk.tally)


def test_workers_are_summed_where_each_did_its_own_and_not_where_all_have_the_same() -> None:
    one, other = desk_of(entry(1), worker_id=1), desk_of(entry(1), entry(2), worker_id=0)
    for desk, hits in ((one, 2), (other, 3)):
        desk.library.cohort("default/m")
        for _ in range(hits):
            desk.library.hit(entry(1).id)
            desk.tally.saved(entry(1))
            desk.tally.refused("exact", "n")
    one.library.cohort("x/m")
    total = merge_reports([one.report(), other.report()])
    assert (total.workers, total.entries, total.hits["exact"]) == ([0, 1], 2, 5)
    assert total.size_bytes == one.library.size_bytes + other.library.size_bytes
    assert total.refusals == {"exact: n": 5}
    assert total.saved_usd == pytest.approx(0.01)
    assert [(c.tenant, c.deployment) for c in total.cohorts] == [("default", "m"), ("x", "m")]


async def test_the_whole_gateway_is_asked_for_a_report() -> None:
    other = desk_of(entry(1), entry(2), worker_id=1)
    told: list[bytes] = []

    async def spread(message: bytes) -> list[bytes]:
        told.append(message)
        return [desk.take(message), other.take(message), b""]

    desk = desk_of(entry(1), spread=spread)
    found = await desk.overall()
    assert (found.workers, found.entries, told) == ([0, 1], 2, [REPORT])


async def test_what_one_worker_purges_or_withdraws_is_gone_from_all_at_once() -> None:
    other = desk_of(entry(1), entry(2), entry(3), worker_id=1)
    records: list[Record] = []

    async def spread(message: bytes) -> list[bytes]:
        return [other.take(message)]

    desk = desk_of(entry(1), entry(2), entry(3), spread=spread, told=records)
    assert (await desk.purge(Selector(id=entry(1).id), "ops", dry_run=True)).entries == 1
    assert len(other.library) == 3
    assert records == []
    purged = await desk.purge(Selector(id=entry(1).id), "ops", dry_run=False)
    assert (purged.entries, purged.dry_run, len(desk.library), len(other.library)) == (1, False, 2, 2)
    taken = await desk.feedback(ANYBODY, entry(2).id, wrong=True)
    assert (taken.quarantined, len(desk.library), len(other.library)) == (1, 1, 1)
    assert [type(record) for record in records] == [Purged, Quarantined]
    assert (await desk.feedback(ANYBODY, entry(3).id, wrong=False)).quarantined == 0
    assert len(desk.library) == 1


async def test_a_complaint_counts_against_the_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = desk_of(entry(1, vector=b"\0\0" * 4, embedder="e", partition=b"p" * 32))
    certified(monkeypatch, desk, "default/m")
    await desk.feedback(ANYBODY, entry(1).id, wrong=True)
    (complaint,) = desk.learned  # type: ignore[attr-defined]
    assert (complaint.source, complaint.equal, complaint.look.candidate) == ("feedback", False, entry(1).id)
    assert complaint.look.score == 0.9


async def test_feedback_on_others_entries_is_answered_like_that_on_none() -> None:
    desk = desk_of(entry(1, **OF_A))
    messages = []
    for entry_id in (entry(1).id, entry(2).id):
        with pytest.raises(NotFound) as raised:
            await desk.feedback(Caller("b", "b"), entry_id, wrong=True)
        messages.append(raised.value.message.replace(entry_id, "ID"))
    assert messages[0] == messages[1]
    assert len(desk.library) == 1


async def test_an_answer_that_all_tenants_share_is_shown_to_any_of_them() -> None:
    desk = desk_of(entry(1, tenant=EVERYBODY))
    assert (await desk.inspect(entry(1).id, Caller("b", "b"))).answer == "answer 1"


# Routes


async def test_a21_feedback_takes_a_key_of_the_tenant_that_owns_the_answer() -> None:
    async with engine_running() as engine, serving(config_of(engine, keys=KEYS)) as server:
        desk = server.gateway.desk = desk_of(entry(1, **OF_A))
        path = f"/v1/cache/{entry(1).id}/feedback"
        assert (await server.post(path, {"wrong": True}, **JSON)).status_code == 401
        refused = await server.post(path, {"wrong": True}, **bearer("b"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "cache_entry_not_found")
        wrong_type = await server.post(path, {"wrong": "yes"}, **bearer("a"))
        assert wrong_type.status_code == 400
        assert len(desk.library) == 1
        taken = await server.post(path.removeprefix("/v1"), {"wrong": True}, **bearer("a"))
        assert (taken.status_code, taken.json()) == (200, {"quarantined": 1, "hidden": 0})
        assert len(desk.library) == 0
        assert (await server.post(path, {"wrong": True}, **bearer("a"))).status_code == 404


async def test_reports_entries_and_purges_take_a_key_for_administration() -> None:
    async with engine_running() as engine, serving(config_of(engine, keys=KEYS)) as server:
        desk = server.gateway.desk = desk_of(entry(1, **OF_A), entry(2, tenant="ops", tags=("handbook",)))
        for path in (ADMIN, f"{ADMIN}/entries/{entry(1).id}"):
            assert (await server.get(path, **bearer("a"))).status_code == 403
        assert (await server.post(f"{ADMIN}/purge", {"everything": True}, **bearer("a"))).status_code == 403
        assert CacheReport.model_validate((await server.get(ADMIN, **bearer("ops"))).json()).entries == 2
        theirs = (await server.get(f"{ADMIN}/entries/{entry(1).id}", **bearer("ops"))).json()
        assert (theirs["question"], theirs["answer"], theirs["tenant"]) == (None, None, "a")
        assert len(theirs["question_sha256"]) == 64
        own = (await server.get(f"{ADMIN}/entries/{entry(2).id}", **bearer("ops"))).json()
        assert (own["question"], own["answer"], own["tags"]) == ("question 2", "answer 2", ["handbook"])
        assert (await server.get(f"{ADMIN}/entries/x", **bearer("ops"))).status_code == 404
        for nothing in ({}, {"everything": True, "tag": "x"}):
            refused = await server.post(f"{ADMIN}/purge", nothing, **bearer("ops"))
            assert refused.status_code == 400
        wanted: Json = {"tag": "handbook", "dry_run": True}
        assert (await server.post(f"{ADMIN}/purge", wanted, **bearer("ops"))).json()["entries"] == 1
        assert len(desk.library) == 2
        await server.post(f"{ADMIN}/purge", {"everything": True}, **bearer("ops"))
        assert len(desk.library) == 0


async def test_where_the_cache_is_off_its_routes_say_so() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        server.gateway.desk = None
        for answered in (await server.get(ADMIN), await server.post("/cache/x/feedback", {"wrong": True}, **JSON)):
            assert (answered.status_code, answered.json()["error"]["code"]) == (404, "cache_off")


# Metrics


def labeller_of(server: Server, **more: Any) -> Labeller:
    options = JudgeOptions(deployment="m")
    rng, error = random.Random(1), JudgeError()
    return Labeller(options, own_calls(server), print, RealClock(), rng, error=error, max_wrong=0.01, **more)


async def test_metrics_tell_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        telemetry = server.gateway.telemetry
        labeller = labeller_of(server, lag=telemetry.label_lag)
        desk = desk_of(entry(1), labeller=labeller, judge="m")
        certified(monkeypatch, desk, "default/m")
        watch_cache(telemetry, desk)
        labeller.want(wish("4", "4."))
        labeller.want(wish("a long answer about spades", "about spades, this is an answer"))
        labeller.error.learn("x", same=False, said=True)
        labeller.asked["same"] += 1
        labeller.nano_usd = 5_000_000
        desk.flights.joined, desk.flights.taken_over = 3, 1
        desk.tally.looked_up("semantic", hit=True)
        desk.tally.refused("store", "truncated")
        desk.tally.saved(entry(1))
        await desk.purge(Selector(), "ops", dry_run=False)
        found = await server.metrics()
        cohort = 'deployment="m"'
        assert {name: found[name] for name in found if name.startswith("headrace_cache") and "_lag_" not in name} == {
            'headrace_cache_lookups_total{result="hit",tier="semantic"}': 1,
            'headrace_cache_refusals_total{cause="truncated",tier="store"}': 1,
            'headrace_cache_saved_tokens_total{deployment="m",type="input"}': 1000,
            'headrace_cache_saved_tokens_total{deployment="m",type="output"}': 1,
            'headrace_cache_saved_seconds_total{deployment="m"}': 1.5,
            'headrace_cache_saved_usd_total{deployment="m"}': 0.002,
            "headrace_cache_entries": 0,
            "headrace_cache_bytes": 0,
            'headrace_cache_dropped_total{cause="purged"}': 1,
            'headrace_cache_cohorts{standing="certified"}': 1,
            f'headrace_cache_certified_bound_ratio{{{cohort},tenant="default"}}': 0.01,
            f'headrace_cache_audited_error_ratio{{{cohort},estimate="observed",tenant="default"}}': 0.05,
            f'headrace_cache_audited_error_ratio{{{cohort},estimate="low",tenant="default"}}': 0.001,
            f'headrace_cache_audited_error_ratio{{{cohort},estimate="high",tenant="default"}}': 0.25,
            "headrace_cache_joined_total": 3,
            "headrace_cache_taken_over_total": 1,
            "headrace_cache_joined_bytes": 0,
            "headrace_cache_store_away_seconds": 0,
            "headrace_cache_store_waiting": 0,
            "headrace_cache_store_dropped_total": 0,
            'headrace_cache_labels_total{label="rules",wish="miss"}': 1,
            "headrace_cache_labels_waiting": 1,
            "headrace_cache_labels_dropped_total": 0,
            'headrace_cache_judge_calls_total{verdict="same"}': 1,
            "headrace_cache_judge_shed_total": 0,
            "headrace_cache_judge_usd_total": 0.005,
            'headrace_cache_judge_error_ratio{estimate="observed",pairs="different"}': 1,
            'headrace_cache_judge_error_ratio{estimate="low",pairs="different"}': pytest.approx(0.025),
            'headrace_cache_judge_error_ratio{estimate="high",pairs="different"}': 1,
            "headrace_cache_judge_unfit": 1,
        }
        assert found['headrace_cache_label_lag_seconds_bucket{le="0.001"}'] == 1
        judge = desk.report().judge
        assert (judge.deployment, judge.asked, judge.labels, judge.waiting) == ("m", {"same": 1}, {"rules": 1}, 1)
        assert desk.report().cohorts[0].stated_bound == 1.0


async def test_a_store_that_is_away_is_told_of_with_what_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("not a folder")
    now_s = [NOW]
    journal = SqliteJournal(tmp_path / "state" / "cache.sqlite", lambda: now_s[0])
    desk, other = desk_of(entry(1), store=journal.status), desk_of(entry(1), worker_id=1)
    await journal.start(desk.library, 10.0)
    try:
        journal.append(Quarantined((entry(2).id,), NOW, "ops"))
        now_s[0] += 90.0
        report = merge_reports([other.report(), desk.report()])
        store = report.store
        assert (store.kind, store.away, store.away_s, store.waiting, store.dropped) == ("sqlite", 1, 90.0, 1, 0)
        assert str(tmp_path) in store.reason
        (figures,) = summary(report)
        said = dict(zip(*(list(column.cells) for column in figures.columns), strict=True))
        assert f"{said['store']}".startswith("sqlite: away for 90 s in 1 workers (")
        assert f"{said['store']}".endswith("; 1 records waiting, 0 lost")
        async with engine_running() as engine, serving(config_of(engine)) as server:
            watch_cache(server.gateway.telemetry, desk)
            found = await server.metrics()
        assert found["headrace_cache_store_away_seconds"] == 90
        assert found["headrace_cache_store_waiting"] == 1
    finally:
        await journal.aclose()


# The command


async def test_the_command_shows_purges_and_inspects(monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine_running() as engine, serving(config_of(engine, keys=KEYS)) as server:
        labeller = labeller_of(server)
        desk = server.gateway.desk = desk_of(entry(1, **OF_A), entry(2, tenant="ops"), labeller=labeller, judge="m")
        certified(monkeypatch, desk, "a/m", audited=0, audited_wrong=0)
        desk.library.cohort("b/m")
        at = ("--url", server.url, "--key", "sk-ops")
        shown = await asyncio.to_thread(cli, "stats", *at)
        assert shown.exit_code == 0, shown.output
        parts = ("entries", "in 1 workers of 1.0 MiB each", "certified", "1.00%", "not known", "cold", "judge")
        for part in (*parts, "memory: ok; 0 records waiting, 0 lost", "0 calls to others that asked the same"):
            assert part in shown.output
        for name in "abcdefghij":
            labeller.error.learn(name, same=False, said=True)
        warned = " ".join((await asyncio.to_thread(cli, "stats", *at)).output.split())
        assert "warning serves nothing semantic: the judge m takes 100% of different answers" in warned
        as_json = await asyncio.to_thread(cli, "stats", "--json", *at)
        assert CacheReport.model_validate_json(as_json.output).entries == 2
        theirs = await asyncio.to_thread(cli, "inspect", entry(1).id, *at)
        assert "question 1" not in theirs.output
        assert theirs.output.count("SHA-256") == 2
        own = await asyncio.to_thread(cli, "inspect", entry(2).id, *at)
        assert "answer 2" in own.output
        assert "answer 2" in (await asyncio.to_thread(cli, "inspect", entry(2).id, "--json", *at)).output
        missing = await asyncio.to_thread(cli, "inspect", "none", *at)
        assert (missing.exit_code, "There is no cache entry 'none'" in missing.output) == (1, True)
        dry = await asyncio.to_thread(cli, "purge", "--tenant", "a", "--dry-run", *at)
        assert dry.output.startswith("1 entry, ")
        assert dry.output.endswith("would go\n")
        assert len(desk.library) == 2
        gone = await asyncio.to_thread(cli, "purge", "--tenant", "a", "--json", *at)
        assert '"entries": 1' in gone.output
        assert len(desk.library) == 1
        refused = await asyncio.to_thread(cli, "purge", *at)
        assert (refused.exit_code, "Say what is to be purged" in refused.output) == (1, True)
        everything = await asyncio.to_thread(cli, "purge", "--all", *at)
        assert everything.output.endswith("gone\n")
        assert len(desk.library) == 0


def test_the_command_says_when_nobody_answers() -> None:
    with nobody() as url:
        found = cli("stats", "--url", url)
    assert found.exit_code == 1
    assert "/admin/cache" in found.output


def test_what_a_purge_would_take_is_what_it_takes() -> None:
    entries = [entry(i, epoch=i, model=f"m-{i % 2}", answer=answer("x" * i)) for i in range(1, 6)]
    library = library_of(*entries)
    selector = Selector(model="m-1", before_epoch=4)
    assert library.preview(selector).entries == 2
    library.apply(Purged(selector, NOW, "ops"))
    assert len(library) == 3


async def test_where_workers_share_no_store_the_one_is_found_that_has_the_entry() -> None:
    other = desk_of(entry(1, **OF_A), worker_id=1)

    async def spread(message: bytes) -> list[bytes]:
        return [desk.take(message), other.take(message)]

    desk = desk_of(entry(2), spread=spread)
    assert (await desk.inspect(entry(1).id, Caller("a", "a"))).answer == "answer 1"
    assert (await desk.inspect(entry(1).id, Caller("b", "b"))).answer is None
    with pytest.raises(NotFound):
        await desk.feedback(Caller("b", "b"), entry(1).id, wrong=True)
    assert (await desk.feedback(Caller("a", "a"), entry(1).id, wrong=False)).quarantined == 0
    assert len(other.library) == 1
    assert (await desk.feedback(Caller("a", "a"), entry(1).id, wrong=True)).quarantined == 1
    assert len(other.library) == 0
    with pytest.raises(NotFound):
        await desk.inspect(entry(1).id, Caller("a", "a"))


async def test_a_purge_also_takes_what_was_being_answered_when_it_came() -> None:
    cache = {"enabled": True, "store": "memory"}
    async with engine_by_hand() as engine, serving(config_of(engine.url, cache=cache)) as server:
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(server.post(CHAT, chat()))
            turn = await engine.turn()
            await server.post(f"{ADMIN}/purge", {"everything": True}, **JSON)
            turn.send(whole(completion("of before")))
        assert asking.result().headers["x-headrace-cache"] == "miss"
        async with asyncio.TaskGroup() as group:
            again = group.create_task(server.post(CHAT, chat()))
            (await engine.turn()).send(whole(completion("of after")))
        assert again.result().headers["x-headrace-cache"] == "miss"
        kept = await server.post(CHAT, chat())
        assert (kept.headers["x-headrace-cache"], "of after" in kept.text) == ("hit", True)
