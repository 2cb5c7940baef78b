"""The account of what was really served: it holds whatever order the questions come in."""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import TYPE_CHECKING

import msgspec

from cache.semantics.bounds import BETS, charged, fair, steadiness, unseen_wrong

if TYPE_CHECKING:
    from collections.abc import Callable

FREE, FADED = 3, 30
"""Wrong hits beyond their share: at first, and the share in hits at which there are none any more."""
STEP = 2**0.25
"""Between one chance of an audit and the next."""
HEDGE, RESERVE = 2, 2.0
"""So many more wrong hits may be found in a row, at the chance that is chosen, and leave that room."""
AHEAD, MARGIN = 500, 4
"""The chance that hits will need is reckoned for as many as there were, and no fewer; with that room left."""
PENANCE = 20_000
"""Right looks that pay for one more wrong hit, the first time; twice as many each time after."""
PATIENCE = 1000
"""Labels of misses during which no audit came, after which one that is under way is taken for lost."""
LATELY = 64
"""Audits over which losses are averaged."""
LOSSES = 0.9
"""Share of the audits, of those that come now, that may come later without an end of bets."""


class LedgerState(msgspec.Struct):
    """`chance`: of an audit. `hits`: served. `found`: wrong ones, by audits and complaints, or feared. `unseen`: hits
    that nobody audited. `bets`: logarithms of what is left of them. `pending`: audits under way. `waited`: labels of
    misses since the last came. `kept`: share of the audits that came, of late. `forgiven`: wrong hits that were paid
    for by right looks. `paid`: right looks towards the next one."""

    chance: float = 1.0
    hits: float = 0.0
    found: int = 0
    unseen: float = 0.0
    bets: list[float] = []
    pending: int = 0
    waited: int = 0
    kept: float = 1.0
    forgiven: int = 0
    paid: float = 0.0


class Ledger:
    """Serves only what it can afford to be wrong.

    The promise, with probability `confidence`, at all times together, whoever chooses the questions: no more hits are
    wrong than `allowed`: their share `max_wrong`, three more at first that fade out, and what was forgiven."""

    __slots__ = ("_chances", "_confidence", "_max_wrong", "_price", "_unseen", "state")

    def __init__(self, max_wrong: float, confidence: float, audit_share: float) -> None:
        steps = math.ceil(-math.log(audit_share, STEP))
        self._chances = [max(audit_share, STEP**-step) for step in range(steps, -1, -1)]
        self._max_wrong = max_wrong
        self._confidence = confidence
        self._unseen = math.inf
        self._price = 1.0
        self.state = LedgerState(bets=list(BETS))
        self._reckon()

    @property
    def chance(self) -> float:
        """With which the next hit is audited."""
        return self.state.chance

    @property
    def allowed(self) -> float:
        """How many wrong hits there may be."""
        return self._allowed_of(self.state.hits)

    @property
    def wrong(self) -> float:
        """Upper limit of the wrong hits so far, and of those to come as long as audits find no more."""
        return self.state.found + (self._unseen if self.chance < 1 else min(self._unseen, self.state.unseen))

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
            self.state.unseen += 1

    def audited(self, wrong: bool, chance: float) -> None:
        """What an audit found. One of a hit of elsewhere stands for all that were served there for it."""
        state = self.state
        if state.pending:
            state.pending -= 1
        else:
            state.hits += 1 / chance
            state.unseen += 1 / chance - 1
        state.waited = 0
        state.kept += (1 - state.kept) / LATELY
        if wrong:
            state.found += 1
            state.bets = charged(state.bets, chance * state.kept)
            self._reckon()

    def waits(self) -> None:
        """A miss got its label: so labels do come."""
        state = self.state
        state.waited = state.waited + 1 if state.pending else 0
        if state.waited >= PATIENCE:
            state.waited = 0
            self.lost(self.chance)

    def complained(self) -> None:
        """One more is wrong, for sure. It may have been counted as unseen: as if there were two."""
        self.state.found += 1

    def lost(self, chance: float) -> None:
        """An audit that was wanted and never came, whatever it would have said: as if the chance had been lower. Where
        so many got lost that it is too low for the bets, the hit is feared to be wrong."""
        state = self.state
        if state.pending:
            state.pending -= 1
            state.kept -= state.kept / LATELY
            if fair(state.bets, chance * state.kept) == state.bets:
                state.unseen += 1
            else:
                state.found += 1
            self._reckon()

    def shadowed(self, wrong: bool) -> None:
        """A look that would have been served if there was room, and was checked instead."""
        state = self.state
        state.paid = max(0.0, state.paid - 1 / self._max_wrong) if wrong else state.paid + 1
        if state.paid >= PENANCE * 2**state.forgiven:
            state.paid, state.forgiven = 0.0, state.forgiven + 1

    def endures(self, rate: float) -> float:
        """Logarithm of one over the probability that it is used up if that share of all hits to come is wrong, and
        each of them audited."""
        return (self.allowed - self._limit(1.0, 0)) * steadiness(rate / self._max_wrong)

    def needs(self, rate: float) -> float:
        """Chance that would do from now on for as many hits as there were, if that share of them is wrong."""
        ahead = max(self.state.hits, AHEAD)
        allowed = self._allowed_of(self.state.hits + ahead) - MARGIN
        return self._lowest(lambda chance: self._limit(chance, chance * rate * ahead) <= allowed)

    def choose_chance(self, rate: float) -> None:
        """The lowest that there is room for, now, if that share of the hits is wrong."""
        allowed = self.allowed - RESERVE / min(1.0, steadiness(rate / self._max_wrong) or math.inf)
        self._set_chance(self._lowest(lambda chance: self._limit(chance, HEDGE) <= allowed))

    def restore(self, state: LedgerState) -> bool:
        """Whether it was a state of these bets; else nothing changes. What is under way will not be heard of any
        more."""
        if len(state.bets) != len(BETS):
            return False
        self.state = state
        while state.pending:
            self.lost(state.chance)
        self._reckon()
        return True

    def _allowed_of(self, hits: float) -> float:
        share = self._max_wrong * hits
        return share + FREE * max(0.0, 1 - share / FADED) + self.state.forgiven

    def _lowest(self, enough: Callable[[float], bool]) -> float:
        """Chance that is enough, as all higher ones are; 1 if none is."""
        return self._chances[min(bisect_left(self._chances, True, key=enough), len(self._chances) - 1)]

    def _set_chance(self, chance: float) -> None:
        self.state.chance = chance
        self.state.bets = self._fair(chance)
        self._reckon()

    def _reckon(self) -> None:
        self._unseen = unseen_wrong(self.state.bets, self._confidence)
        self._price = self._limit(self.chance, 1) - self.wrong

    def _limit(self, chance: float, more: float) -> float:
        """Upper limit of the wrong hits as soon as so many more are found, with that chance."""
        unseen = unseen_wrong(charged(self._fair(chance), chance * self.state.kept, more), self._confidence)
        return self.state.found + more + (unseen if chance < 1 else min(unseen, self.state.unseen))

    def _fair(self, chance: float) -> list[float]:
        """Bets for which it is not too low even if a few more audits get lost than do now."""
        return self.state.bets if chance >= 1 else fair(self.state.bets, LOSSES * chance * self.state.kept)
