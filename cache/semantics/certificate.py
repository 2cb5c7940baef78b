"""From which score on answers may be served, and how sure that is. Statistics and proofs: ADR 13."""

from __future__ import annotations

import math
from bisect import bisect_right

import msgspec

from cache.semantics.bounds import Stratum, pooled_upper
from cache.semantics.ledger import Ledger, LedgerState

EDGES = (0.0, 0.1, 0.2, 0.3, 0.4, *(1 - 0.5 * 0.75**step for step in range(37)))
"""Lower edges of the bins of scores, finer towards 1."""
TOP = len(EDGES) - 1
FORGETTING_EVERY = 64
"""Labels."""
MEMORY = 40.0
"""Over the share that may be wrong: labels after which one counts for a third of a new one."""
MOST_STARTS = 4


class CertificateState(msgspec.Struct):
    """Per bin, highest score first: traffic, labels, wrong ones, log-likelihood of the predictions."""

    traffic: list[float]
    labels: list[float]
    wrong: list[float]
    evidence: list[float]
    cut: int = -1
    starts: list[int] = []
    reached: list[int] = []
    alarms: int = 0
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
        self._upper = 1.0
        self._next_refit = 0.0
        self._labels = 0

    def cut(self) -> float:
        """Lowest score that may be served now; infinite: none."""
        if self._state.cut < 0 or not self._ledger.affords():
            return math.inf
        return EDGES[TOP - self._state.cut]

    @property
    def bound(self) -> float:
        """Upper limit of the share of wrong answers among those served; 1 while nothing is certified."""
        return min(1.0, self._upper + self.judge_error) if self._state.cut >= 0 else 1.0

    @property
    def alarmed(self) -> bool:
        """Whether it was certified and is not any more."""
        return self._state.alarmed

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
        elif self._certified(at) and not self._ledger.affords():
            self._ledger.shadowed(wrong)
        if self._certified(at) and self._suspects(wrong):
            self._alarm()
        self._count(at, wrong, chance)
        self._labels += 1
        if self._labels >= self._next_refit or (wrong and self._certified(at)):
            self._next_refit = self._labels + max(8, self._labels // 50)
            self._refit()

    def _certified(self, at: int) -> bool:
        return at <= self._state.cut

    def _count(self, at: int, wrong: bool, chance: float) -> None:
        """The prediction comes first: from the bin's own record, and from all above it while that is short."""
        state = self._state
        pooled = (sum(state.wrong[: at + 1]) + 0.1) / (sum(state.labels[: at + 1]) + 10)
        rate = (state.wrong[at] + 5 * pooled) / (state.labels[at] + 5)
        state.evidence[at] += math.log(rate) if wrong else math.log1p(-rate)
        state.traffic[at] += 1 / chance
        state.labels[at] += 1
        state.wrong[at] += wrong
        if self._labels % FORGETTING_EVERY == 0:
            self._forget()

    def _forget(self) -> None:
        keep = math.exp(-FORGETTING_EVERY * self._max_wrong / MEMORY)
        for column in (self._state.traffic, self._state.labels, self._state.wrong, self._state.evidence):
            column[:] = [value * keep for value in column]

    def _refit(self) -> None:
        """Tests cuts one below the other, so that only the first that is not safe can be passed by mistake."""
        state = self._state
        self._start()
        before, state.cut, self._upper = state.cut, -1, 1.0
        for order, start in enumerate(state.starts):
            confidence = 1 - (1 - self._confidence) / ((order + 1) * (order + 2))
            reached = max(state.reached[order], start - 1)
            while reached < TOP and self._passes(reached + 1, confidence) is not None:
                reached += 1
            state.reached[order] = reached
            for at in range(reached, start - 1, -1):
                upper = self._passes(at, confidence)
                if upper is not None:
                    state.cut, self._upper, state.alarmed = at, upper, False
                    return
        state.alarmed = state.alarmed or before >= 0

    def _start(self) -> None:
        """Where the tests begin: the highest cut above which there are labels enough. A later, higher beginning is a
        second chance, and has to be surer."""
        state, least, seen = self._state, self._least_labels(), 0.0
        for at, labels in enumerate(state.labels):
            seen += labels
            if seen >= least:
                earlier = sum(state.labels[: state.starts[-1] + 1]) if state.starts else math.inf
                if seen <= earlier / 2 and len(state.starts) < MOST_STARTS:
                    state.starts.append(at)
                    state.reached.append(at - 1)
                return

    def _least_labels(self) -> float:
        return 1.1 * math.log(2 / (1 - self._confidence)) / -math.log1p(-self._max_wrong)

    def _passes(self, cut: int, confidence: float) -> float | None:
        """The bound, if the share of wrong ones from this cut upwards is below what may be wrong."""
        state = self._state
        strata = [
            Stratum(state.traffic[at], state.labels[at], state.wrong[at])
            for at in range(cut + 1)
            if state.labels[at] > 0
        ]
        limit = self._max_wrong * self._ledger.thrift
        total = sum(stratum.share for stratum in strata)
        if sum(stratum.share * stratum.wrong / stratum.labels for stratum in strata) >= limit * total:
            return None
        upper = pooled_upper(strata, sum(state.evidence[: cut + 1]), confidence)
        return upper if upper <= limit else None

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
        fresh.alarms, fresh.alarmed, fresh.ledger = self._state.alarms + 1, True, self._state.ledger
        self._state, self._upper = fresh, 1.0


def _fresh() -> CertificateState:
    bins = TOP + 1
    return CertificateState([0.0] * bins, [0.0] * bins, [0.0] * bins, [0.0] * bins, suspicion=[0.0, 0.0])


def bin_of(score: float) -> int:
    """0 is the highest."""
    return TOP - max(bisect_right(EDGES, score) - 1, 0)
