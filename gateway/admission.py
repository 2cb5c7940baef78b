"""What a call may use: reserved before the work, settled exactly once after it."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from gateway.identity import Caller
    from gateway.limits.cost import Cost
    from gateway.limits.plan import Plan
    from gateway.record import Record


class Charge(Protocol):
    """A reservation. Leaving its `with` block settles it to what the record says was used, on success, error and
    cancellation."""

    header_lines: bytes
    """What every answer to the call says of the limits: ready lines, each ended by CRLF."""

    def settle(self) -> None:
        """Idempotent."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


class Ledger(Protocol):
    def plan(self, caller: Caller, deployment: str) -> Plan:
        """The limits that the call meets. Takes no time worth speaking of."""
        ...

    def reserve_now(self, plan: Plan, cost: Cost, record: Record) -> Charge | None:
        """As `reserve`, if nothing has to be waited for; else None."""
        ...

    async def reserve(self, plan: Plan, cost: Cost, record: Record) -> Charge:
        """Reserve everything the call may use, or nothing.

        record: the call's. What it says in the end is what was used.

        Raises:
            RateLimited: it would go over a limit.
            LimitsUnavailable: nobody can count now, and its organisation wants nothing admitted then.
        """
        ...


class _NoCharge:
    """Of a call that nothing limits."""

    __slots__ = ("header_lines",)

    def __init__(self) -> None:
        self.header_lines = b""

    def settle(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass


NO_CHARGE = _NoCharge()
