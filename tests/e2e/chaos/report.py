"""What a run came to: who is to blame for what, a table for people, and the verdict."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtest.report import quantile
from tests.e2e.chaos.client import Asked, Fate
from tests.e2e.chaos.faults import FAULTS, UNSEEN
from tests.e2e.chaos.ledger import Arrival, Ledger
from tests.e2e.chaos.replica import Trouble

P99_LIMIT = 1.2
_COLUMNS = ("faults", "touched", "retried", "broken off", "lost", "wrong")


@dataclass
class Findings:
    """A run, judged.

    calm:       requests of the quiet phases; none of them may have failed.
    unaffected: requests of the noisy phases that met no fault.
    offences:   what breaks a promise, a line each.
    """

    calm: list[Asked]
    chaotic: list[Asked]
    troubles: list[Trouble]
    ledger: Ledger
    unaffected: list[Asked] = field(default_factory=list)
    offences: list[str] = field(default_factory=list)
    by_kind: dict[str, Counter[str]] = field(default_factory=dict)
    at_rest: str = ""
    """What the worker held before and after."""

    def __post_init__(self) -> None:
        self.by_kind = {kind: Counter(faults=0) for kind in FAULTS}
        for trouble in self.troubles:
            self.by_kind[trouble.kind]["faults"] += 1
        for asked in self.chaotic:
            self._attribute(asked)
        for asked in (*self.calm, *self.chaotic):
            self.offences += offences_of(asked, self.ledger.of(asked.request_id))
        self.offences += [f"{a.request_id}: {a.fate} in a quiet phase, {a.why}" for a in self.calm if _failed(a)]

    def _attribute(self, asked: Asked) -> None:
        """To each kind of fault that it met."""
        kinds = {trouble.kind for trouble in met(asked, self.ledger.of(asked.request_id), self.troubles)}
        if not kinds and asked.attempts == 1:
            self.unaffected.append(asked)
        for kind in kinds:
            row = self.by_kind[kind]
            row["touched"] += 1
            row["retried"] += _retried(asked, self.ledger)
            row[str(asked.fate)] += 1

    @property
    def p99_ratio(self) -> float:
        """Of whole times, unaffected requests under chaos over calm ones."""
        calm_ms = times_ms(self.calm)[1]
        return times_ms(self.unaffected)[1] / calm_ms if calm_ms else math.inf

    def table(self) -> str:
        lines = [f"{'fault':16}" + "".join(f"{name:>12}" for name in _COLUMNS)]
        for kind, row in self.by_kind.items():
            lines.append(f"{kind:16}" + "".join(f"{row[name]:12}" for name in _COLUMNS))
        fates = Counter(str(asked.fate) for asked in self.chaotic)
        total = {
            "faults": len(self.troubles),
            "touched": len(self.chaotic) - len(self.unaffected),
            "retried": sum(_retried(asked, self.ledger) for asked in self.chaotic),
            **fates,
        }
        lines.append(f"{'all, each once':16}" + "".join(f"{total.get(name, 0):12}" for name in _COLUMNS))
        lines.append(f"answered: {fates['answered']} of {len(self.chaotic)} under chaos")
        lines += [self._times("streams", stream=True), self._times("whole", stream=False)]
        lines.append(f"p99 of unaffected requests over calm: {self.p99_ratio:.3f} (limit {P99_LIMIT:g})")
        lines.append(self.at_rest)
        return "\n".join(lines)

    def _times(self, name: str, *, stream: bool) -> str:
        calm = times_ms([asked for asked in self.calm if asked.stream is stream])
        unaffected = times_ms([asked for asked in self.unaffected if asked.stream is stream])
        return (
            f"{name:8} p50/p99 ms  calm {calm[0]:.0f}/{calm[1]:.0f}  unaffected {unaffected[0]:.0f}/{unaffected[1]:.0f}"
        )


def times_ms(asked: Sequence[Asked]) -> tuple[float, float]:
    """Median and 99th percentile of whole times of what was answered."""
    times = sorted((one.end_s - one.sent_s) * 1e3 for one in asked if one.fate is Fate.ANSWERED)
    return (quantile(times, 0.5), quantile(times, 0.99)) if times else (0.0, 0.0)


def met(asked: Asked, arrivals: Sequence[Arrival], troubles: Sequence[Trouble]) -> list[Trouble]:
    """The faults that a request met: those at replicas that it reached, while it was there, and, if the gateway made
    more attempts than arrived anywhere, those of kinds that let nothing arrive."""
    hidden = asked.attempts != len(arrivals)
    reached = {arrival.replica: arrival.at_s for arrival in reversed(arrivals)}
    return [
        trouble
        for trouble in troubles
        if trouble.overlaps(reached.get(trouble.replica, asked.sent_s), asked.end_s)
        and (trouble.replica in reached or (hidden and trouble.kind in UNSEEN))
    ]


def _retried(asked: Asked, ledger: Ledger) -> bool:
    return asked.attempts > 1 or len(ledger.of(asked.request_id)) > 1


def _failed(asked: Asked) -> bool:
    return asked.fate is not Fate.ANSWERED


def offences_of(asked: Asked, arrivals: Sequence[Arrival]) -> list[str]:
    """What must not be, seen from the client's end and from the engines'."""
    found = []
    if asked.fate in (Fate.LOST, Fate.WRONG):
        found.append(f"{asked.fate}: {asked.why}")
    late = [a for a in arrivals if a.at_s > asked.first_s]
    if late:
        found.append(f"reached replica {late[0].replica} after its first byte had gone out")
    again = Counter(a.replica for a in arrivals if not (a.kept and not a.sent_bytes))
    found += [f"reached replica {replica} {times} times" for replica, times in again.items() if times > 1]
    finished = [a.replica for a in arrivals if a.finished]
    if asked.fate is Fate.ANSWERED and asked.attempts and not finished:
        found.append("was answered by nobody")
    where = " then ".join(f"{a.replica} at +{a.at_s - asked.sent_s:.3f} s" for a in arrivals) or "nowhere"
    kind = "stream" if asked.stream else "whole"
    return [f"{asked.request_id} ({kind}, attempts {asked.attempts}): {one}; arrived {where}" for one in found]
