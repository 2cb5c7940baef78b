"""Model calls that the gateway makes for itself: after everybody else's, and in nobody's name but its own."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import replace

from engines.base import EngineResponse, Operation
from gateway.catalog import Catalog, Deployment
from gateway.choice import STRICT_S, has_room, spare_places
from gateway.clock import Clock
from gateway.dispatch import Dispatcher
from gateway.errors import ApiError
from gateway.identity import Caller
from gateway.pools import Pool
from gateway.prices import PriceTable, cost
from gateway.record import Record
from gateway.relay import MAX_ERROR_BYTES
from gateway.replicas import Replica
from gateway.residency import Clearance
from gateway.telemetry import Telemetry
from gateway.upstream import Outcome, check_whole, rejection
from gateway.wire import Call
from router.load import Work

TENANT = "headrace-cache"
"""Whose usage they are."""
MAX_ANSWER_BYTES = 1024 * 1024
_CLOUD = "cloud"
_GEN_AI_OPERATION = {Operation.CHAT: "chat", Operation.COMPLETIONS: "text_completion"}
_ONE = 1_000_000_000


class Busy(Exception):
    """Others need the engines: not now."""


class Unreachable(Exception):
    """The call may not go to any replica, now or later."""


class OwnCalls:
    """
    rooms: where others wait; while anybody does, no call is made.
    """

    def __init__(
        self,
        catalog: Catalog,
        dispatcher: Dispatcher,
        telemetry: Telemetry,
        clock: Clock,
        rooms: Iterable[Sized],
        prices: PriceTable,
    ) -> None:
        self._catalog = catalog
        self._dispatcher = dispatcher
        self._telemetry = telemetry
        self._clock = clock
        self._rooms = rooms
        self._prices = prices
        self._prefix = secrets.token_hex(8)
        self._ids = itertools.count(1)

    async def ask(
        self, deployment: str, call: Call, clearance: Clearance, purpose: str, paid: Callable[[int], None]
    ) -> bytes:
        """The whole answer to a call that is no stream.

        clearance: of the texts in it; no other pool gets them.
        purpose: in place of a key's name. paid: is told what it cost, in 10^-9 $, answered or not.

        Raises:
            Busy: there is no place that nobody else could want.
            Unreachable: no pool of the deployment may see it.
            ApiError: no answer.
        """
        asked, clearance = self._aside(self._catalog.resolve(deployment, _OWN), clearance)
        if not self._is_idle(asked, clearance):
            raise Busy
        record = Record(
            request_id=f"own_{self._prefix}{next(self._ids):08x}",
            started_s=self._clock.monotonic(),
            own_id=True,
            path="/internal/cache",
            operation=_GEN_AI_OPERATION[call.operation],
            tenant=TENANT,
            key_name=purpose,
            deployment=asked.name,
            sensitivity=clearance.name,
            untraced=not clearance.traced,
        )
        answer = _Answer(call, record)
        span = self._telemetry.begin(record)
        try:
            with self._telemetry.in_flight(asked.name):
                headers = b"x-request-id: %b\r\n" % record.request_id.encode()
                await self._dispatcher.run(asked, call, clearance, headers, record, answer.deliver)
        except ApiError as error:
            error.clean(self._telemetry.redactor.text)
            record.note(error)
            record.status = error.status
            raise
        except BaseException:
            record.status = 499
            raise
        finally:
            record.ended_s = self._clock.monotonic()
            self._telemetry.finish(record, span)
            paid(self._price(record))
        return answer.body

    def _aside(self, deployment: Deployment, clearance: Clearance) -> tuple[Deployment, Clearance]:
        """As it is for calls that neither wait, nor spill, nor are worth a second attempt."""
        if deployment.ladder is not None:
            pools = frozenset(p.name for p in _pools(deployment) if p.site != _CLOUD and clearance.admits(p.name))
            clearance = replace(clearance, pools=pools) if pools else clearance
        if not deployment.admits(clearance):
            raise Unreachable
        return (
            replace(deployment, queue=None, room=None, hedging=None, ladder=None, attempts=1, fallbacks={}),
            clearance,
        )

    def _is_idle(self, deployment: Deployment, clearance: Clearance) -> bool:
        if any(len(room) for room in self._rooms):
            return False
        now_s = self._clock.monotonic()
        replicas = [r for p in _pools(deployment) if clearance.admits(p.name) for r in p.replicas]
        return any(_is_free(r, now_s) for r in replicas) and spare_places(replicas)

    def _price(self, record: Record) -> int:
        price = self._prices.find(record.engine_model)
        return 0 if price is None else round(cost(price, record.usage) * _ONE)


class _Answer:
    """Takes the answer to nobody."""

    def __init__(self, call: Call, record: Record) -> None:
        self._call = call
        self._record = record
        self.body = b""

    async def deliver(self, response: EngineResponse, work: Work) -> Outcome:
        call, record = self._call, self._record
        if response.status != 200:
            body = await response.read(MAX_ERROR_BYTES)
            raise rejection(call.operation, response.status, response.headers, body, record.engine_kind)
        body = await response.read(MAX_ANSWER_BYTES)
        record.usage, record.finish_reason = check_whole(call.operation, body)
        record.status, self.body = 200, body
        return Outcome.FINE


def _pools(deployment: Deployment) -> Sequence[Pool]:
    return [pool for variant in deployment.variants if variant.weight for pool in variant.pools]


def _is_free(replica: Replica, now_s: float) -> bool:
    """Nobody has to wait for whom it is sent to it."""
    if replica.full or replica.rests_until_s > now_s or not replica.breaker.allows(now_s):
        return False
    return has_room(replica.load, now_s, STRICT_S)


_OWN = Caller(key_name="", tenant=TENANT)
