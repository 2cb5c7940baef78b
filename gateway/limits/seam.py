"""What a limit is, and who keeps count of it over all workers and gateways."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

SLOTS = 256
"""A sliding window is counted in so many parts: so under-use at the limit stays below 1 %."""


class Span(enum.StrEnum):
    """What time a limit is for."""

    MINUTE = "minute"
    """Any 60 seconds."""
    DAY = "day"
    """Any 24 hours."""
    UTC_DAY = "utc_day"
    UTC_MONTH = "utc_month"
    NOW = "now"
    """What is in flight."""


class Meter(NamedTuple):
    """One count that has a limit.

    key:   the same in all gateways; text that clients chose is escaped in it.
    limit: in units: requests, tokens, or billionths of a US dollar.
    """

    key: str
    limit: int
    span: Span


class Want(NamedTuple):
    """Units to be leased: at least `least` or none at all, at most `most`."""

    meter: Meter
    least: int
    most: int


class Grant(NamedTuple):
    """What was leased of one meter.

    amount:      units; 0: not even `least` is left.
    slot:        the part of the window that they are counted in.
    spend_by_s:  monotonic instant by which they must be spent or given back.
    left:        units that nobody has leased after this.
    resets_in_s: seconds until `least` may be had; if it was, until all of the limit is free again.
    """

    amount: int
    slot: int
    spend_by_s: float
    left: int
    resets_in_s: float


class Change(NamedTuple):
    """More was used than was leased in a slot (positive), or less (negative)."""

    meter: Meter
    slot: int
    units: int


class StoreLost(Exception):
    """The store does not answer in time. The message says which, and why."""


class Store(Protocol):
    """Keeps count. A lease counts from the moment it is given until its part of the window has passed."""

    async def take(self, wants: Sequence[Want]) -> list[Grant]:
        """Lease units of several meters, each by itself.

        Raises:
            StoreLost: nothing is leased, as far as anybody can tell.
        """
        ...

    async def change(self, changes: Sequence[Change]) -> None:
        """Correct what was leased.

        Raises:
            StoreLost: it is not corrected.
        """
        ...

    async def beat(self, held: Mapping[Meter, int]) -> None:
        """Say how much of each `Span.NOW` meter is held here; said no more for three seconds, it counts as given back.

        Raises:
            StoreLost: nobody was told.
        """
        ...

    async def aclose(self) -> None:
        """Give back what `beat` told of. Takes a moment at most."""
        ...
