"""Requests that wait for a place: they get one in turn, leave at once, and leave nothing behind."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.clock import RealClock
from gateway.config import QueueOptions
from gateway.config import Telemetry as TelemetryOptions
from gateway.errors import Overloaded
from gateway.telemetry import Telemetry, merge, render
from gateway.waiting_room import RECHECK_S, Ticket, Turn, WaitingRoom
from tests.harness import metrics_in

SETTLE_TURNS = 5


class Places:
    """So many places; who takes one holds it until it is given back."""

    def __init__(self, free: int = 0) -> None:
        self.free = free
        self.most = free
        self.asked = 0

    def claim(self, strict: bool = False) -> Places | None:
        self.asked += 1
        if not self.free:
            return None
        self.free -= 1
        return self

    def release(self) -> None:
        self.free += 1
        assert self.free <= self.most

    def add(self, count: int) -> None:
        self.free += count
        self.most += count


Room = WaitingRoom[Places]
Open = Callable[..., Room]


@pytest.fixture
async def telemetry() -> AsyncIterator[Telemetry]:
    telemetry = Telemetry(TelemetryOptions.model_validate({"access_log": {"format": "off"}}), deployments=["m"])
    yield telemetry
    await telemetry.aclose()


@pytest.fixture
def room_of(telemetry: Telemetry) -> Open:
    def room(**options: Any) -> Room:
        return WaitingRoom("m", QueueOptions(**options), RealClock(), telemetry, Places.release)

    return room


def numbers(telemetry: Telemetry) -> dict[str, float]:
    return metrics_in(render(merge([telemetry.snapshot()]), "").body.decode())


def ticket(tenant: str = "t", **more: Any) -> Ticket:
    fields: dict[str, Any] = {"cost": 1.0, "group": "g"} | more
    return Ticket(tenant, **fields)


async def soon() -> None:
    """Let the loop turn until nothing more happens by itself."""
    for _ in range(SETTLE_TURNS):
        await asyncio.sleep(0)


class Crowd:
    """Requests in tasks of their own, by name; `served` has them in the order of their turns."""

    def __init__(self, room: Room, places: Places) -> None:
        self.room = room
        self.places = places
        self.served: list[str] = []
        self.turns: dict[str, Turn[Places]] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def add(self, name: str, given: Ticket, places: Places | None = None) -> None:
        self.tasks[name] = asyncio.create_task(self._one(name, given, places or self.places))
        await soon()

    async def _one(self, name: str, given: Ticket, places: Places) -> None:
        turn = await self.room.enter(given, places.claim)
        self.turns[name] = turn
        self.served.append(name)

    async def wake(self) -> None:
        self.room.wake()
        await soon()


async def test_a_request_that_finds_a_place_does_not_wait(room_of: Open, telemetry: Telemetry) -> None:
    room, places = room_of(), Places(1)
    with await room.enter(ticket(), places.claim) as turn:
        assert turn.claim is places
        assert (turn.position, turn.queued_s) == (0, 0.0)
        turn.settle(3.0)
    assert numbers(telemetry)['headrace_queue_wait_seconds_bucket{deployment="m",le="0.001"}'] == 1
    assert re.fullmatch(r"<Turn position=0 queued_s=0.000 <Entry t priority=0 cost=3>>", repr(turn))


async def test_places_go_to_those_that_wait_in_the_queues_order(room_of: Open, telemetry: Telemetry) -> None:
    """R09: and each place to one of them."""
    room, places = room_of(), Places()
    crowd = Crowd(room, places)
    for name in ("h1", "h2", "h3"):
        await crowd.add(name, ticket("heavy"))
    await crowd.add("light", ticket("light"))
    await crowd.add("first", ticket("heavy", priority=-1))
    assert repr(room) == "<WaitingRoom m <FairQueue 5/1000 -1:1 0:4>>"
    assert numbers(telemetry)['headrace_queue_length{deployment="m"}'] == 5
    await crowd.wake()
    assert crowd.served == []
    for expected in (["first"], ["first", "h1"], ["first", "h1", "light"]):
        places.add(1)
        await crowd.wake()
        assert crowd.served == expected
    places.add(2)
    await crowd.wake()
    assert crowd.served[3:] == ["h2", "h3"]
    assert (len(room), places.free) == (0, 0)
    turn = crowd.turns["h3"]
    assert turn.position == 3
    assert numbers(telemetry)['headrace_queue_wait_seconds_count{deployment="m"}'] == 5


async def test_a_newcomer_does_not_pass_those_that_wait(room_of: Open) -> None:
    room, places = room_of(), Places()
    crowd = Crowd(room, places)
    await crowd.add("old", ticket())
    places.add(1)
    room.wake()
    turn = asyncio.create_task(room.enter(ticket(), places.claim))
    await soon()
    assert crowd.served == ["old"]
    assert len(room) == 1
    turn.cancel()
    await asyncio.wait([turn])


async def test_a_request_whose_replicas_are_full_holds_up_nobody_elses(room_of: Open) -> None:
    """R09: late binding."""
    room, site, cloud = room_of(), Places(), Places(1)
    crowd = Crowd(room, site)
    for name in ("s1", "s2"):
        await crowd.add(name, ticket(group="site"))
    await crowd.add("c1", ticket(group="cloud"), cloud)
    assert crowd.served == ["c1"]
    await crowd.add("c2", ticket(group="cloud"), cloud)
    cloud.add(1)
    await crowd.wake()
    assert crowd.served == ["c1", "c2"]
    site.add(2)
    await crowd.wake()
    assert crowd.served == ["c1", "c2", "s1", "s2"]


async def test_a_group_without_a_place_is_asked_once_not_for_each_of_its_requests(room_of: Open) -> None:
    room, places = room_of(), Places()
    crowd = Crowd(room, places)
    for i in range(50):
        await crowd.add(f"{i}", ticket(f"t{i}"))
    before = places.asked
    await crowd.wake()
    assert places.asked - before == 1
    room.close()
    await asyncio.wait(crowd.tasks.values())
    assert all(isinstance(task.exception(), Overloaded) for task in crowd.tasks.values())


async def test_whoever_hangs_up_leaves_at_once(room_of: Open) -> None:
    """A01: while queued."""
    room, places = room_of(), Places()
    crowd = Crowd(room, places)
    await crowd.add("gone", ticket())
    await crowd.add("stays", ticket())
    crowd.tasks["gone"].cancel()
    await soon()
    assert crowd.tasks["gone"].cancelled()
    assert len(room) == 1
    places.add(1)
    await crowd.wake()
    assert crowd.served == ["stays"]


async def test_who_hangs_up_at_the_moment_of_its_turn_passes_the_place_on(room_of: Open) -> None:
    """A01, A03: a place that was found for a request that is gone is not lost, and its tenant does not pay."""
    room, places = room_of(), Places()
    crowd = Crowd(room, places)
    await crowd.add("gone", ticket(cost=1000.0))
    await crowd.add("next", ticket())
    await crowd.add("other", ticket("other"))
    places.add(1)
    room.wake()
    asyncio.get_running_loop().call_soon(crowd.tasks["gone"].cancel)
    await soon()
    await soon()
    assert crowd.tasks["gone"].cancelled()
    assert crowd.served == ["other"]
    assert (places.free, len(room)) == (0, 1)
    places.add(1)
    await crowd.wake()
    assert crowd.served == ["other", "next"]


async def test_a_turn_that_is_not_settled_is_paid_back(room_of: Open) -> None:
    """A03: a request that came to nothing costs nothing."""
    room, places = room_of(), Places(2)
    for tenant, cost in (("a", 100.0), ("b", 10.0)):
        with await room.enter(ticket(tenant, cost=cost), places.claim) as turn:
            if tenant == "b":
                turn.settle(10.0)
    crowd = Crowd(room, places)
    await crowd.add("b", ticket("b"))
    await crowd.add("a", ticket("a"))
    places.add(1)
    await crowd.wake()
    assert crowd.served == ["a"]
    places.add(1)
    await crowd.wake()


async def test_a_full_queue_says_how_full_and_when_to_come_back(room_of: Open, telemetry: Telemetry) -> None:
    """A20."""
    room, places = room_of(max_waiting=2), Places()
    crowd = Crowd(room, places)
    await crowd.add("1", ticket())
    await crowd.add("2", ticket())
    with pytest.raises(Overloaded) as refused:
        await room.enter(ticket(), places.claim)
    expected = "No replica of 'm' has a place, and 2 requests wait already; `queue.max_waiting` is 2."
    assert refused.value.message == expected
    assert refused.value.status == 503
    assert b"retry-after: " in refused.value.header_lines() and b"retry-after-ms: " in refused.value.header_lines()
    assert numbers(telemetry)['headrace_queue_shed_total{deployment="m",shed="full"}'] == 1
    places.add(2)
    await crowd.wake()
    assert crowd.served == ["1", "2"]


async def test_a_better_class_displaces_and_the_displaced_is_told(room_of: Open, telemetry: Telemetry) -> None:
    """A20."""
    room, places = room_of(max_waiting=1), Places()
    crowd = Crowd(room, places)
    await crowd.add("batch", ticket(priority=2))
    await crowd.add("chat", ticket())
    error = crowd.tasks["batch"].exception()
    assert isinstance(error, Overloaded)
    assert error.message == "Too many requests wait for 'm', and others go first; `queue.max_waiting` is 1."
    assert error.retry_after_s is not None and 1.0 <= error.retry_after_s <= 120.0
    assert numbers(telemetry)['headrace_queue_shed_total{deployment="m",shed="displaced"}'] == 1
    places.add(1)
    await crowd.wake()
    assert crowd.served == ["chat"]


async def test_a_wait_that_is_too_long_ends_with_a_reason(room_of: Open, telemetry: Telemetry) -> None:
    """A20."""
    room, places = room_of(max_wait_s=0.1), Places()
    with pytest.raises(Overloaded) as refused:
        await room.enter(ticket(), places.claim)
    expected = r"The request waited 0\.[1-9] s for 'm', with 0 still ahead of it; `queue\.max_wait_s` is 0\.1\."
    assert re.fullmatch(expected, refused.value.message)
    assert len(room) == 0
    assert numbers(telemetry)['headrace_queue_shed_total{deployment="m",shed="timeout"}'] == 1


async def test_the_requests_own_time_ends_its_wait_as_well(room_of: Open) -> None:
    room, places = room_of(), Places()
    given = ticket(until_s=RealClock().monotonic() + 0.05)
    with pytest.raises(Overloaded, match=r"still ahead of it; the time of the request, `timeouts.total_s`, is up"):
        await room.enter(given, places.claim)


async def test_the_time_to_come_back_follows_the_rate_of_service(room_of: Open) -> None:
    """A20: at most 120 s."""
    room, places = room_of(max_waiting=400), Places()
    crowd = Crowd(room, places)
    for i in range(400):
        crowd.tasks[f"{i}"] = asyncio.create_task(crowd._one(f"{i}", ticket(), places))
    await soon()
    await asyncio.sleep(0.5)
    places.add(1)
    await crowd.wake()
    assert room.retry_after_s() > 120.0
    await crowd.add("fits", ticket())
    with pytest.raises(Overloaded) as refused:
        await room.enter(ticket(), places.claim)
    assert refused.value.retry_after_s == 120.0
    places.add(300)
    await crowd.wake()
    assert 0.1 < room.retry_after_s() < 10.0
    places.add(100)
    await crowd.wake()
    assert room.retry_after_s() < 1.0
    assert len(crowd.served) == 401
    assert crowd.turns["fits"].eta_s is not None and crowd.turns["399"].eta_s is not None


async def test_what_frees_up_by_time_alone_is_found(room_of: Open) -> None:
    room, places = room_of(), Places()
    crowd = Crowd(room, places)
    await crowd.add("waits", ticket())
    places.add(1)
    async with asyncio.timeout(10 * RECHECK_S):
        await crowd.tasks["waits"]
    assert crowd.turns["waits"].queued_s > 0.0


async def test_it_goes_on_looking_while_anybody_waits(room_of: Open) -> None:
    room, places = room_of(), Places()
    crowd = Crowd(room, places)
    await crowd.add("waits", ticket())
    asked = places.asked
    await asyncio.sleep(3.5 * RECHECK_S)
    assert places.asked - asked >= 2
    places.add(1)
    await crowd.wake()
    asked = places.asked
    await asyncio.sleep(1.5 * RECHECK_S)
    assert places.asked == asked, "nobody waits"


async def test_a_request_that_breaks_breaks_alone(room_of: Open) -> None:
    room, places = room_of(), Places()
    crowd = Crowd(room, places)
    broken = False

    def claim(strict: bool) -> Places | None:
        if broken:
            raise ZeroDivisionError("of this request")
        return None

    task = asyncio.create_task(room.enter(ticket("a", group=None), claim))
    await soon()
    await crowd.add("well", ticket("b"))
    broken = True
    places.add(1)
    await crowd.wake()
    assert isinstance(task.exception(), ZeroDivisionError)
    assert crowd.served == ["well"]
    with pytest.raises(ZeroDivisionError):
        await room.enter(ticket(), claim)


async def test_closing_turns_everybody_away(room_of: Open, telemetry: Telemetry) -> None:
    """A20, A23."""
    room, places = room_of(), Places(1)
    crowd = Crowd(room, Places())
    await crowd.add("waits", ticket())
    room.wake()
    room.close()
    await soon()
    error = crowd.tasks["waits"].exception()
    assert isinstance(error, Overloaded)
    assert error.message == "The gateway is shutting down; another one may answer."
    with pytest.raises(Overloaded):
        await room.enter(ticket(), places.claim)
    assert (len(room), places.free) == (0, 1)
    assert numbers(telemetry)['headrace_queue_shed_total{deployment="m",shed="closing"}'] == 2


async def test_after_a_storm_of_cancels_timeouts_and_errors_nothing_is_held(
    room_of: Open, telemetry: Telemetry
) -> None:
    """A03: with never more in service than there are places."""
    rng = random.Random(7)
    room = room_of(max_waiting=40, max_wait_s=0.2, age_s=0.1)
    places = {group: Places(3) for group in ("g", "h")}
    ends: Counter[str] = Counter()

    async def visit() -> None:
        group = rng.choice("gh")
        mine = places[group]

        def claim(strict: bool) -> Places | None:
            if rng.random() < 0.01:
                raise ZeroDivisionError
            return mine.claim(strict)

        given = ticket(rng.choice("abc"), group=group, priority=rng.randrange(3), cost=rng.uniform(1.0, 100.0))
        with await room.enter(given, claim) as turn:
            try:
                await asyncio.sleep(rng.choice((0.0, 0.001, 0.01)))
                if rng.random() < 0.7:
                    turn.settle(rng.uniform(0.0, 200.0))
            finally:
                turn.claim.release()
                room.wake()

    async def one() -> None:
        try:
            await visit()
            ends["served"] += 1
        except (Overloaded, ZeroDivisionError, asyncio.CancelledError) as end:
            ends[type(end).__name__] += 1

    tasks = []
    for _ in range(3000):
        tasks.append(asyncio.create_task(one()))
        if rng.random() < 0.5:
            await asyncio.sleep(rng.choice((0.0, 0.0, 0.001)))
        if rng.random() < 0.3:
            rng.choice(tasks[-60:]).cancel()
    await asyncio.wait(tasks)
    assert set(ends) == {"served", "Overloaded", "ZeroDivisionError", "CancelledError"}
    assert len(room) == 0
    assert {group: mine.free for group, mine in places.items()} == {"g": 3, "h": 3}
    assert room._recheck is None and room._called is None and not room._groups
    assert numbers(telemetry)['headrace_queue_length{deployment="m"}'] == 0
