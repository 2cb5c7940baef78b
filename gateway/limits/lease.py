"""What this worker has leased of one meter: units that may be spent without asking anybody. Pure: time is passed in."""

from __future__ import annotations

import math
from typing import Final

from gateway.limits.seam import Grant, Meter

SLICES: Final = 100
"""At most one part in so many of a limit lies leased and unspent in a worker."""
RESERVE: Final = 8
"""At most one part in so many of what is left does so in all workers together."""
AHEAD_TICKS: Final = 10
"""A busy meter has leased what it spends in so many ticks."""
BUSY_USES: Final = 0.4
"""Calls in a tick, on average, from which on a meter is busy: 20 a second. Others lease what they need, when they need
it."""


class Parcel:
    """Units of one slot."""

    __slots__ = ("slot", "spend_by_s", "units")

    def __init__(self, slot: int, units: int, spend_by_s: float) -> None:
        self.slot = slot
        self.units = units
        self.spend_by_s = spend_by_s

    def __repr__(self) -> str:
        return f"{self.units}@{self.slot}"


class Draw:
    """What one call took of one meter. rest: what more it took, of other slots."""

    __slots__ = ("rest", "slot", "stock", "units")

    def __init__(self, stock: Stock, slot: int, units: int) -> None:
        self.stock = stock
        self.slot = slot
        self.units = units
        self.rest: list[tuple[int, int]] | None = None


class Stock:
    """Of one meter.

    free:     units that may be spent now; in `parcels` by slot, the oldest first. until_s: when the first must be gone.
    left:     units that nobody had leased when the store was last asked. resets_at_s: when all of the limit is free
              again; retry_at_s: when as much may be had as was refused last. As the store said.
    known_until_s: until then it is believed that no more than `left` may be leased.
    taken:    units here that the store counts as in flight: of `Span.NOW` alone.
    wanted, least: what calls wait for, together and the smallest of them.
    target:   units to have at hand; low: more are fetched below that.
    """

    __slots__ = (
        "awake",
        "free",
        "known_until_s",
        "least",
        "left",
        "low",
        "meter",
        "parcels",
        "rate",
        "resets_at_s",
        "retry_at_s",
        "slept_s",
        "taken",
        "target",
        "until_s",
        "use_rate",
        "used",
        "uses",
        "wanted",
    )

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.free = 0
        self.parcels: list[Parcel] = []
        self.until_s = math.inf
        self.left = 0
        self.resets_at_s = 0.0
        self.retry_at_s = 0.0
        self.known_until_s = 0.0
        self.taken = 0
        self.wanted = 0
        self.least = 0
        self.target = 0
        self.low = 0
        self.used = 0
        self.uses = 0
        self.rate = 0.0
        self.use_rate = 0.0
        self.awake = False
        self.slept_s = 0.0

    def __repr__(self) -> str:
        return f"<Stock {self.meter.key} free={self.free} {self.parcels} left={self.left}/{self.meter.limit}>"

    def draw(self, units: int) -> Draw:
        """Spend units, of which at least so many are free."""
        self.free -= units
        self.used += units
        self.uses += 1
        parcel = self.parcels[0]
        if parcel.units >= units:
            parcel.units -= units
            return Draw(self, parcel.slot, units)
        return self._draw_from_several(units)

    def _draw_from_several(self, units: int) -> Draw:
        parts: list[tuple[int, int]] = []
        for parcel in self.parcels:
            part = min(parcel.units, units)
            if part:
                parcel.units -= part
                units -= part
                parts.append((parcel.slot, part))
            if not units:
                break
        self._keep([parcel for parcel in self.parcels[:-1] if parcel.units] + self.parcels[-1:])
        draw = Draw(self, *parts[0])
        draw.rest = parts[1:] or None
        return draw

    def put_back(self, slot: int, units: int, now_s: float) -> bool:
        """Whether units that were not needed can be spent by the next call; else they are to go back to the store."""
        for parcel in self.parcels:
            if parcel.slot == slot and now_s < parcel.spend_by_s:
                parcel.units += units
                self.free += units
                self.known_until_s = 0.0
                return True
        return False

    def add(self, grant: Grant) -> None:
        """What the store has leased to this worker."""
        self.free += grant.amount
        last = self.parcels[-1] if self.parcels else None
        if last is not None and last.slot == grant.slot:
            last.units += grant.amount
            last.spend_by_s = min(last.spend_by_s, grant.spend_by_s)
            self.until_s = self.parcels[0].spend_by_s
        else:
            kept = [parcel for parcel in self.parcels if parcel.units]
            self._keep([*kept, Parcel(grant.slot, grant.amount, grant.spend_by_s)])

    def expire(self, now_s: float) -> list[tuple[int, int]]:
        """Slots and units whose time is up, to be given back."""
        over = [(parcel.slot, parcel.units) for parcel in self.parcels if parcel.spend_by_s <= now_s]
        self._keep([parcel for parcel in self.parcels if parcel.spend_by_s > now_s])
        self.free = sum(parcel.units for parcel in self.parcels)
        return [(slot, units) for slot, units in over if units]

    def shed(self, units: int) -> list[tuple[int, int]]:
        """Slots and units to be given back: so many together, the oldest first."""
        parts: list[tuple[int, int]] = []
        for parcel in self.parcels:
            part = min(parcel.units, units)
            if part:
                parcel.units -= part
                units -= part
                self.free -= part
                parts.append((parcel.slot, part))
        return parts

    def fresh(self, at_s: float) -> int:
        """Units that may still be spent at that time."""
        if at_s < self.until_s:
            return self.free
        return sum(parcel.units for parcel in self.parcels if parcel.spend_by_s > at_s)

    def plan(self, workers: int) -> None:
        """At each tick: what to have at hand, by what was spent since the last one."""
        self.rate = max(float(self.used), (self.rate + self.used) / 2)
        self.use_rate = max(float(self.uses), (self.use_rate + self.uses) / 2)
        self.used = self.uses = 0
        if self.use_rate < BUSY_USES:
            self.target = 0
        else:
            shared = (self.left + self.free) // (RESERVE * workers)
            self.target = min(self.meter.limit // SLICES, shared, int(self.rate * AHEAD_TICKS))
        self.low = self.target // 2

    def _keep(self, parcels: list[Parcel]) -> None:
        self.parcels = parcels
        self.until_s = parcels[0].spend_by_s if parcels else math.inf
