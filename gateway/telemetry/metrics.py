"""Accumulators for one worker, and what becomes of them: snapshots that add up over processes.

A series is a plain list of floats: a counter or gauge has one; a histogram has one count per bucket, one for +Inf, and
the sum of what was observed. So merging is element-wise for every kind.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import Self

import msgspec

from gateway.telemetry.series import ALL, OTHER
from gateway.telemetry.shape import Fold, Kind, Series

Labels = tuple[str, ...]
Values = list[float]
Reader = Callable[[], Iterable[tuple[Labels, float]]]


class Snapshot(msgspec.Struct, frozen=True):
    """The values of every series at one moment, by metric name and label values. The wire form is msgpack.

    max_tenants: how many tenants the worker was allowed to name.
    """

    families: dict[str, list[tuple[Labels, Values]]]
    max_tenants: int = 100


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Snapshot)


class Bound:
    """Keeps label values few: the first `max_tenants` tenants, and at most `Series.max_children` sets per metric.

    First come, first kept: a series once admitted stays, so a counter never goes backwards. Whoever sums several
    workers keeps one of these, because each worker met its own first tenants. Who allows more than 100 tenants gets
    as many more series for them.
    """

    __slots__ = ("_admitted", "_scale", "_tenants", "max_tenants")

    def __init__(self, max_tenants: int) -> None:
        self.max_tenants = max_tenants
        self._scale = max(1.0, max_tenants / 100)
        self._tenants: set[str] = set()
        self._admitted: dict[str, set[Labels]] = {}

    def admit(self, series: Series, labels: Labels) -> Labels:
        """The label values to count under: `labels`, or the same with `other` in place of what is one too many."""
        admitted = self._admitted.setdefault(series.name, set())
        if labels in admitted:
            return labels
        by_tenant = "tenant" in series.labels
        most = series.max_children * (self._scale if by_tenant else 1.0)
        if by_tenant and not self._admit_tenant(labels[series.labels.index("tenant")]):
            labels = _spilled(series, labels, ("tenant",))
        elif len(admitted) >= most:
            labels = _spilled(series, labels, series.spill)
        admitted.add(labels)
        return labels

    def _admit_tenant(self, tenant: str) -> bool:
        if tenant in self._tenants or tenant in ("", OTHER):
            return True
        if len(self._tenants) >= self.max_tenants:
            return False
        self._tenants.add(tenant)
        return True


def _spilled(series: Series, labels: Labels, names: tuple[str, ...]) -> Labels:
    return tuple(OTHER if name in names and value else value for name, value in zip(series.labels, labels, strict=True))


class Gauge:
    """A number that goes up and down; as a context manager it is one higher inside."""

    __slots__ = ("_values",)

    def __init__(self, values: Values) -> None:
        self._values = values

    def inc(self, amount: float = 1.0) -> None:
        self._values[0] += amount

    def dec(self, amount: float = 1.0) -> None:
        self._values[0] -= amount

    def __enter__(self) -> Self:
        self._values[0] += 1.0
        return self

    def __exit__(self, *_: object) -> None:
        self._values[0] -= 1.0

    @property
    def value(self) -> float:
        return self._values[0]

    def __repr__(self) -> str:
        return f"<Gauge {self._values[0]:g}>"


def observe(values: Values, buckets: tuple[float, ...], value: float) -> None:
    """Count `value` in a histogram's series."""
    values[bisect_left(buckets, value)] += 1.0
    values[-1] += value


class Registry:
    """Every series of one worker. Not for use from several threads."""

    def __init__(self, bound: Bound) -> None:
        self._bound = bound
        self._families: dict[str, dict[Labels, Values]] = {name: {} for name in ALL}
        self._readers: list[tuple[Series, Reader]] = []

    def child(self, series: Series, labels: Labels = ()) -> Values:
        """The numbers behind one set of labels, made on first use; callers on the hot path keep the list."""
        labels = self._bound.admit(series, labels)
        family = self._families[series.name]
        values = family.get(labels)
        if values is None:
            values = family[labels] = [0.0] * series.width
        return values

    def watch(self, series: Series, read: Reader) -> None:
        """Ask `read` for label values and numbers each time that a snapshot is taken."""
        self._readers.append((series, read))

    def snapshot(self) -> bytes:
        families = {name: list(family.items()) for name, family in self._families.items() if family}
        for series, read in self._readers:
            rows = families.setdefault(series.name, [])
            rows.extend((self._bound.admit(series, labels), [float(value)]) for labels, value in read())
        return _encoder.encode(Snapshot(families, self._bound.max_tenants))


def merge(live: Iterable[bytes] = (), retired: Iterable[bytes] = (), *, bound: Bound | None = None) -> Snapshot:
    """Sum the snapshots of several workers.

    live:    of workers that run: everything counts.
    retired: the last ones of workers that ended, or what `retire` made of them: their counters and histograms stay in
             the sum, their gauges do not.
    bound:   the same object every time, so that which tenants have series of their own does not change between two
             scrapes. None: as many as one worker was allowed, as they come.

    Raises:
        msgspec.DecodeError: one of them is not a snapshot.
    """
    total: dict[str, dict[Labels, Values]] = {}
    ended, running = [[_decoder.decode(raw) for raw in group] for group in (retired, live)]
    if bound is None:
        bound = Bound(max((snapshot.max_tenants for snapshot in ended + running), default=100))
    for snapshot in ended:
        _add(total, snapshot.families, bound, gauges=False)
    for snapshot in running:
        _add(total, snapshot.families, bound, gauges=True)
    return Snapshot({name: list(family.items()) for name, family in total.items()}, bound.max_tenants)


def retire(snapshots: Iterable[bytes], *, bound: Bound | None = None) -> bytes:
    """Fold the last snapshots of ended workers into one, without their gauges, so that restarts cost no memory."""
    return _encoder.encode(merge(retired=snapshots, bound=bound))


def _add(
    total: dict[str, dict[Labels, Values]],
    families: Mapping[str, list[tuple[Labels, Values]]],
    bound: Bound,
    *,
    gauges: bool,
) -> None:
    for name, rows in families.items():
        series = ALL.get(name)
        if series is None or (series.kind is Kind.GAUGE and not gauges):
            continue
        family = total.setdefault(name, {})
        for labels, values in rows:
            if len(labels) == len(series.labels) and len(values) == series.width:
                _fold(series, family, bound.admit(series, labels), values)


def _fold(series: Series, family: dict[Labels, Values], labels: Labels, values: Values) -> None:
    known = family.get(labels)
    if known is None:
        family[labels] = values
    elif series.fold is Fold.SUM:
        family[labels] = [a + b for a, b in zip(known, values, strict=True)]
    else:
        family[labels] = [(min if series.fold is Fold.MIN else max)(known[0], values[0])]
