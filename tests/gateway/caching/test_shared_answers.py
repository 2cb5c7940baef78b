"""Answers that tenants share: how they come to be everybody's, and how they are withdrawn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cache.entry import Added, Judged, Objected, Purged, Quarantined, Record, Selector, Voted
from cache.journal.seam import decoded, encoded
from cache.journal.sqlite import SqliteJournal
from cache.library import Library
from cache.votes import MOST, MOST_TENANTS, Votes
from engines.fake import FakeEngine
from gateway.caching.asking import EVERYBODY
from gateway.identity import Caller
from tests.gateway.caching.desks import NOW, desk_of, entry, library_of
from tests.harness import CHAT, Json, Server, chat, config_of, engine_running, serving, settled

KEYS: list[Json] = [{"name": name, "key": f"sk-{name}", "tenant": name} for name in ("a", "b", "c", "d", "e")]
A, B = Caller("a", "a"), Caller("b", "b")
SHARED = entry(1, tenant=EVERYBODY, cohort=f"{EVERYBODY}/m")


def vote(tenant: str, answer: str = "4", at: float = NOW, key: str = "q", lives_s: float = 60.0) -> Voted:
    return Voted(key.encode(), tenant.encode(), answer.encode(), at, at + lives_s)


# Withdrawn


async def test_who_says_that_a_shared_answer_is_wrong_is_not_given_it_and_others_are() -> None:
    records: list[Record] = []
    desk = desk_of(SHARED, told=records)
    taken = await desk.feedback(A, SHARED.id, wrong=True)
    assert (taken.quarantined, taken.hidden) == (0, 1)
    assert desk.library.is_unwanted(SHARED.id, "a")
    assert not desk.library.is_unwanted(SHARED.id, "b")
    assert (await desk.feedback(A, SHARED.id, wrong=True)).hidden == 1, "once or twice is the same"
    assert (len(desk.library), {type(record) for record in records}) == (1, {Objected})


async def test_a_shared_answer_is_withdrawn_from_all_once_a_second_tenant_says_that_it_is_wrong() -> None:
    desk = desk_of(SHARED)
    await desk.feedback(A, SHARED.id, wrong=True)
    assert (await desk.feedback(B, SHARED.id, wrong=True)).quarantined == 1
    assert len(desk.library) == 0


async def test_a_key_for_administration_withdraws_a_shared_answer_alone() -> None:
    desk = desk_of(SHARED)
    assert (await desk.feedback(Caller("ops", "ops", admin=True), SHARED.id, wrong=True)).quarantined == 1
    assert len(desk.library) == 0


async def test_complaints_count_wherever_they_were_made() -> None:
    """Neither worker knows of the other's complaint when its own is made."""
    one, other = library_of(SHARED), library_of(SHARED)
    mine, theirs = Objected(SHARED.id, "a", NOW), Objected(SHARED.id, "b", NOW)
    for library, records in ((one, (mine, theirs)), (other, (theirs, mine, theirs))):
        for record in records:
            library.apply(record)
    assert (len(one), len(other)) == (0, 0)
    one.apply(Objected("unknown", "a", NOW))


async def test_workers_without_a_common_store_tell_each_other_of_complaints() -> None:
    other = desk_of(SHARED, worker_id=1)

    async def spread(message: bytes) -> list[bytes]:
        return [other.take(message)]

    desk = desk_of(SHARED, spread=spread)
    await desk.feedback(A, SHARED.id, wrong=True)
    assert other.library.is_unwanted(SHARED.id, "a")
    empty = desk_of(spread=spread)
    assert (await empty.feedback(B, SHARED.id, wrong=True)).quarantined == 1
    assert len(other.library) == 0


async def test_one_complaint_does_not_count_against_the_certificate() -> None:
    records: list[Record] = []
    desk = desk_of(SHARED, told=records)
    await desk.feedback(A, SHARED.id, wrong=True)
    assert not [record for record in records if isinstance(record, Judged | Quarantined)]


# Votes


def test_the_latest_answer_of_each_tenant_counts_while_it_would_be_kept() -> None:
    votes = Votes()
    for each in (vote("a"), vote("a"), vote("b"), vote("c", "5"), vote("d", lives_s=5.0)):
        votes.cast(each)
    assert (votes.count(b"q", b"4", NOW), votes.count(b"q", b"4", NOW + 10)) == (3, 2)
    votes.cast(vote("a", "5", NOW + 1))
    votes.cast(vote("a", "4", NOW))
    assert (votes.count(b"q", b"4", NOW + 10), votes.count(b"q", b"5", NOW + 10)) == (1, 2)
    votes.forget(b"q")
    assert votes.count(b"q", b"4", NOW) == 0
    assert "questions=0" in repr(votes)


def test_votes_are_bounded() -> None:
    votes = Votes()
    for number in range(MOST_TENANTS + 10):
        votes.cast(vote(f"{number}"))
    assert votes.count(b"q", b"4", NOW) == MOST_TENANTS
    for number in range(MOST):
        votes.cast(vote("a", key=f"{number}"))
    assert votes.count(b"q", b"4", NOW) == 0
    assert votes.count(b"0", b"4", NOW) == 1


def test_a_purge_takes_votes_and_so_does_a_shared_answer() -> None:
    library = library_of()
    for each in (vote("a"), vote("b", at=NOW + 1.0), vote("a", key="r")):
        library.apply(each)
    library.apply(Purged(Selector(id="x"), NOW, "ops"))
    assert library.votes.count(b"q", b"4", NOW) == 2
    library.apply(Purged(Selector(tag="handbook"), NOW, "ops"))
    assert (library.votes.count(b"q", b"4", NOW), library.votes.count(b"r", b"4", NOW)) == (1, 0)
    library.apply(Added(entry(1, key=b"q")))
    assert library.votes.count(b"q", b"4", NOW) == 0


@pytest.mark.parametrize("record", [vote("a"), Objected("id", "a", NOW)])
def test_votes_and_complaints_are_read_as_they_were_written(record: Record) -> None:
    assert decoded(encoded(record)) == record


@asynccontextmanager
async def worker(path: Path, now_s: list[float]) -> AsyncIterator[tuple[SqliteJournal, Library]]:
    library, journal = library_of(), SqliteJournal(path, lambda: now_s[0])
    await journal.start(library, 10.0)
    try:
        yield journal, library
    finally:
        await journal.aclose()


async def test_votes_and_complaints_reach_other_workers_and_outlive_a_restart(tmp_path: Path) -> None:
    now_s, path = [NOW], tmp_path / "cache.sqlite"
    async with worker(path, now_s) as (one, _), worker(path, now_s) as (other, there):
        one.append(vote("a"))
        other.append(vote("b"))
        one.append(Added(SHARED))
        one.append(Objected(SHARED.id, "a", NOW))
        await settled(lambda: there.votes.count(b"q", b"4", NOW) < 2, "the vote is not known")
        await settled(lambda: not there.is_unwanted(SHARED.id, "a"), "the complaint is not known")
        await one.settled()
        await other.settled()
    async with worker(path, now_s) as (_, again):
        assert again.votes.count(b"q", b"4", NOW) == 2
        assert again.is_unwanted(SHARED.id, "a")
    now_s[0] += 100.0
    async with worker(path, now_s) as (journal, again):
        assert again.votes.count(b"q", b"4", NOW) == 0, "a vote counts for a while"
        journal.append(vote("c", at=now_s[0]))
        journal.append(Purged(Selector(), now_s[0], "ops"))
        await journal.settled()
    async with worker(path, now_s) as (_, again):
        assert again.votes.count(b"q", b"4", now_s[0]) == 0


# The whole gateway


def config_with(engine: FakeEngine, path: Path) -> Json:
    config = config_of(engine, keys=KEYS)
    config["cache"] = {"enabled": True, "store": "sqlite", "path": str(path)}
    config["deployments"]["m"]["cache"] = {"share": "all", "confirmations": 2}
    return config


async def asked(server: Server, tenant: str) -> tuple[str, str]:
    answer = await server.post(CHAT, chat(), authorization=f"Bearer sk-{tenant}")
    assert answer.status_code == 200
    return answer.headers["x-headrace-cache"], answer.headers.get("x-headrace-cache-id", "")


async def test_a21_answers_at_two_gateways_add_up_to_a_shared_one_that_a_tenant_may_refuse(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    async with (
        engine_running() as engine,
        serving(config_with(engine, path)) as one,
        serving(config_with(engine, path)) as other,
    ):
        assert [(await asked(one, "a"))[0], (await asked(other, "b"))[0]] == ["miss", "miss"]
        await settled(lambda: not _knows_two(one), "votes are not known")
        assert (await asked(one, "c"))[0] == "miss"
        found, entry_id = await asked(one, "d")
        assert (found, engine.stats.requests) == ("hit", 3)
        complaint: Json = {"wrong": True}
        lines = {"authorization": "Bearer sk-d", "content-type": "application/json"}
        taken = await one.post(f"/v1/cache/{entry_id}/feedback", complaint, **lines)
        assert taken.json() == {"quarantined": 0, "hidden": 1}
        assert (await asked(one, "d"))[0] == "miss"
        assert (await asked(one, "e"))[0] == "hit"


def _knows_two(server: Server) -> bool:
    desk = server.gateway.desk
    assert desk is not None
    return any(len(votes) == 2 for votes in desk.library.votes._votes.values())
