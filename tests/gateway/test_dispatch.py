"""Attempts: who is tried, how often and for how long (A19), and what is learnt of replicas (R04, R05)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.base import (
    EngineDied,
    EngineError,
    EngineRequest,
    EngineResponse,
    EngineTimeout,
    EngineUnreachable,
    Operation,
    Receiver,
    Timeouts,
)
from gateway.catalog import Deployment, Variant
from gateway.choice import Chooser
from gateway.config import AccessLog
from gateway.config import Telemetry as TelemetryOptions
from gateway.dispatch import Dispatcher
from gateway.errors import ApiError, NoHealthyBackend, Overloaded, UpstreamTimeout
from gateway.pools import Pool as LivePool
from gateway.record import Record
from gateway.replicas import Replica
from gateway.residency import ANYWHERE
from gateway.telemetry import Telemetry
from gateway.upstream import Outcome, rejection
from gateway.wire import Call
from router.load import Work
from router.policies.round_robin import RoundRobin
from router.prefix import PrefixIndex

HEADERS = b"x: y\r\n"
CALL = Call(Operation.CHAT, "m", False, False, b'{"model":"m"}')


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class Answer:
    """Implements `EngineResponse`."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.headers: dict[bytes, bytes] = {}
        self.last_data_s = 0.0
        self.aborts = 0

    async def read(self, limit_bytes: int) -> bytes:
        return b""

    def subscribe(self, receiver: Receiver) -> None:
        receiver.on_end()

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def abort(self) -> None:
        self.aborts += 1


Step = int | EngineError | type[asyncio.CancelledError]


class Scripted:
    """An engine that does what the script says, one step a request; the last step is repeated."""

    def __init__(self, name: str, clock: Clock, *script: Step, takes_s: float = 0.0) -> None:
        self.name = name
        self._clock = clock
        self._script = script
        self._takes_s = takes_s
        self.asked: list[tuple[EngineRequest, Timeouts]] = []
        self.answers: list[Answer] = []

    async def send(self, request: EngineRequest, timeouts: Timeouts) -> Answer:
        step = self._script[min(len(self.asked), len(self._script) - 1)]
        self.asked.append((request, timeouts))
        await self._clock.sleep(self._takes_s)
        if isinstance(step, int):
            self.answers.append(Answer(step))
            return self.answers[-1]
        raise step

    async def healthy(self) -> bool:
        return True

    async def aclose(self) -> None: ...


async def deliver(response: EngineResponse, work: Work) -> Outcome:
    """What a relay does with a status: success, or the rejection that it means."""
    if response.status == 200:
        return Outcome.FINE
    raise rejection(Operation.CHAT, response.status, {}, b"")


class Stage:
    """A dispatcher, its replicas, and the record of the last call."""

    def __init__(self, clock: Clock, *engines: Scripted, attempts: int = 3, timeouts: Timeouts | None = None) -> None:
        self.clock = clock
        self.engines = engines
        self.replicas = tuple(Replica(e.name, "p", "on-premise", "fake", e) for e in engines)
        variant = Variant("v", "engine/m", 1.0, (LivePool("p", replicas=self.replicas),))
        self.deployment = Deployment("m", (variant,), RoundRobin(), timeouts or Timeouts(5, 10, 10, 60), attempts)
        telemetry = Telemetry(TelemetryOptions(access_log=AccessLog(format="off")))
        self.dispatcher = Dispatcher(
            clock, random.Random(1), telemetry, Chooser(clock, random.Random(1), PrefixIndex())
        )
        self.record = Record(request_id="r", started_s=clock.monotonic())

    async def run(self, deliver: Callable[[EngineResponse, Work], object] = deliver) -> ApiError | None:
        """The error that the caller gets, None for an answer. Whatever happened, no lease is left."""
        self.record = Record(request_id="r", started_s=self.clock.monotonic())
        try:
            await self.dispatcher.run(self.deployment, CALL, ANYWHERE, HEADERS, self.record, deliver)  # type: ignore[arg-type]
        except ApiError as error:
            return error
        finally:
            assert [r.in_flight for r in self.replicas] == [0] * len(self.replicas)
            assert all(a.aborts for e in self.engines for a in e.answers)
        return None

    @property
    def asked(self) -> list[int]:
        return [len(engine.asked) for engine in self.engines]


@pytest.fixture
def clock() -> Iterator[Clock]:
    yield Clock()


async def test_an_answer_at_once_takes_one_attempt(clock: Clock) -> None:
    stage = Stage(clock, Scripted("a", clock, 200), Scripted("b", clock, 200))
    assert await stage.run() is None
    assert stage.asked == [1, 0]
    request, limits = stage.engines[0].asked[0]
    assert request == EngineRequest(Operation.CHAT, b'{"model":"engine/m"}', False, b"x: y\r\n")
    assert limits == Timeouts(5, 10, 10, 60)
    record = stage.record
    assert (record.attempts, record.variant, record.pool, record.replica) == (1, "v", "p", "a")
    assert (record.engine_kind, record.engine_model) == ("fake", "engine/m")
    assert repr(stage.replicas[0]) == (
        "<Replica a in_flight=0 served=1 <Breaker failures=0 probing=False open_until_s=0.000>>"
    )


_FAILURES: list[Step] = [
    500,
    503,
    429,
    401,
    EngineDied("x"),
    EngineUnreachable("x"),
    EngineTimeout("x", phase="connect", limit_s=1),
    EngineTimeout("x", phase="ttft", limit_s=1),
    EngineTimeout("x", phase="idle", limit_s=1),
]


@pytest.mark.parametrize("failure", _FAILURES, ids=repr)
async def test_what_another_replica_may_do_better_goes_to_another(clock: Clock, failure: Step) -> None:
    """A19, R04"""
    stage = Stage(clock, Scripted("a", clock, failure), Scripted("b", clock, failure), Scripted("c", clock, 200))
    assert await stage.run() is None
    assert stage.asked == [1, 1, 1]
    assert stage.record.attempts == 3


@pytest.mark.parametrize(
    "failure",
    [
        400,
        413,
        409,
        404,
        EngineTimeout("x", phase="total", limit_s=1),
    ],
    ids=repr,
)
async def test_what_no_other_replica_would_do_better_is_not_tried_again(clock: Clock, failure: Step) -> None:
    """A19"""
    stage = Stage(clock, Scripted("a", clock, failure), Scripted("b", clock, 200))
    assert await stage.run() is not None
    assert stage.asked == [1, 0]


@pytest.mark.parametrize(("attempts", "asked"), [(1, 1), (2, 2), (3, 3), (10, 4)])
async def test_attempts_are_finite_and_no_replica_is_asked_twice(clock: Clock, attempts: int, asked: int) -> None:
    """A19"""
    stage = Stage(clock, *(Scripted(f"e{i}", clock, EngineDied("x")) for i in range(4)), attempts=attempts)
    error = await stage.run()
    assert error is not None
    assert (error.status, error.code) == (502, "upstream_died")
    assert sum(stage.asked) == asked
    assert max(stage.asked) == 1
    assert stage.record.attempts == asked


async def test_when_all_have_failed_one_that_did_so_a_while_ago_is_asked_again(clock: Clock) -> None:
    """R04: it may be back; until then a call of many attempts would be lost to a second of trouble everywhere."""
    flaky = Scripted("a", clock, EngineDied("x"), 200, takes_s=1.0)
    stage = Stage(clock, flaky, Scripted("b", clock, EngineDied("x"), takes_s=1.0), attempts=10)
    assert await stage.run() is None
    assert stage.asked == [2, 1]
    assert stage.record.attempts == 3


@pytest.mark.parametrize("takes_s", [0.0, 5.0])
async def test_the_only_replica_is_not_asked_again(clock: Clock, takes_s: float) -> None:
    """A19: the answer comes at once."""
    stage = Stage(clock, Scripted("a", clock, EngineDied("x"), 200, takes_s=takes_s), attempts=10)
    before_s = clock.now_s
    assert await stage.run() is not None
    assert stage.asked == [1]
    assert clock.now_s - before_s == takes_s


async def test_time_runs_over_all_attempts_together(clock: Clock) -> None:
    """A19: what an attempt has used is not there for the next."""
    engines = [Scripted(f"e{i}", clock, EngineUnreachable("x"), takes_s=4.0) for i in range(5)]
    stage = Stage(clock, *engines, attempts=5, timeouts=Timeouts(5, 10, 10, 10))
    error = await stage.run()
    assert isinstance(error, UpstreamTimeout)
    assert (error.code, error.message) == ("total_timeout", "No answer within total timeout of 10 s.")
    assert stage.asked == [1, 1, 1, 0, 0]
    assert [e.asked[0][1].total_s for e in engines[:3]] == [10.0, 6.0, 2.0]
    assert [e.asked[0][1].ttft_s for e in engines[:3]] == [10.0] * 3
    assert stage.record.upstream_s == pytest.approx(12.0)


async def test_without_a_total_limit_only_attempts_are_counted(clock: Clock) -> None:
    engines = [Scripted(f"e{i}", clock, EngineUnreachable("x"), takes_s=1e6) for i in range(3)]
    stage = Stage(clock, *engines, attempts=2, timeouts=Timeouts(5, None, None, None))
    assert isinstance(await stage.run(), NoHealthyBackend)
    assert sum(stage.asked) == 2


async def test_a_broken_answer_that_has_begun_is_not_tried_again_but_counts(clock: Clock) -> None:
    """A08: nothing is retried after the first byte; the breaker counts it."""

    async def broke_off(response: EngineResponse, work: Work) -> Outcome:
        return Outcome.BROKEN

    stage = Stage(clock, Scripted("a", clock, 200), attempts=3)
    for _ in range(3):
        assert await stage.run(broke_off) is None
    assert stage.asked == [3]
    assert isinstance(await stage.run(), NoHealthyBackend)
    assert stage.asked == [3]


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422])
async def test_a_callers_mistakes_never_open_a_breaker(clock: Clock, status: int) -> None:
    """R05"""
    stage = Stage(clock, Scripted("a", clock, status))
    for _ in range(20):
        assert await stage.run() is not None
    assert stage.asked == [20]


@pytest.mark.parametrize("status", [429, 503])
async def test_a_full_engine_is_not_a_broken_one(clock: Clock, status: int) -> None:
    """R05"""
    stage = Stage(clock, Scripted("a", clock, status))
    for _ in range(20):
        error = await stage.run()
        assert error is not None
        assert error.status == status
        assert error.retry_after_s == 1.0
    assert stage.asked == [20]


async def test_with_every_replica_down_the_answer_names_the_wait_and_asks_nobody(clock: Clock) -> None:
    """A19, A20"""
    stage = Stage(clock, Scripted("a", clock, EngineUnreachable("x")), Scripted("b", clock, EngineDied("x")))
    for _ in range(3):
        await stage.run()
    error = await stage.run()
    assert isinstance(error, NoHealthyBackend)
    assert error.message == "No replica of 'v' is healthy; 2 are configured."
    assert stage.asked == [3, 3]
    assert stage.record.attempts == 0
    assert b"retry-after: 1\r\n" in error.header_lines()


async def test_a_replica_comes_back_by_one_probe(clock: Clock) -> None:
    """R05"""
    stage = Stage(clock, Scripted("a", clock, *[EngineDied("x")] * 3, 200))
    for _ in range(3):
        await stage.run()
    assert isinstance(await stage.run(), NoHealthyBackend)
    clock.now_s += 0.5
    inside: list[object] = []

    async def nested(response: EngineResponse, work: Work) -> Outcome:
        inside.append(stage.replicas[0].breaker.state(clock.monotonic()))
        return Outcome.FINE

    assert await stage.run(nested) is None
    assert inside == ["half_open"]
    assert stage.replicas[0].breaker.state(clock.monotonic()) == "closed"


async def test_a_second_request_waits_for_the_probes_answer_to_begin_and_no_longer(clock: Clock) -> None:
    """R05: the probe of a pool's only replica may be a stream of minutes."""
    stage = Stage(clock, Scripted("a", clock, *[EngineDied("x")] * 3, 200))
    for _ in range(3):
        await stage.run()
    clock.now_s += 0.5
    replica = stage.replicas[0]
    allowed: list[bool] = []

    async def slow(response: EngineResponse, work: Work) -> Outcome:
        allowed.append(replica.breaker.allows(clock.monotonic()))
        return Outcome.FINE

    lease = replica.lease(0.0)
    with lease:
        assert lease.probe
        assert not replica.breaker.allows(clock.monotonic())
        replica.breaker.answered(probe=lease.probe)
        assert replica.breaker.allows(clock.monotonic())
    assert await stage.run(slow) is None
    assert allowed == [True]


async def test_a_call_that_is_cancelled_says_nothing_about_its_replica(clock: Clock) -> None:
    """A01, A03"""
    stage = Stage(clock, Scripted("a", clock, asyncio.CancelledError))
    for _ in range(5):
        with pytest.raises(asyncio.CancelledError):
            await stage.run()
    assert "failures=0" in repr(stage.replicas[0].breaker)
    hung = asyncio.Event()

    async def forever(response: EngineResponse, work: Work) -> Outcome:
        hung.set()
        await asyncio.Event().wait()
        return Outcome.FINE

    stage = Stage(clock, Scripted("a", clock, 200))
    task = asyncio.create_task(stage.run(forever))
    await hung.wait()
    assert stage.replicas[0].in_flight == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stage.replicas[0].in_flight == 0
    assert stage.engines[0].answers[0].aborts == 1


async def test_replicas_at_their_limit_are_passed_over_and_named(clock: Clock) -> None:
    stage = Stage(clock, Scripted("a", clock, 200), Scripted("b", clock, 200))
    for replica in stage.replicas:
        replica.max_in_flight = 1
    with stage.replicas[0].lease(0.0):
        assert stage.replicas[0].full
        await stage.dispatcher.run(stage.deployment, CALL, ANYWHERE, b"", stage.record, deliver)
        assert stage.asked == [0, 1]
        with stage.replicas[1].lease(0.0), pytest.raises(Overloaded, match="at its `max_in_flight`") as caught:
            await stage.dispatcher.run(stage.deployment, CALL, ANYWHERE, b"", stage.record, deliver)
        assert caught.value.retry_after_s == 1.0
    assert await stage.run() is None


async def test_a_lease_is_given_back_exactly_once(clock: Clock) -> None:
    replica = Replica("a", "p", "cloud", "fake", Scripted("a", clock, 200))
    lease = replica.lease(0.0)
    assert (replica.in_flight, replica.served) == (1, 1)
    for _ in range(3):
        with lease:
            pass
    assert (replica.in_flight, replica.served) == (0, 1)


async def test_a_variant_without_replicas_is_told_at_once(clock: Clock) -> None:
    stage = Stage(clock)
    error = await stage.run()
    assert isinstance(error, NoHealthyBackend)
    assert error.message == "No replica of 'v' is healthy; 0 are configured."


_STEPS = st.sampled_from([200, 200, *_FAILURES, 400, EngineTimeout("x", phase="total", limit_s=1)])


@settings(deadline=None)
@given(
    scripts=st.lists(st.lists(_STEPS, min_size=1, max_size=6), min_size=1, max_size=5),
    attempts=st.integers(1, 6),
    pauses=st.lists(st.sampled_from([0.0, 0.3, 5.0, 60.0]), min_size=1, max_size=25),
)
def test_whatever_the_engines_do_a_call_ends_within_its_budget_and_leaves_nothing(
    scripts: list[list[Step]], attempts: int, pauses: list[float]
) -> None:
    """A03, A19"""
    clock = Clock()
    stage = Stage(clock, *(Scripted(f"e{i}", clock, *s) for i, s in enumerate(scripts)), attempts=attempts)

    async def play() -> None:
        for pause_s in pauses:
            clock.now_s += pause_s
            before = stage.asked
            error = await stage.run()
            spent = [after - b for after, b in zip(stage.asked, before, strict=True)]
            assert max(spent) <= 1
            assert sum(spent) == stage.record.attempts <= attempts
            if error is None:
                assert stage.record.attempts
            if error is not None and error.status in (429, 503):
                assert error.retry_after_s is not None
                assert 0 < error.retry_after_s <= 120

    asyncio.run(play())
