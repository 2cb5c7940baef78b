"""Counts in the memory of one process, for a gateway of one worker that has no other store."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

from gateway.clock import Clock, wall_time_s
from gateway.limits.seam import Change, Grant, Meter, Span, Want
from gateway.limits.window import CALENDAR, SPAN_S, CalendarWindow, InFlight, Lease, SlidingWindow, Window

_SWEEP_EVERY_S = 60.0


class LocalCounts:
    """What the stores of one process share. A meter takes up a few kilobytes, until it has been idle for its span."""

    def __init__(self, clock: Clock, unix_s: Callable[[], float] = wall_time_s) -> None:
        self._clock = clock
        self._unix_s = unix_s
        self._windows: dict[str, Window] = {}
        self._in_flight: dict[str, InFlight] = {}
        self._sweep_s = 0.0
        self._names = itertools.count()

    def __repr__(self) -> str:
        return f"<LocalCounts {self._windows | self._in_flight}>"

    def __len__(self) -> int:
        """Meters that take up memory."""
        return len(self._windows) + len(self._in_flight)

    def new_holder(self) -> str:
        return str(next(self._names))

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def take(self, want: Want, holder: str) -> Lease:
        meter = want.meter
        now_s = self._now_s(meter.span)
        if meter.span is Span.NOW:
            return self._flight(meter).take(holder, want.least, want.most, meter.limit, now_s)
        return self._window(meter).take(want.least, want.most, meter.limit, now_s)

    def change(self, change: Change, holder: str) -> None:
        meter = change.meter
        now_s = self._now_s(meter.span)
        if meter.span is Span.NOW:
            self._flight(meter).change(holder, change.units, now_s)
        else:
            self._window(meter).change(change.slot, change.units, now_s)

    def hold(self, meter: Meter, count: int, holder: str) -> None:
        self._flight(meter).hold(holder, count, self._now_s(meter.span))

    def sweep(self) -> None:
        """Forget idle meters, now and then."""
        now_s = self._clock.monotonic()
        if now_s < self._sweep_s:
            return
        self._sweep_s = now_s + _SWEEP_EVERY_S
        unix_s = self._unix_s()
        for key, window in list(self._windows.items()):
            if window.is_idle(unix_s if isinstance(window, CalendarWindow) else now_s):
                del self._windows[key]
        for key, flight in list(self._in_flight.items()):
            if flight.is_idle(now_s):
                del self._in_flight[key]

    def _now_s(self, span: Span) -> float:
        return self._unix_s() if span in CALENDAR else self._clock.monotonic()

    def _window(self, meter: Meter) -> Window:
        window = self._windows.get(meter.key)
        if window is None:
            sliding = SPAN_S.get(meter.span)
            window = SlidingWindow(sliding) if sliding is not None else CalendarWindow(meter.span)
            self._windows[meter.key] = window
        return window

    def _flight(self, meter: Meter) -> InFlight:
        flight = self._in_flight.get(meter.key)
        if flight is None:
            flight = self._in_flight[meter.key] = InFlight()
        return flight


class LocalStore:
    """Implements `Store`. Each is a holder of its own of what is in flight. Nothing awaits, and it is never lost."""

    def __init__(self, counts: LocalCounts) -> None:
        self._counts = counts
        self._me = counts.new_holder()
        self._held: dict[str, Meter] = {}

    def __repr__(self) -> str:
        return f"<LocalStore {self._me} of {self._counts!r}>"

    async def take(self, wants: Sequence[Want]) -> list[Grant]:
        self._counts.sweep()
        return [self._take(want) for want in wants]

    async def change(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self._counts.change(change, self._me)

    async def beat(self, held: Mapping[Meter, int]) -> None:
        self._held = {meter.key: meter for meter in held}
        for meter, count in held.items():
            self._counts.hold(meter, count, self._me)

    async def aclose(self) -> None:
        for meter in self._held.values():
            self._counts.hold(meter, 0, self._me)
        self._held.clear()

    def _take(self, want: Want) -> Grant:
        if want.meter.span is Span.NOW:
            self._held[want.meter.key] = want.meter
        now_s = self._counts.monotonic()
        lease = self._counts.take(want, self._me)
        return Grant(lease.amount, lease.slot, now_s + lease.spend_in_s, lease.left, lease.resets_in_s)
