"""What a caller may have in flight: reserved before the work, given back exactly once after it."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from gateway.errors import RateLimited
from gateway.identity import Caller
from gateway.record import Usage
from gateway.wire import Call


class Charge(Protocol):
    """A reservation. Leaving its `with` block gives back what was not settled, on success, error and cancellation."""

    def settle(self, usage: Usage) -> None:
        """Replace the reservation by what was really used."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


class Ledger(Protocol):
    async def reserve(self, caller: Caller, call: Call) -> Charge:
        """Reserve everything the call may need, or nothing.

        Raises:
            RateLimited: the caller is over a limit.
        """
        ...


class _Slot:
    __slots__ = ("_key_name", "_ledger")

    def __init__(self, ledger: LocalLedger, key_name: str) -> None:
        self._ledger: LocalLedger | None = ledger
        self._key_name = key_name

    def settle(self, usage: Usage) -> None:
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            ledger.free(self._key_name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._ledger is not None:
            self.settle(Usage())


class LocalLedger:
    """Counts requests in flight per key in this worker, and refuses what is over `max_parallel`."""

    def __init__(self) -> None:
        self._in_flight: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<LocalLedger in_flight={self._in_flight}>"

    async def reserve(self, caller: Caller, call: Call) -> _Slot:
        held = self._in_flight.get(caller.key_name, 0)
        if caller.max_parallel is not None and held >= caller.max_parallel:
            message = (
                f"Key {caller.key_name!r} already has {held} requests in flight; "
                f"its limit is max_parallel={caller.max_parallel}."
            )
            raise RateLimited(message, code="concurrency")
        self._in_flight[caller.key_name] = held + 1
        return _Slot(self, caller.key_name)

    def free(self, key_name: str) -> None:
        self._in_flight[key_name] -= 1
        if not self._in_flight[key_name]:
            del self._in_flight[key_name]
