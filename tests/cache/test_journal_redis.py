"""A Redis that is slow, frozen, gone, emptied or a cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import cast

import pytest

from cache.entry import Added, Purged, Quarantined, Selector
from cache.journal import redis as module
from cache.journal.redis import RedisJournal
from cache.library import Library
from gateway.config import Redis as Options
from gateway.redis_client import hang_up, open_client
from tests.cache.entries import NOW, entry, judged, library, told
from tests.gateway.limits.test_redis_store import documented_acl
from tests.harness import settled
from tests.valkey import Valkey, cluster_running, sentinel_running, valkey_running

RECORDS = "{headrace}:cache:records"


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.02)
    monkeypatch.setattr(module, "LONGEST_AGAIN_S", 0.05)
    monkeypatch.setattr(module, "TAIL_S", 0.02)
    monkeypatch.setattr(module, "CONNECT_S", 0.3)


@pytest.fixture
async def server() -> AsyncIterator[Valkey]:
    async with valkey_running() as server:
        yield server


@asynccontextmanager
async def worker(
    server: Valkey, clock: Clock | None = None, *, timeout_s: float = 0.3, keep_s: float = 3600.0
) -> AsyncIterator[tuple[RedisJournal, Library]]:
    client, shelf = server.client(), library()
    journal = RedisJournal(
        client, clock or Clock(), hang_up=partial(hang_up, client, 1.0), timeout_s=timeout_s, keep_s=keep_s
    )
    await journal.start(shelf, 10.0)
    try:
        yield journal, shelf
    finally:
        await journal.aclose()


def state(journal: RedisJournal) -> str:
    return journal.status().state


async def test_a_frozen_redis_keeps_nobody_waiting_and_nothing_is_learned_twice(server: Valkey) -> None:
    clock = Clock()
    async with worker(server, clock) as (mine, here), worker(server) as (yours, there):
        mine.append(Added(entry("a")))
        await mine.settled()
        assert mine.status().away_s == 0.0
        server.freeze()
        started = time.monotonic()
        for n in range(20):
            mine.append(Added(entry(f"e{n}")))
            mine.append(judged(f"e{n}"))
        assert here.find(entry("e3").key, NOW) is not None
        assert time.monotonic() - started < 0.05
        await settled(lambda: state(mine) == "ok" or state(yours) == "ok", "it was not noticed")
        assert "no answer within 0.3 s" in mine.status().reason
        clock.now += 60.0
        assert (mine.status().away_s, mine.status().waiting) == (60.0, 40)
        server.thaw()
        await mine.settled()
        await settled(lambda: len(there) < 21 or len(told(there).learned) < 20, "it was not told")
        await settled(lambda: state(mine) == "away" or state(yours) == "away", "it is still away")
        await settled(lambda: len(told(here).learned) < 20, "own labels are missing")
        assert told(here).learned == told(there).learned
        async with worker(server) as (_, newcomer):
            assert told(newcomer).learned == told(here).learned


async def test_a_redis_that_is_not_there_costs_nothing_but_company(
    server: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    await server.kill()
    async with worker(server) as (journal, shelf):
        journal.append(Added(entry("a")))
        assert len(shelf) == 1 and state(journal) == "away"
        own = journal.secret
        await server.start()
        await journal.settled()
        await settled(lambda: state(journal) == "away", "it is still away")
        assert journal.secret == own, "nobody else had one"
        async with worker(server) as (other, found):
            assert len(found) == 1 and other.secret == own
    assert caplog.text.count("goes on in memory alone") == 1


async def test_a_redis_that_was_emptied_is_noticed_and_told_nothing_of_before_but_what_was_learned(
    server: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async with worker(server) as (mine, here), worker(server) as (yours, there):
        mine.append(Added(entry("a")))
        mine.append(judged("a"))
        await mine.settled()
        await settled(lambda: not (told(here).learned and told(there).learned), "it was not told")
        secret = mine.secret
        await server.do("FLUSHALL")
        yours.append(Added(entry("b")))
        yours.append(judged("b"))
        await settled(lambda: len(here) < 2 or len(told(here).learned) < 2, "they do not share it again")
        await settled(lambda: len(told(there).learned) < 2, "a label is missing")
        assert mine.secret == yours.secret == secret
        assert len(here) == len(there) == 2, "memory stays"
        assert told(here).learned == told(there).learned, "nothing is learned twice"
        await settled(lambda: not mine._kept_at and not yours._kept_at, "no snapshot was taken")
        async with worker(server) as (_, newcomer):
            assert sorted(newcomer._ids) == [entry("b").id]
            await settled(lambda: len(told(newcomer).learned) < 2, "what was learned is not told again")
            assert sorted(told(newcomer).learned) == sorted(told(here).learned)
    assert "was emptied" in caplog.text


async def test_snapshots_take_the_place_of_judgements_before_those_leave_the_stream(
    server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MANY_JUDGED", 10)
    clock = Clock()
    async with worker(server, clock) as (mine, here):
        for n in range(25):
            mine.append(judged(f"e{n}"))
        await mine.settled()
        await settled(lambda: len(told(here).learned) < 25, "labels are missing")
        clock.now += 31
        await settled(lambda: not mine._kept_at, "no snapshot was taken")
        for n in range(3):
            mine.append(judged(f"late{n}"))
        await mine.settled()
        await settled(lambda: len(told(here).learned) < 28, "labels are missing")
        async with worker(server) as (_, newcomer):
            assert told(newcomer).learned == told(here).learned
        clock.now += 1000
        await settled(lambda: mine._kept_at[entry("a").cohort] < clock.now, "few judgements get old without a snapshot")
        await server.do("DEL", RECORDS)
        async with worker(server) as (_, newcomer):
            assert told(newcomer).learned == told(here).learned


async def test_what_is_purged_leaves_the_stream(server: Valkey) -> None:
    async with worker(server) as (mine, _), worker(server) as (yours, there):
        for n in range(150):
            mine.append(Added(entry(f"e{n}", tenant="acme" if n % 2 else "globex")))
        await mine.settled()
        await settled(lambda: len(there) < 150, "entries are missing")
        yours.append(Purged(Selector(tenant="acme"), NOW, "admin"))
        mine.append(Added(entry("late", tenant="acme", created_at=NOW + 1)))

        async def entries() -> int:
            return cast(int, await server.do("XLEN", RECORDS))

        async with asyncio.timeout(10):
            while await entries() > 77:
                await asyncio.sleep(0.01)
        assert await entries() == 75 + 2
        async with worker(server) as (_, newcomer):
            assert len(newcomer) == 76


async def test_what_is_old_leaves_the_stream_and_everything_is_gone_some_time_after_the_last_worker(
    server: Valkey,
) -> None:
    clock = Clock()
    clock.now = time.time() + 7200  # noqa: TID251 - the server's ids are of wall time
    async with worker(server, clock, keep_s=60.0) as (journal, _):
        for n in range(500):
            journal.append(Added(entry(f"e{n}")))
        await journal.settled()
        clock.now += 31
        async with asyncio.timeout(10):
            while cast(int, await server.do("XLEN", RECORDS)) >= 200:
                await asyncio.sleep(0.01)
        for key in ("records", "mark", "secret"):
            assert cast(int, await server.do("TTL", f"{{headrace}}:cache:{key}")) > 0


async def test_rubbish_in_the_stream_is_skipped(server: Valkey) -> None:
    await server.do("XADD", RECORDS, "*", "x", "y")
    await server.do("XADD", RECORDS, "*", "o", "a", "n", "one", "r", "")
    await server.do("XADD", RECORDS, "*", "o", "a", "n", "1", "r", "rubbish")
    await server.do("HSET", "{headrace}:cache:learned", "acme/chat", "rubbish")
    async with worker(server) as (journal, shelf):
        journal.append(Added(entry("a")))
        await journal.settled()
        assert len(shelf) == 1 and state(journal) == "ok"
        assert journal.status().skipped == 3


async def test_what_redis_refuses_waits_within_bounds_and_its_reason_is_told(server: Valkey) -> None:
    async with worker(server) as (journal, shelf):
        await server.do("CONFIG", "SET", "maxmemory", "1")
        for n in range(5):
            journal.append(Added(entry(f"e{n}")))
        await settled(lambda: state(journal) == "ok", "it was not noticed")
        assert "maxmemory" in journal.status().reason and journal.status().waiting == 5
        assert len(shelf) == 5
        await server.do("CONFIG", "SET", "maxmemory", "0")
        await journal.settled()


async def test_a_key_of_something_else_costs_nothing_but_company(server: Valkey) -> None:
    await server.do("SET", RECORDS, "something else")
    async with worker(server) as (journal, shelf):
        journal.append(Added(entry("a")))
        await settled(lambda: "WRONGTYPE" not in journal.status().reason, "it was not noticed")
        assert len(shelf) == 1


async def test_a_record_sent_twice_is_taken_once_and_those_of_many_workers_are_told_apart(
    server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ORIGINS", 2)
    async with worker(server) as (mine, here), AsyncExitStack() as stack:
        for n in range(4):
            journal, _ = await stack.enter_async_context(worker(server))
            journal.append(judged(f"e{n}"))
            await journal.settled()
        mine._outbox.last = 0
        for _ in range(2):
            mine.append(judged("x"))
            await mine.settled()
            mine._outbox.last = 0
        mine.append(Quarantined((), NOW, "user"))
        await settled(lambda: len(told(here).learned) < 5, "labels are missing")
        assert [candidate for candidate, _ in told(here).learned].count(entry("x").id) == 1
        assert len(mine._numbers) == 2


async def test_an_unheard_of_failure_is_told_and_tried_again(
    server: Valkey, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with worker(server) as (journal, shelf):
        failures = [ZeroDivisionError()]
        read = journal._read

        async def fail() -> bool:
            if failures:
                raise failures.pop()
            return await read()

        monkeypatch.setattr(journal, "_read", fail)
        journal.append(judged("a"))
        await settled(lambda: not told(shelf).learned, "it did not come back")
    assert "journal has failed" in caplog.text


async def test_a_cluster_has_all_of_it_in_one_slot() -> None:
    async with cluster_running() as nodes:
        options = Options.model_validate({"url": f"redis://127.0.0.1:{nodes[0].port}", "cluster": True})
        async with AsyncExitStack() as stack:
            workers = []
            for _ in range(2):
                client, shelf = await asyncio.to_thread(open_client, options), library()
                journal = RedisJournal(client, Clock(), hang_up=partial(hang_up, client, 1.0), timeout_s=2.0)
                await journal.start(shelf, 10.0)
                stack.push_async_callback(journal.aclose)
                workers.append((journal, shelf))
            (mine, _), (_, there) = workers
            mine.append(Added(entry("a")))
            mine.append(judged("a"))
            mine.append(Purged(Selector(tenant="nobody"), NOW, "admin"))
            await mine.settled()
            await settled(lambda: not told(there).learned, "it was not told")
            assert len(there) == 1 and mine.status().state == "ok"


async def test_a_failover_loses_no_label_and_tells_none_twice() -> None:
    async with sentinel_running() as servers, AsyncExitStack() as stack:
        options = Options.model_validate({"sentinel": {"urls": servers.urls, "master": "main"}})
        workers = []
        for _ in range(2):
            client, shelf = await asyncio.to_thread(open_client, options), library()
            journal = RedisJournal(client, Clock(), hang_up=partial(hang_up, client, 1.0), timeout_s=1.0)
            await journal.start(shelf, 10.0)
            stack.push_async_callback(journal.aclose)
            workers.append((journal, shelf))
        (mine, here), (_, there) = workers
        for n in range(10):
            mine.append(judged(f"before{n}"))
        await mine.settled()
        await settled(lambda: len(told(here).learned) < 10 or len(told(there).learned) < 10, "labels are missing")
        await servers.first.do("WAIT", 1, 2000)
        await servers.first.kill()
        for n in range(10):
            mine.append(judged(f"after{n}"))
        await mine.settled()
        await settled(lambda: len(told(there).learned) < 20, "labels are missing", 10.0)
        await settled(lambda: len(told(here).learned) < 20, "own labels are missing", 10.0)
        assert told(here).learned == told(there).learned
        assert len(told(here).learned) == 20


async def test_the_documented_user_is_allowed_what_the_journal_needs(server: Valkey) -> None:
    await server.do("ACL", "SETUSER", "gateway", "on", ">sesame", *documented_acl())
    options = Options.model_validate({"url": server.url, "user": "gateway", "password": "sesame"})
    client, clock, shelf = await asyncio.to_thread(open_client, options), Clock(), library()
    journal = RedisJournal(client, clock, hang_up=partial(hang_up, client, 1.0))
    await journal.start(shelf, 10.0)
    for name in ("a", "b"):
        journal.append(Added(entry(name)))
        journal.append(judged(name))
    await journal.settled()
    await settled(lambda: len(told(shelf).learned) < 2, "labels are missing")
    clock.now += 1000
    await settled(lambda: not journal._kept_at, "no snapshot was taken")
    journal.append(Purged(Selector(tenant="acme"), NOW, "admin"))
    await journal.settled()
    await settled(lambda: bool(journal._purges), "it was not purged")
    assert journal.status().state == "ok", journal.status().reason
    await journal.aclose()


async def test_a_journal_that_was_never_started_can_be_closed(server: Valkey) -> None:
    client = server.client()
    await RedisJournal(client, Clock(), hang_up=partial(hang_up, client, 1.0)).aclose()
    await client.aclose()
