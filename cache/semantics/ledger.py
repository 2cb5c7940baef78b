"""The account of what was really served: it holds whatever order the questions come in."""

from __future__ import annotations

import math

import msgspec

from cache.semantics.bounds import Unaudited, unseen_wrong

FREE, FADED = 3, 30
"""Wrong hits beyond their share: at first, and the share in hits at which there are none any more."""
THRIFT = (0.85, 0.75, 0.6)
"""Shares of what may be wrong, used up, from which on no more than a quarter, a half, three quarters of it is dared."""
STEP = 0.75
"""Of the chance of an audit."""
HEDGE, ROOMY = 3, 0.9
"""Fewer hits are audited if no more than that share of what may be wrong could be, should audits find so many more."""
PENANCE = 20_000
"""Right looks that pay for one more wrong hit, the first time; twice as many each time after."""
PATIENCE = 1000
"""Labels of misses during which no audit came, after which one that is under way is taken for lost."""
LATELY = 64
"""Audits over which losses are averaged."""


class LedgerState(msgspec.Struct):
    """`chance`: of an audit. `hits`: served. `found_...`: audited wrong, of hits sure to be audited and of the
    others. `unaudited`: by chance. `pending`: audits under way. `waited`: labels
    of misses since the last came. `kept`: share of the audits that came, of late.
    `likely`: wrong hits, as the audits tell. `forgiven`: wrong hits that were paid for by right looks. `paid`: right
    looks towards the next one. `tried_at`: `allowed` from which on fewer audits are considered again."""

    chance: float = 1.0
    hits: float = 0.0
    found_surely: int = 0
    found_by_chance: int = 0
    unaudited: dict[float, float] = {}
    pending: int = 0
    waited: int = 0
    kept: float = 1.0
    likely: float = 0.0
    forgiven: int = 0
    paid: float = 0.0
    tried_at: float = 0.0


class Ledger:
    """Serves only what it can afford to be wrong.

    The promise, with probability `confidence`, at all times together, whoever chooses the questions: no more hits are
    wrong than `allowed`: their share `max_wrong`, three more at first that fade out, and what was forgiven."""

    __slots__ = ("_audit_share", "_brink", "_confidence", "_max_wrong", "_price", "_unseen", "state")

    def __init__(self, max_wrong: float, confidence: float, audit_share: float) -> None:
        self._max_wrong = max_wrong
        self._confidence = confidence
        self._audit_share = audit_share
        self._unseen = 0.0
        self._price = 1.0
        self._brink = 0.0
        self.state = LedgerState()

    @property
    def chance(self) -> float:
        """With which the next hit is audited."""
        return self.state.chance

    @property
    def allowed(self) -> float:
        """How many wrong hits there may be."""
        share = self._max_wrong * self.state.hits
        return share + FREE * max(0.0, 1 - share / FADED) + self.state.forgiven

    @property
    def wrong(self) -> float:
        """Upper limit of the wrong hits so far, and of those to come as long as audits find no more."""
        return self.state.found_surely + self.state.found_by_chance + self._unseen

    @property
    def thrift(self) -> int:
        """The level that a cut should have now, if there is one."""
        used = self.state.likely / self.allowed
        return next((level for level, limit in enumerate(THRIFT) if used >= limit), len(THRIFT))

    @property
    def exhausted(self) -> bool:
        return self.wrong + self._price > self.allowed

    def affords(self) -> bool:
        """Whether the audit of one more hit may find it wrong, and all that are under way."""
        return self.wrong + (self.state.pending + 1) * self._price <= self.allowed

    def served(self, chance: float, audited: bool) -> None:
        self.state.hits += 1
        if audited:
            self.state.pending += 1
        else:
            self._count_unaudited(chance, 1.0)

    def audited(self, wrong: bool, chance: float) -> None:
        """What an audit found. One of a hit of elsewhere stands for all that were served there for it."""
        state = self.state
        if state.pending:
            state.pending -= 1
        else:
            state.hits += 1 / chance
            self._count_unaudited(chance, 1 / chance - 1)
        state.waited = 0
        state.kept += (1 - state.kept) / LATELY
        if wrong:
            state.likely += 1 / chance
        if wrong and chance >= 1:
            state.found_surely += 1
        elif wrong:
            state.found_by_chance += 1
            self._set_chance(self.chance)
        self._choose_chance()

    def waits(self) -> None:
        """A miss got its label: so labels do come."""
        state = self.state
        state.waited = state.waited + 1 if state.pending else 0
        if state.waited >= PATIENCE:
            state.waited = 0
            self.lost(self.chance)

    def complained(self) -> None:
        """One more is wrong, for sure. It may have been counted as unaudited: as if there were two."""
        self.state.found_surely += 1
        self.state.likely += 1

    def lost(self, chance: float) -> None:
        """An audit that was wanted and never came, whatever it would have said: as if the chance had been lower."""
        state = self.state
        if state.pending:
            state.pending -= 1
            state.kept -= state.kept / LATELY
            self._count_unaudited(_rounded(chance * state.kept), 1.0)
            self._set_chance(self.chance)

    def shadowed(self, wrong: bool) -> None:
        """A look that would have been served if there was room, and was checked instead."""
        state = self.state
        state.paid = max(0.0, state.paid - 1 / self._max_wrong) if wrong else state.paid + 1
        if state.paid >= PENANCE * 2**state.forgiven:
            state.paid, state.forgiven = 0.0, state.forgiven + 1

    def _count_unaudited(self, chance: float, hits: float) -> None:
        if hits > 0:
            self.state.unaudited[chance] = self.state.unaudited.get(chance, 0.0) + hits

    def _choose_chance(self) -> None:
        """Audits by chance leave wrong hits unseen: the fewer, the more could be. Only what there is room for."""
        state, found = self.state, self.wrong - self._unseen
        if self.chance < 1 and found + self._brink > self.allowed:
            self._set_chance(1.0)  # from now on what may be wrong grows faster than what is found
        elif self.chance > self._audit_share and self.allowed > state.tried_at:
            state.tried_at = 1.03 * self.allowed
            lower = max(self.chance * STEP, self._audit_share)
            if found + HEDGE + self._unseen_at(lower, HEDGE) <= ROOMY * self.allowed:
                self._set_chance(lower)

    def _set_chance(self, chance: float) -> None:
        self.state.chance = chance
        self._unseen = self._unseen_at(chance)
        self._brink = HEDGE + self._unseen_at(chance, HEDGE)
        self._price = 1.0 if chance >= 1 else 1 + self._unseen_at(chance, 1) - self._unseen

    def restore(self, state: LedgerState) -> None:
        """What is under way will not be heard of any more."""
        self.state = state
        self._count_unaudited(0.5, state.pending)
        state.pending = 0
        self._set_chance(state.chance)

    def _unseen_at(self, chance: float, more: int = 0) -> float:
        """Upper limit of the unaudited wrong hits if from now on hits are audited with this chance for ever."""
        strata = [Unaudited(*stratum) for stratum in self.state.unaudited.items()]
        if chance < 1:
            strata.append(Unaudited(chance, math.inf))
        return unseen_wrong(strata, self.state.found_by_chance + more, self._confidence)


def _rounded(chance: float) -> float:
    """Down, to ..., 0.25, 0.5, 0.75, 0.875, 0.9375, ...: what is reckoned with is one number for many hits."""
    if chance < 0.5:
        return 2.0 ** math.floor(math.log2(chance))
    return float(1 - 2.0 ** -math.floor(-math.log2(1 - min(chance, 0.999))))
