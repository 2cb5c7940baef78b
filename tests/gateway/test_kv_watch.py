"""Hearing a replica for as long as it is there: where it publishes, what comes and goes, what is uncertain."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest

from engines.http import Endpoint, HttpEngine
from engines.kv_events.sockets import MissingLibrary, Sockets
from engines.kv_events.sources import Source
from engines.kv_events.tracker import Sink
from gateway.clock import RealClock
from gateway.config import Config, EngineOptions
from gateway.config.checks import check
from gateway.config.problems import Finding
from gateway.kv_watch import Asked, Configured, Finder, KvWatch, SlotSink, finder_of
from router.prefix import Certainty, Prefix, PrefixIndex
from tests.engines.kv_events.publisher import BLOCK, Heard, Publisher, keys_of, publishing, removed, stored
from tests.engines.server import Peer, engine_server

A = list(range(100, 116))
B = list(range(200, 216))


class Clock(RealClock):
    """Sleeps are short, and remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(min(seconds, 0.01))


class Told(Heard):
    """Passes on what it hears."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink = sink

    def stored(self, keys: Sequence[int]) -> None:
        self._sink.stored(keys)
        super().stored(keys)

    def removed(self, keys: Sequence[int]) -> None:
        self._sink.removed(keys)
        super().removed(keys)


class Found(Finder):
    """Sources that the test changes; `asked` counts."""

    def __init__(self, sources: Sequence[Source] | None) -> None:
        self.sources = sources
        self.asked = 0
        self.again = asyncio.Event()

    async def find(self) -> Sequence[Source] | None:
        self.asked += 1
        self.again.set()
        return self.sources


def source_of(publisher: Publisher, rank: int = 0) -> Source:
    return Source(publisher.endpoint, publisher.replay_endpoint, rank=rank)


@contextlib.asynccontextmanager
async def watching(finder: Finder, **options: Any) -> AsyncIterator[tuple[KvWatch, Heard, Clock]]:
    heard, clock, sockets = Heard(), Clock(), Sockets()
    watch = KvWatch("p-0", heard, finder, sockets, clock=clock, rng=random.Random(1), **options)
    watch.start()
    try:
        yield watch, heard, clock
    finally:
        await watch.aclose()
        assert repr(sockets) == "<Sockets open=0>"


@contextlib.asynccontextmanager
async def answering(body: bytes, status: int = 200) -> AsyncIterator[tuple[HttpEngine, str, list[bytes]]]:
    """An engine that answers every request with `body`."""
    requests: list[bytes] = []

    async def script(peer: Peer) -> None:
        while request := await peer.request():
            requests.append(request)
            await peer.send(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))

    async with engine_server(script) as url:
        engine = HttpEngine(Endpoint("p-0", url, {"authorization": "Bearer k"}))
        try:
            yield engine, url, requests
        finally:
            await engine.aclose()


async def test_what_the_engine_publishes_reaches_the_index() -> None:
    """The engine names its ports itself; what the index then says of a prompt is what the engine holds."""
    index = PrefixIndex()
    slot = index.open()
    async with publishing() as publisher:
        told = {"0": {"endpoint": publisher.endpoint, "replay_endpoint": publisher.replay_endpoint}}
        async with answering(msgspec.json.encode(told)) as (engine, url, requests):
            told_index = Told(SlotSink(index, slot))
            rng = random.Random(1)
            watch = KvWatch("p-0", told_index, Asked(engine, url), Sockets(), clock=RealClock(), rng=rng)
            watch.start()
            await publisher.publish(stored(A), stored(B))
            await publisher.publish(removed(stored(A)["block_hashes"][-1]))
            await told_index.holds(keys_of(A)[:-1], keys_of(B))
            assert index.match(Prefix(keys_of(A), BLOCK)) == [3 * BLOCK]
            assert index.match(Prefix(keys_of(B), BLOCK)) == [4 * BLOCK]
            assert (watch.exact, watch.block_tokens) == (True, BLOCK)
            assert repr(watch).startswith("<KvWatch p-0 [<Subscriber tcp://127.0.0.1:")
            await watch.aclose()
            assert b"GET /kv_event_sources HTTP/1.1" in requests[0]
            assert b"Bearer k" in requests[0]


@pytest.mark.parametrize(
    ("body", "status"), [(b'{"detail":"Not Found"}', 404), (b"{}", 200), (b"<html>", 200), (b"", 401)]
)
async def test_an_engine_that_publishes_nothing_is_left_alone_quietly(
    body: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with answering(body, status) as (engine, url, requests), watching(Asked(engine, url)) as (_, heard, clock):
        while len(requests) < 3:
            await asyncio.sleep(0)
        assert set(clock.slept) == {300.0}
        assert not heard.calls
        assert not [record for record in caplog.records if record.levelno >= 20]


async def test_an_engine_that_does_not_answer_yet_is_asked_again_soon() -> None:
    async with answering(b"", 503) as (engine, url, requests), watching(Asked(engine, url)) as (_, heard, clock):
        while len(requests) < 3:
            await asyncio.sleep(0)
        assert clock.slept[0] < clock.slept[1] < 1.0
        assert not heard.calls
    gone = Asked(HttpEngine(Endpoint("p-0", url)), url)
    assert await gone.find() is None


async def test_a_replica_that_moves_to_other_ports_is_found_there() -> None:
    async with publishing() as first, publishing() as second:
        found = Found([source_of(first)])
        async with watching(found) as (watch, heard, _):
            await first.publish(stored(A))
            await heard.holds(keys_of(A))
            found.sources = [source_of(second)]
            await second.publish(stored(B))
            await first.stop()
            await heard.holds(keys_of(B))
            assert watch.exact


async def test_a_replica_that_is_away_for_long_is_uncertain_until_it_is_back() -> None:
    async with publishing() as publisher:
        found = Found([source_of(publisher)])
        async with watching(found, grace_s=0.05) as (_, heard, _):
            await publisher.publish(stored(A))
            await heard.holds(keys_of(A))
            found.sources = None
            await publisher.stop()
            await heard.holds(keys_of(A), exact=False)
            await publisher.start()
            found.sources = [source_of(publisher)]
            await heard.holds(keys_of(A))
            assert heard.calls[-3:] == ["cleared", "stored", "exact"]


async def test_a_short_break_changes_nothing() -> None:
    async with publishing() as publisher, watching(Found([source_of(publisher)])) as (_, heard, _):
        await publisher.publish(stored(A))
        await heard.holds(keys_of(A))
        await publisher.stop()
        await publisher.start()
        await publisher.publish(stored(B))
        await heard.holds(keys_of(A), keys_of(B))
        assert heard.calls.count("not exact") == 0


async def test_several_ranks_are_one_replica_that_is_never_exact() -> None:
    async with publishing() as first, publishing() as second:
        found = Found([source_of(first), source_of(second, 1)])
        async with watching(found) as (watch, heard, _):
            await first.publish(stored(A))
            await second.publish(stored(A), stored(B))
            await heard.holds(keys_of(A), keys_of(B), exact=False)
            await second.publish(removed(*stored(A)["block_hashes"]))
            await first.publish({"type": "AllBlocksCleared"})
            await heard.holds(keys_of(B), exact=False)
            assert not watch.exact
            found.sources = [source_of(first)]
            await second.stop()
            await heard.holds()
            assert watch.exact


async def test_a_fault_of_our_own_is_logged_and_nothing_stays_that_it_may_have_spoilt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Faulty(Heard):
        def stored(self, keys: Sequence[int]) -> None:
            if "cleared" in self.calls[1:]:
                super().stored(keys)
            else:
                raise RuntimeError("a fault")

    async with publishing() as publisher:
        heard, sockets = Faulty(), Sockets()
        found = Found([source_of(publisher)])
        watch = KvWatch("p-0", heard, found, sockets, clock=Clock(), rng=random.Random(1))
        watch.start()
        await publisher.publish(stored(A))
        await heard.holds(keys_of(A))
        assert [record.message for record in caplog.records if record.levelname == "ERROR"] == ["p-0: KV events"]
        await watch.aclose()


async def test_a_wrong_endpoint_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async with watching(Configured([Source("tcp://")])) as (watch, _, _):
        assert watch._task is not None
        await watch._task
        (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
        assert "p-0: KV events: 'tcp://' cannot be connected to" in record.message


async def test_without_the_library_nobody_reads_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    class Missing(Sockets):
        def subscription(self, endpoint: str, topic: str) -> Any:
            raise MissingLibrary

    caplog.set_level("INFO")
    found = Configured([Source("tcp://127.0.0.1:1")])
    watch = KvWatch("p-0", Heard(), found, Missing(), clock=Clock(), rng=random.Random(1))
    watch.start()
    assert watch._task is not None
    await watch._task
    await watch.aclose()
    assert [record.message for record in caplog.records if "headrace[kv-events]" in record.message]


async def test_a_watch_that_never_began_can_be_closed() -> None:
    watch = KvWatch("p-0", Heard(), Found([]), Sockets(), clock=Clock(), rng=random.Random(1))
    await watch.aclose()
    assert (watch.exact, watch.block_tokens, repr(watch)) == (False, 0, "<KvWatch p-0 []>")


def test_the_index_is_told_how_sure_it_may_be() -> None:
    index = PrefixIndex()
    slot = index.open()
    sink = SlotSink(index, slot)
    sink.stored([1, 2, 3])
    sink.certain(exact=True)
    assert (slot.certainty, index.match(Prefix([1, 2, 3], 16))) == (Certainty.EXACT, [48])
    sink.removed([3])
    assert index.match(Prefix([1, 2, 3], 16)) == [32]
    sink.certain(exact=False)
    assert slot.certainty is Certainty.PREDICTED
    sink.cleared()
    assert index.match(Prefix([1, 2, 3], 16)) == [0]


def options(**fields: Any) -> EngineOptions:
    return EngineOptions.model_validate(fields)


def test_who_is_heard_and_where() -> None:
    url = "http://10.0.0.7:8000"
    engine = HttpEngine(Endpoint("p-0", url))
    assert isinstance(finder_of(options(kind="vllm"), engine, url), Asked)
    assert finder_of(options(kind="vllm", kv_events={"mode": "off"}), engine, url) is None
    assert finder_of(options(kind="openai"), engine, url) is None
    assert finder_of(options(kind="vllm"), object(), url) is None


async def test_an_endpoint_that_is_named_is_that_port_of_each_machine() -> None:
    events = {"endpoint": "tcp://*:5557", "replay_endpoint": "tcp://*:6557", "topic": "kv", "ranks": 2}
    finder = finder_of(options(kind="openai", kv_events=events), object(), "http://10.0.0.7:8000")
    assert finder is not None
    assert await finder.find() == [
        Source("tcp://10.0.0.7:5557", "tcp://10.0.0.7:6557", "kv", 0),
        Source("tcp://10.0.0.7:5558", "tcp://10.0.0.7:6558", "kv", 1),
    ]


def problems(events: dict[str, Any]) -> list[Finding]:
    """Of a pool of two replicas."""
    pool = {"urls": ["http://10.0.0.7:8000", "http://10.0.0.8:8000"], "engine": {"kind": "vllm", "kv_events": events}}
    config = Config.model_validate({"pools": {"p": pool}})
    return [one for one in check(config) if "kv_events" in one.path]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"mode": "off"}, []),
        ({"mode": "auto"}, []),
        ({"endpoint": "tcp://*:5557"}, []),
        ({"endpoint": "tcp://10.0.0.7:5557", "mode": "off"}, []),
        ({"topic": "kv"}, ["`topic` goes with an `endpoint`"]),
        ({"endpoint": "tcp://10.0.0.7:5557"}, ["2 replicas cannot all publish at tcp://10.0.0.7:5557"]),
    ],
)
def test_settings_that_contradict_each_other_are_said(written: dict[str, Any], said: list[str]) -> None:
    assert [one.message for one in problems(written)] == said


def test_a_named_endpoint_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert [one.hint for one in problems({"endpoint": "tcp://*:5557"})] == ['pip install "headrace[kv-events]"']
