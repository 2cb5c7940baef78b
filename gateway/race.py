"""Two attempts at one call: the first byte wins, and the other attempt is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from engines.base import EngineError, EngineRequest, EngineResponse, Timeouts
from gateway.choice import Chooser
from gateway.clock import Clock
from gateway.errand import Errand
from gateway.hedge import Gate
from gateway.record import Record
from gateway.replicas import Lease, Replica
from gateway.telemetry import Telemetry
from gateway.upstream import Outcome, Rejection
from router.load import Work


class _Runner:
    """One attempt up to its first byte. Whatever it holds is given back by `close`, exactly once."""

    def __init__(
        self,
        lease: Lease,
        request: EngineRequest,
        limits: Timeouts,
        deliver: Callable[[EngineResponse, Work], Awaitable[Outcome]],
    ) -> None:
        self.replica = lease.replica
        self.response: EngineResponse | None = None
        self._deliver = deliver
        self._lease: Lease | None = lease
        self.work = lease.work
        self.task = asyncio.get_running_loop().create_task(self._open(request, limits))

    @property
    def failure(self) -> BaseException | None:
        return self.task.exception() if self.task.done() and not self.task.cancelled() else None

    @property
    def ready(self) -> bool:
        return self.task.done() and not self.task.cancelled() and self.task.exception() is None

    async def _open(self, request: EngineRequest, limits: Timeouts) -> None:
        response = self.response = await self.replica.engine.send(request, limits)
        if response.status != 200:
            await self._deliver(response, self.work)  # raises what the status means
        if self._lease is not None:
            self.replica.breaker.answered(probe=self._lease.probe)
        if request.stream and response.headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            gate = Gate(response)
            await gate.opened()
            self.response = gate

    def close(self) -> Lease | None:
        """Give back everything. Returns the lease, if it was still held."""
        lease, self._lease = self._lease, None
        if lease is None:
            return None
        self.task.cancel()
        failure = self.failure
        if failure is not None:
            failure.__traceback__ = None  # it leads to this object: a cycle
        if self.response is not None:
            self.response.abort()
        lease.give_back()
        return lease


class Race:
    """One call's.

    second: gives a place at another replica and its limits, if there is one and it may be asked as well.
    """

    def __init__(
        self,
        clock: Clock,
        telemetry: Telemetry,
        chooser: Chooser,
        errand: Errand,
        record: Record,
        deliver: Callable[[EngineResponse, Work], Awaitable[Outcome]],
        second: Callable[[], tuple[Lease, Timeouts] | None],
    ) -> None:
        self._clock = clock
        self._telemetry = telemetry
        self._chooser = chooser
        self._errand = errand
        self._deployment = errand.deployment
        self._request = errand.request
        self._record = record
        self._deliver = deliver
        self._second = second

    async def run(self, lease: Lease, limits: Timeouts, delay_s: float) -> None:
        """Returns when the answer, whole or broken off, is with the client.

        Raises:
            Rejection, EngineError: neither attempt brought one; what is said is how the first failed.
        """
        began_s = self._clock.monotonic()
        runners = [self._start(lease, limits)]
        winner: _Runner | None = None
        try:
            await asyncio.wait((runners[0].task,), timeout=delay_s)
            if not runners[0].task.done() and (found := self._second()) is not None:
                self._record.hedged = True
                runners.append(self._start(*found))
            winner = await self._winner(runners)
            self._learn(began_s)
            for runner in runners:
                if runner is not winner:
                    self._close(runner)
            await self._relay(winner)
        finally:
            self._record.upstream_s += self._clock.monotonic() - began_s
            if len(runners) > 1:
                self._telemetry.hedge(self._deployment.name, won=winner is runners[1])
            for runner in runners:
                self._close(runner)
            unended = [runner.task for runner in runners if not runner.task.done()]
            runners.clear()
            winner = None
            if unended:
                await asyncio.wait(unended)

    def _start(self, lease: Lease, limits: Timeouts) -> _Runner:
        self._record.attempts += 1
        self._name(lease.replica)
        return _Runner(lease, self._errand.request, limits, self._deliver)

    def _name(self, replica: Replica) -> None:
        record = self._record
        record.pool, record.replica, record.engine_kind = replica.pool, replica.name, replica.kind

    def _learn(self, began_s: float) -> None:
        hedging = self._deployment.hedging
        if hedging is not None:
            hedging.learn(self._clock.monotonic() - began_s, stream=self._request.stream)

    async def _relay(self, winner: _Runner) -> None:
        self._name(winner.replica)
        assert winner.response is not None
        outcome = Outcome.ABANDONED
        try:
            outcome = await self._deliver(winner.response, winner.work)
        except Rejection as rejected:
            outcome = rejected.outcome
            self._chooser.refused(winner.replica, rejected)
            raise
        except EngineError:
            outcome = Outcome.BROKEN
            raise
        finally:
            self._close(winner, outcome)

    def _close(self, runner: _Runner, outcome: Outcome = Outcome.ABANDONED) -> None:
        failure = runner.failure
        if isinstance(failure, Rejection):
            outcome = failure.outcome
        elif isinstance(failure, EngineError):
            outcome = Outcome.BROKEN
        lease = runner.close()
        if lease is not None:
            self._chooser.ended(self._errand, lease, outcome, self._record.usage)
            if isinstance(failure, Rejection):
                self._chooser.refused(runner.replica, failure)
            self._telemetry.attempt(runner.replica.pool, runner.replica.name, outcome)

    async def _winner(self, runners: list[_Runner]) -> _Runner:
        """The first that has an answer. One that fails is judged at once.

        Raises:
            Rejection, EngineError: none has one, or it is known that none will.
        """
        while True:
            for runner in runners:
                if runner.ready:
                    return runner
                failure = runner.failure
                if failure is not None:
                    self._close(runner)
                if isinstance(failure, Rejection) and failure.outcome is Outcome.FINE:
                    raise failure
            pending = [runner.task for runner in runners if not runner.task.done()]
            if not pending:
                failure = runners[0].failure
                assert failure is not None
                raise failure
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
