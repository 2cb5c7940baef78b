"""The account of what was really served: it holds whatever order the questions come in."""

from __future__ import annotations

import math
import msgspec

from cache.semantics.bounds import Unaudited, unseen_wrong


FREE = 3
"""Wrong hits that are no breach however few the hits are."""
ROOMY, TIGHT = 0.75, 0.85
"""Shares of what may be wrong: up to which fewer hits are audited, and from which on more are."""


class LedgerState(msgspec.Struct):
    """`hits`: served. `found`: audited wrong, of hits that were sure to be audited and of the others. `unaudited`: by
    chance. `forgiven`: wrong hits that were paid for by right looks. `paid`: right looks towards the next one."""

    hits: float = 0.0
    found_surely: int = 0
    found_by_chance: int = 0
    unaudited: dict[float, float] = {}
    forgiven: int = 0
    paid: float = 0.0


class Ledger:
    """Serves only what it can afford to be wrong.

    The promise, with probability `confidence`, at all times together, whoever chooses the questions: of `h` hits at
    most `max_wrong x max(h, 3 / max_wrong)` are wrong, and one more for each that was forgiven."""

    __slots__ = ("_audit_share", "_confidence", "_max_wrong", "_pending", "_unseen", "chance", "state")

    def __init__(self, max_wrong: float, confidence: float, audit_share: float) -> None:
        self._max_wrong = max_wrong
        self._confidence = confidence
        self._audit_share = audit_share
        self._pending = 0
        self._unseen = 0.0
        self.chance = 1.0
        """With which the next hit is audited."""
        self.state = LedgerState()

    @property
    def least(self) -> float:
        """Hits from which on the share of wrong ones counts: of fewer, three may be wrong."""
        return FREE / self._max_wrong

    @property
    def allowed(self) -> float:
        return self._max_wrong * max(self.state.hits, self.least) + self.state.forgiven

    @property
    def wrong(self) -> float:
        """Upper limit of the wrong hits so far, and of those to come as long as audits find no more."""
        return self.state.found_surely + self.state.found_by_chance + self._unseen

    def affords(self) -> bool:
        """Whether one more hit may be wrong, and all whose audits are under way."""
        return self.wrong + self._pending + 1 <= self.allowed

    def served(self, chance: float, audited: bool) -> None:
        self.state.hits += 1
        if audited:
            self._pending += 1
        else:
            self._count_unaudited(chance, 1.0)

    def audited(self, wrong: bool, chance: float) -> None:
        """What an audit found. One of a hit of elsewhere stands for all that were served there for it."""
        state = self.state
        if self._pending:
            self._pending -= 1
        else:
            state.hits += 1 / chance
            self._count_unaudited(chance, 1 / chance - 1)
        if wrong and chance >= 1:
            state.found_surely += 1
        elif wrong:
            state.found_by_chance += 1
            self._unseen = self._unseen_at(self.chance)
        self._choose_chance()

    def lost(self, chance: float) -> None:
        """An audit that was wanted and never came."""
        if self._pending:
            self._pending -= 1
            self._count_unaudited(chance, 1.0)

    def shadowed(self, wrong: bool) -> None:
        """A look that would have been served if there was room, and was checked instead."""
        state = self.state
        state.paid = max(0.0, state.paid - 1 / self._max_wrong) if wrong else state.paid + 1
        if state.paid >= self.least * 2 ** (state.forgiven + 1):
            state.paid, state.forgiven = 0.0, state.forgiven + 1

    def _count_unaudited(self, chance: float, hits: float) -> None:
        if hits > 0:
            chance = min(chance, 0.999)
            self.state.unaudited[chance] = self.state.unaudited.get(chance, 0.0) + hits

    def _choose_chance(self) -> None:
        """Audits by chance leave wrong hits unseen: the fewer, the more could be. Only what there is room for."""
        if self.wrong > TIGHT * self.allowed and self.chance < 1:
            self._set_chance(min(1.0, 2 * self.chance))
        elif self.chance > self._audit_share and self.allowed > 8 and self.wrong < ROOMY * self.allowed:
            lower = max(self.chance / 2, self._audit_share)
            if self.wrong - self._unseen + 2 + self._unseen_at(lower, 2) <= ROOMY * self.allowed:
                self._set_chance(lower)

    def _set_chance(self, chance: float) -> None:
        self.chance = chance
        self._unseen = self._unseen_at(chance)

    def _unseen_at(self, chance: float, more: int = 0) -> float:
        """Upper limit of the unaudited wrong hits if from now on hits are audited with this chance for ever."""
        strata = [Unaudited(*stratum) for stratum in self.state.unaudited.items()]
        if chance < 1:
            strata.append(Unaudited(chance, math.inf))
        return unseen_wrong(strata, self.state.found_by_chance + more, self._confidence)
