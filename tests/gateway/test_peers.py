"""Gateways that tell each other what they have in flight, over a real Valkey and over shared memory (R06, A14)."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import msgspec
import pytest

from engines.http import Endpoint, HttpEngine
from gateway.clock import RealClock
from gateway.config import Redis as Options
from gateway.corrections import Corrections, engine_key, machine_name
from gateway.peers import EVERY_S, GONE_S, MAX_ENGINES, BoardPlace, Note, Peers, Place, PlaceFailed
from gateway.process.board import ABSENT, MAX_NOTE_BYTES, Board, Turn
from gateway.redis_place import RedisPlace
from gateway.replicas import Lease, Replica
from router.correction import EngineSnapshot, Sums
from tests.harness import settled
from tests.valkey import Valkey, valkey_running

A, B = "http://10.0.0.1:8000", "http://10.0.0.2:8000"
pytestmark = pytest.mark.may_block("starts a server, and reads the machine's name")


class Time:
    """A clock that the test moves; pauses are real but short."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        await asyncio.sleep(0.001)


class Gateway:
    """As much of one as its peers see. Its replicas stand at `A` and `B`."""

    def __init__(self, *places: Place, clock: Time | RealClock | None = None, machine: str = "here") -> None:
        self.clock = clock or Time()
        self.replicas = [replica("p-0", A), replica("p-1", B)]
        self.corrections = Corrections(lambda: self.replicas, machine)
        self.peers = Peers(places, self.corrections, self.clock, random.Random(1))

    def send(self, count: int, to: int = 0) -> list[Lease]:
        return [self.replicas[to].lease(0.0, 100, 0, 20.0) for _ in range(count)]

    @property
    def others(self) -> list[tuple[float, float, float]]:
        loads = [one.load for one in self.replicas]
        return [(load.others_in_flight, load.others_prefill_tokens, load.others_context_tokens) for load in loads]

    @property
    def degraded(self) -> dict[str, float]:
        return {labels[0]: value for labels, value in self.peers.degraded()}

    @property
    def count(self) -> float:
        [(_, count)] = self.peers.counts()
        return count


def replica(name: str, url: str) -> Replica:
    return Replica(name, "p", "on-premise", "openai", HttpEngine(Endpoint(name, url)), url=url)


NOBODY = [(0.0, 0.0, 0.0)] * 2


@pytest.fixture
async def valkey() -> AsyncIterator[Valkey]:
    async with valkey_running() as server:
        yield server


@asynccontextmanager
async def by_redis(count: int) -> AsyncIterator[list[Place]]:
    async with valkey_running() as server:
        places: list[Place] = [RedisPlace(Options(url=server.url, timeout_s=1.0)) for _ in range(count)]
        yield places
        for place in places:
            await place.aclose()


@asynccontextmanager
async def by_board(count: int) -> AsyncIterator[list[Place]]:
    board = Board.create(count)
    for index in range(count):
        board.put(index, 0)
    try:
        yield [BoardPlace(Turn(board, index)) for index in range(count)]
    finally:
        board.close()


PLACES = pytest.mark.parametrize("places", [by_redis, by_board])


# What every place owes


@PLACES
async def test_peers_see_what_each_has_in_flight_and_not_their_own(places: Callable[..., object]) -> None:
    async with places(3) as at:  # type: ignore[attr-defined]
        gateways = [Gateway(place) for place in at]
        one, two, three = gateways
        held = one.send(2) + two.send(3) + two.send(1, to=1)
        for _ in range(3):
            for gateway in gateways:
                await gateway.peers.meet()
        assert one.others == [(3.0, 300.0, 360.0), (1.0, 100.0, 120.0)]
        assert two.others == [(2.0, 200.0, 240.0), (0.0, 0.0, 0.0)]
        assert three.others == [(5.0, 500.0, 600.0), (1.0, 100.0, 120.0)]
        assert [gateway.count for gateway in gateways] == [2, 2, 2]
        for lease in held:
            lease.__exit__()
        for _ in range(2):
            for gateway in gateways:
                await gateway.peers.meet()
        assert one.others == two.others == three.others == NOBODY
        assert one.degraded == {at[0].name: 0.0}
        assert not one.peers.blind


@PLACES
async def test_one_that_leaves_is_not_seen_any_more(places: Callable[..., object]) -> None:
    async with places(2) as at:  # type: ignore[attr-defined]
        one, two = (Gateway(place) for place in at)
        one.send(2)
        for _ in range(3):
            await one.peers.meet()
            await two.peers.meet()
        assert two.count == 1
        await one.peers.aclose()
        await two.peers.meet()
        await two.peers.meet()
        assert (two.count, two.others) == (0, NOBODY)


@PLACES
async def test_what_is_no_note_is_nobody(places: Callable[..., object]) -> None:
    async with places(3) as (mine, *others):  # type: ignore[attr-defined]
        key = engine_key(A, "here")
        notes = [b"\xc1garbage", msgspec.msgpack.encode([7, {key: [float("nan"), -5.0, 1e300]}])]
        gateway = Gateway(mine)
        for _ in range(3):
            for place, note in zip(others, notes, strict=True):
                await place.trade(note)
            await gateway.peers.meet()
        assert gateway.count == 1
        assert gateway.others == NOBODY


# Counting once


async def test_a_peer_that_is_met_at_two_places_counts_once() -> None:
    async with by_redis(2) as (here, there), by_board(2) as (up, down):
        one, two = Gateway(up, here), Gateway(down, there)
        one.send(4)
        for _ in range(3):
            await one.peers.meet()
            await two.peers.meet()
        assert two.others[0][0] == 4.0
        assert two.count == 1
        assert repr(two.peers) == "<Peers 1 at [<board notes=1>, <redis notes=1>]>"


async def test_what_an_engine_says_of_peers_requests_is_not_counted_again() -> None:
    async with by_board(2) as (up, down):
        one, two = Gateway(up), Gateway(down)
        one.send(4)
        two.send(1)
        for _ in range(2):
            await one.peers.meet()
            await two.peers.meet()
        known = two.corrections.known(two.replicas[0])
        assert known.in_flight == 5
        two.corrections.scraped(two.replicas[0], EngineSnapshot(7.0, 0.0, at_s=two.clock.monotonic(), known=known))
        await two.peers.meet()
        assert two.others[0][0] == 6.0  # four of the peer, two of a stranger


def test_an_engine_has_one_name_everywhere_but_on_loopback() -> None:
    same = ["http://engine:80/x/", "http://user:secret@engine/x", "http://ENGINE/x"]
    assert len({engine_key(url, machine) for url in same for machine in ("a", "b")}) == 1
    assert engine_key("http://engine:8000", "a") != engine_key("http://engine:8001", "a")
    assert engine_key("https://engine", "a") != engine_key("http://engine", "a")
    for url in ("http://127.0.0.1:8000", "http://localhost:8000", "http://[::1]:8000"):
        assert engine_key(url, "a") != engine_key(url, "b")
        assert engine_key(url, "a") == engine_key("http://127.0.0.1:8000", "a")
    assert engine_key("p-0", "a") != engine_key("p-1", "a")
    assert engine_key("http://x:bad", "a") == engine_key("http://x:bad", "a")
    assert machine_name() == machine_name() != ""


async def test_a_gateway_with_very_many_engines_tells_of_the_busiest() -> None:
    async with by_board(2) as (up, down):
        one = Gateway(up)
        one.replicas = [replica(f"p-{i}", f"http://10.1.{i // 256}.{i % 256}") for i in range(MAX_ENGINES + 100)]
        for index in range(len(one.replicas)):
            one.send(2 if index >= 100 else 1, to=index)
        await one.peers.meet()
        [note] = await down.trade(None)
        assert len(note) <= MAX_NOTE_BYTES
        told = msgspec.msgpack.decode(note, type=Note)
        assert {sums[0] for sums in told.sums.values()} == {2.0}
        await up.trade(bytes(MAX_NOTE_BYTES + 1))
        assert await down.trade(None) == []


# The board


def test_a_note_is_taken_whole_or_not_at_all() -> None:
    board = Board.create(2)
    board.put(0, 3)
    board.put(1, 4)
    board.put_note(0, b"hello")
    assert board.others_notes(1) == [b"hello"]
    assert board.others_notes(0) == []
    board._memory[board._note_start(0) + 18] ^= 1  # half of the next one has been written
    assert board.others_notes(1) == []
    with pytest.raises(ValueError, match=f"at most {MAX_NOTE_BYTES} do"):
        board.put_note(0, bytes(MAX_NOTE_BYTES + 1))
    board.put_note(0, bytes(MAX_NOTE_BYTES))
    assert board.others_notes(1) == [bytes(MAX_NOTE_BYTES)]
    board.put(0, ABSENT)
    board.put(0, 0)
    assert board.others_notes(1) == []  # whoever is there now has said nothing yet
    board.close()


# Redis that fails


async def met(*gateways: Gateway, seen: int = 1) -> None:
    def missing() -> list[object]:
        return [gateway.peers for gateway in gateways if gateway.count != seen or gateway.peers.blind]

    await settled(missing, "peers do not see each other", within_s=8.0)


@asynccontextmanager
async def running(*gateways: Gateway) -> AsyncIterator[None]:
    for gateway in gateways:
        gateway.peers.start()
    try:
        yield
    finally:
        for gateway in gateways:
            await gateway.peers.aclose()


def over(server: Valkey) -> Gateway:
    return Gateway(RedisPlace(Options(url=server.url)), clock=RealClock())


async def test_a14_a_frozen_redis_is_noticed_in_time_said_once_and_found_again(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    """A14: the request path does not wait for it; peers' sums are forgotten, and known again when it thaws."""
    caplog.set_level(logging.INFO, "gateway.peers")
    one, two = over(valkey), over(valkey)
    one.send(3)
    async with running(one, two):
        await met(one, two)
        await settled(lambda: [] if two.others[0][0] == 3.0 else [two.others], "not seen")
        valkey.freeze()
        began_s = time.monotonic()
        await settled(lambda: [] if two.degraded["redis"] and two.peers.blind else ["fine"], "not noticed")
        assert time.monotonic() - began_s < EVERY_S + 0.05 + 0.5
        await settled(lambda: [] if two.others == NOBODY else [two.others], "not forgotten", within_s=GONE_S + 2)
        assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 2  # one each
        assert "no answer within redis.timeout_s of 0.05 s" in caplog.text
        valkey.thaw()
        await met(one, two)
        await settled(lambda: [] if two.others[0][0] == 3.0 else [two.others], "not seen again")
        assert "redis answers again" in caplog.text
        assert two.degraded == {"redis": 0.0}


async def test_a_redis_that_is_killed_and_started_again_is_found_again(valkey: Valkey) -> None:
    one, two = over(valkey), over(valkey)
    one.send(2)
    async with running(one, two):
        await met(one, two)
        await valkey.kill()
        await settled(lambda: [] if one.peers.blind and two.peers.blind else ["fine"], "not noticed")
        await valkey.start()
        await met(one, two)
        await settled(lambda: [] if two.others[0][0] == 2.0 else [two.others], "not seen again")


async def test_a_peer_that_dies_is_gone_in_two_seconds(valkey: Valkey) -> None:
    one, two = over(valkey), over(valkey)
    one.send(2)
    async with running(two):
        await one.peers.meet()
        await met(two)
        died_s = time.monotonic()
        await settled(lambda: [] if two.others == NOBODY and two.count == 0 else [two.others], "stays", within_s=4.0)
        assert time.monotonic() - died_s < GONE_S + 4 * EVERY_S + 0.5
        async with valkey.client() as client:
            assert len(await cast("Awaitable[set[bytes]]", client.smembers("{headrace}:peers"))) == 1
    await one.peers.aclose()


async def test_a_redis_that_was_never_there_makes_a_gateway_blind_and_alone_it_is_not(valkey: Valkey) -> None:
    lonely = over(valkey)
    await lonely.peers.meet()
    assert not lonely.peers.blind
    await valkey.kill()
    await lonely.peers.meet()
    assert lonely.degraded == {"redis": 1.0}
    assert not lonely.peers.blind  # nobody was there
    stranger = over(valkey)
    await stranger.peers.meet()
    assert stranger.peers.blind
    for gateway in (lonely, stranger):
        await gateway.peers.aclose()


async def test_while_redis_is_gone_the_workers_of_one_machine_see_each_other() -> None:
    async with by_redis(2) as (here, there), by_board(2) as (up, down):
        one, two = Gateway(up, here), Gateway(down, there)
        two.send(5)
        for _ in range(3):
            await one.peers.meet()
            await two.peers.meet()
        await _break(here)
        for _ in range(20):
            one.clock.now_s += EVERY_S  # type: ignore[union-attr]
            await one.peers.meet()
            await two.peers.meet()
        assert one.degraded == {"board": 0.0, "redis": 1.0}
        assert one.others[0][0] == 5.0
        assert not one.peers.blind


async def _break(place: Place) -> None:
    async def trade(note: bytes | None) -> list[bytes]:
        raise PlaceFailed("made up")

    place.trade = trade  # type: ignore[method-assign]


async def test_a_password_and_a_user_stand_in_the_url_and_in_no_message() -> None:
    async with valkey_running("--requirepass", "sesame") as server:
        right = RedisPlace(Options(url=f"unix://default:sesame@{server.socket}"))
        assert await right.trade(b"note") == []
        await right.aclose()
        wrong = RedisPlace(Options(url=f"unix://default:wrongword@{server.socket}"))
        with pytest.raises(PlaceFailed) as failed:
            await wrong.trade(b"note")
        assert "wrongword" not in str(failed.value)
        await wrong.aclose()


async def test_sums_that_do_not_change_are_told_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    async with by_board(2) as (place, _):
        real = place.trade

        async def trade(note: bytes | None) -> list[bytes]:
            told.append(note is not None)
            return await real(note)

        monkeypatch.setattr(place, "trade", trade)
        gateway = Gateway(place)
        for _ in range(10):
            await gateway.peers.meet()
            gateway.clock.now_s += EVERY_S  # type: ignore[union-attr]
        assert told == [True, *[False] * 4, True, *[False] * 4]
        gateway.send(1)
        await gateway.peers.meet()
        assert told[-1]


async def test_what_goes_wrong_inside_ends_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> dict[int, Sums]:
        raise RuntimeError("made up")

    async with by_board(2) as (up, down):
        one, two = Gateway(up), Gateway(down)
        with monkeypatch.context() as patch:
            patch.setattr(one.corrections, "own", fail)
            one.peers.start()
            await settled(lambda: [] if "made up" in caplog.text else ["silent"], "nothing logged")
        await two.peers.meet()
        await settled(lambda: [] if one.count == 1 else [one.peers], "it ended")
        await one.peers.aclose()
