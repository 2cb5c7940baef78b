"""From which score on answers may be served, and how sure that is. Statistics and proofs: ADR 13."""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import accumulate

import msgspec

from cache.semantics.bounds import LEVELS, STAKES, log_wealth, winnings
from cache.semantics.ledger import Ledger, LedgerState

EDGES = (0.0, 0.1, 0.2, 0.3, 0.4, *(1 - 0.5 * 0.75**step for step in range(37)))
"""Lower edges of the bins of scores, finer towards 1."""
TOP = len(EDGES) - 1
FORGETTING_EVERY = 64
"""Labels."""
MEMORY = 200.0
"""Over the share that may be wrong: labels after which one counts for a third of a new one."""
MARGIN = 5
"""Times the share that may be wrong: the most in the lowest bin that is served, as far as known."""
STARTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Shares of the traffic above them. Each gets the same part of the risk."""
DRAW_AT = 256
"""Labels after which they are drawn first."""
GRACE = 3.0
"""What the logarithm of the wealth of a cut that has passed may fall by before it counts as safe no more."""
ENDURING = 3.0
"""Minus logarithm of the probability that the account is used up: a cut should keep it lower."""
AUDITED = 0.9
"""Share of the worth of a hit that an audit costs."""
STAYING = 1.05
"""What the cut that is there is worth more than another."""


class CertificateState(msgspec.Struct):
    """Per bin, highest scores first: `logs` of the wealths, one list for each level and stake; `traffic` of looks,
    and `wrong` ones, as the labels tell them; `passed`: whether the cut below it was safe and has lost little since."""

    logs: list[list[float]]
    traffic: list[float]
    wrong: list[float]
    passed: list[bool]
    labels: int = 0
    refit_at: int = 0
    cut: int = -1
    bound: float = 1.0
    starts: dict[int, float] = {}
    draws: int = 0
    draw_at: int = DRAW_AT
    alarmed: bool = False
    suspicion: list[float] = []
    ledger: LedgerState = msgspec.field(default_factory=LedgerState)


class Certificate:
    """Scores lie in [0, 1], higher is surer; deterministic; one for each cohort.

    `max_wrong`: share of wrong answers among those served. `confidence`: with which it is held. `audit_share`: least
    probability with which a served answer is compared with a fresh one. `judge_error`: on top of the stated bound."""

    def __init__(
        self, max_wrong: float, confidence: float = 0.95, audit_share: float = 0.03, *, judge_error: float = 0.0
    ) -> None:
        self._max_wrong = max_wrong
        self._confidence = confidence
        self.judge_error = judge_error
        self._state = _fresh()
        self._ledger = Ledger(max_wrong, confidence, audit_share)
        self._state.ledger = self._ledger.state

    def cut(self) -> float:
        """Lowest score that may be served now; infinite: none."""
        if self._state.cut < 0 or not self._ledger.affords():
            return math.inf
        return EDGES[TOP - self._state.cut]

    @property
    def bound(self) -> float:
        """Upper limit of the share of wrong answers among those served; 1 while nothing is certified."""
        return min(1.0, self._state.bound + self.judge_error)

    @property
    def alarmed(self) -> bool:
        """Whether it was certified and is not any more, or has served as many wrong ones as it may."""
        return self._state.alarmed or (self._state.cut >= 0 and self._ledger.exhausted)

    def wanted(self, score: float) -> float:
        """With which probability a label is wanted for a look at this score: constant within a bin."""
        return self._ledger.chance if score >= self.cut() else 1.0

    def served(self, score: float, *, chance: float, audited: bool) -> None:
        """A hit goes out. `audited`: its coin, of probability `chance`, said that it will be compared."""
        self._ledger.served(chance, audited)

    def lost(self, *, chance: float) -> None:
        """A hit's audit was wanted and will not come. Must not depend on what it would have said."""
        self._ledger.lost(chance)

    def observe(self, score: float, wrong: bool, *, served: bool, chance: float = 1.0) -> None:
        """A label: of a miss, or of the audit of a hit (`served`), that was wanted with probability `chance`."""
        at = bin_of(score)
        if served:
            self._ledger.audited(wrong, chance)
        else:
            self._ledger.waits()
            if self._certified(at) and not self._ledger.affords():
                self._ledger.shadowed(wrong)
        self._learn(at, wrong, chance)

    def complained(self, score: float) -> None:
        """Somebody says that a hit was wrong, whether or not it was audited."""
        self._ledger.complained()
        self._learn(bin_of(score), True, 1.0)

    def snapshot(self) -> CertificateState:
        """The live state: to be encoded at once."""
        return self._state

    def restore(self, state: CertificateState) -> bool:
        """Whether it was a state of these bins and bets; else nothing changes. Audits under way count as lost."""
        if len(state.traffic) != TOP + 1 or len(state.logs) != len(LEVELS) * len(STAKES):
            return False
        if not self._ledger.restore(state.ledger):
            return False
        self._state = state
        return True

    def _learn(self, at: int, wrong: bool, chance: float) -> None:
        if self._certified(at) and self._suspects(wrong):
            self._alarm()
        self._count(at, wrong, chance)
        state = self._state
        if state.labels >= state.refit_at or (wrong and self._certified(at)):
            state.refit_at = state.labels + max(8, state.labels // 100)
            self._refit()

    def _certified(self, at: int) -> bool:
        return at <= self._state.cut

    def _count(self, at: int, wrong: bool, chance: float) -> None:
        state = self._state
        weight = min(1.0, self._least_chance() / chance)
        for column, log in zip(state.logs, winnings(self._max_wrong, weight, wrong), strict=True):
            column[at] += log
        state.traffic[at] += 1 / chance
        state.wrong[at] += wrong / chance
        state.labels += 1
        if state.labels % FORGETTING_EVERY == 0:
            keep = math.exp(-FORGETTING_EVERY * self._max_wrong / MEMORY)
            state.logs = [[log * keep for log in column] for column in state.logs]
            state.traffic = [looks * keep for looks in state.traffic]
            state.wrong = [looks * keep for looks in state.wrong]

    def _least_chance(self) -> float:
        """Of a label, now, at any score."""
        return self._ledger.chance if self._state.cut >= 0 else 1.0

    def _refit(self) -> None:
        state = self._state
        self._add_starts()
        safe = [(at, risk) for at, risk in self._safe_cuts() if self._worthwhile(at)]
        if not safe:
            state.alarmed = state.alarmed or state.cut >= 0
            state.cut, state.bound = -1, 1.0
            return
        state.cut, risk = self._most_spared(safe)
        state.alarmed = False
        levels = range(len(LEVELS) - 1)
        lowest = next((level for level in levels if self._of_level(level, [(state.cut, risk)])), len(LEVELS) - 1)
        state.bound = LEVELS[lowest] * self._max_wrong

    def _most_spared(self, safe: list[tuple[int, float]]) -> tuple[int, float]:
        """The cut that spares most calls, audits counted, of those at which the account will hardly be used up."""
        sums = list(zip(accumulate(self._state.traffic), accumulate(self._state.wrong), strict=True))
        worth = [self._worth(at, *sums[at]) for at, _ in safe]
        best = safe[worth.index(max(worth))]
        self._ledger.choose_chance(self._rate(*sums[best[0]]))
        return best

    def _worth(self, at: int, looks: float, wrong: float) -> tuple[bool, float]:
        rate = self._rate(looks, wrong)
        endures = self._ledger.endures(rate)
        if endures < ENDURING:
            return False, endures
        spared = looks * (1 - AUDITED * self._ledger.needs(rate))
        return True, spared * (STAYING if at == self._state.cut else 1.0)

    def _rate(self, looks: float, wrong: float) -> float:
        """Share of wrong ones as far as known, and a standard deviation more."""
        return (wrong + math.sqrt((wrong + 1) / self._ledger.chance)) / max(looks, 1.0)

    def _safe_cuts(self) -> list[tuple[int, float]]:
        """Cuts that pass now, and what each risks. Fallback procedure: they are tested one below the other; what is
        risked at a start goes on from each to the next below it, and is lost at the first that has not passed."""
        state, risk, safe = self._state, 0.0, []
        main = [accumulate(column) for column in state.logs[-len(STAKES) :]]
        for at, logs in enumerate(zip(*main, strict=True)):
            risk += state.starts.get(at, 0.0)
            if not risk:
                continue
            left = log_wealth(logs) + math.log(risk)
            state.passed[at] = left >= (-GRACE if state.passed[at] else 0.0)
            if not state.passed[at]:
                risk = 0.0
                continue
            safe.append((at, risk))
        return safe

    def _worthwhile(self, at: int) -> bool:
        """Whether the lowest looks above a cut are not much worse than all: what is right many times over pays for no
        wrong answer that could be seen coming."""
        return self._state.wrong[at] <= MARGIN * self._max_wrong * self._state.traffic[at] + 1

    def _of_level(self, level: int, cuts: list[tuple[int, float]]) -> list[tuple[int, float]]:
        """Those above which the rate is below that level."""
        columns = self._state.logs[level * len(STAKES) : (level + 1) * len(STAKES)]
        sums = [list(accumulate(column)) for column in columns]
        return [(at, risk) for at, risk in cuts if log_wealth([column[at] for column in sums]) >= -math.log(risk)]

    def _add_starts(self) -> None:
        """Where tests begin: at quantiles of the scores, drawn anew when there are four times as many labels."""
        state = self._state
        if state.labels < state.draw_at:
            return
        state.draws += 1
        state.draw_at = 4 * state.labels
        risk = (1 - self._confidence) / 2**state.draws
        traffic, seen, at = sum(state.traffic), 0.0, -1
        for share in STARTS:
            while seen < share * traffic * 0.999 and at < TOP:
                at += 1
                seen += state.traffic[at]
            state.starts[at] = state.starts.get(at, 0.0) + risk / len(STARTS)

    def _suspects(self, wrong: bool) -> bool:
        """Page's test by betting: whether, from some look on, more are wrong than may be."""
        limit = math.log(10 / (self._max_wrong * (1 - self._confidence)))
        state = self._state
        for which, rate in enumerate((min(4 * self._max_wrong, 0.5), 0.5)):
            step = rate / self._max_wrong if wrong else (1 - rate) / (1 - self._max_wrong)
            state.suspicion[which] = max(0.0, state.suspicion[which]) + math.log(step)
        return max(state.suspicion) > limit

    def _alarm(self) -> None:
        """Forgets what it knew of scores; what was served stays on the account."""
        fresh = _fresh()
        fresh.alarmed, fresh.ledger = True, self._state.ledger
        self._state = fresh


def _fresh() -> CertificateState:
    bins = TOP + 1
    columns = [[0.0] * bins for _ in range(len(LEVELS) * len(STAKES))]
    return CertificateState(columns, [0.0] * bins, [0.0] * bins, [False] * bins, suspicion=[0.0, 0.0])


def bin_of(score: float) -> int:
    """0 is the highest."""
    return TOP - max(bisect_right(EDGES, score) - 1, 0)
