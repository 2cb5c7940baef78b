"""The account of what was really served: it holds whatever order the questions come in."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from cache.semantics.bounds import Unaudited, unseen_wrong

if TYPE_CHECKING:
    from collections.abc import Sequence


class LedgerState(msgspec.Struct):
    """`hits`: served. `found`: audited wrong, of hits that were sure to be audited and of the others. `unaudited`: by
    chance. `forgiven`: wrong hits that were paid for by right looks. `paid`: right looks towards the next one."""

    hits: float = 0.0
    found_surely: int = 0
    found_by_chance: int = 0
    unaudited: dict[float, float] = {}
    forgiven: int = 0
    paid: int = 0


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
        self.state = LedgerState()

    @property
    def least(self) -> float:
        """Hits from which on the share of wrong ones counts: of fewer, three may be wrong."""
        return 3.0 / self._max_wrong

    @property
    def allowed(self) -> float:
        return self._max_wrong * max(self.state.hits, self.least) + self.state.forgiven

    @property
    def wrong(self) -> float:
        """Upper limit of the wrong hits so far."""
        return self.state.found_surely + self.state.found_by_chance + self._unseen

    @property
    def thrift(self) -> float:
        """Share of the rate that may be wrong which it still dares: less while the account is nearly used up."""
        return min(1.0, 3 * (1 - self.wrong / self.allowed))

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
        if self._pending:
            self._pending -= 1
        else:
            self.state.hits += 1 / chance
            self._count_unaudited(chance, 1 / chance - 1)
        if wrong and chance >= 1:
            self.state.found_surely += 1
        elif wrong:
            self.state.found_by_chance += 1
        self._reckon()

    def lost(self, chance: float) -> None:
        """An audit that was wanted and never came."""
        if self._pending:
            self._pending -= 1
            self._count_unaudited(chance, 1.0)

    def shadowed(self, wrong: bool) -> None:
        """A look that would have been served if there was room, and was checked instead."""
        state = self.state
        state.paid = 0 if wrong else state.paid + 1
        if state.paid >= self.least * 2 ** (state.forgiven + 1):
            state.paid, state.forgiven = 0, state.forgiven + 1

    def _count_unaudited(self, chance: float, hits: float) -> None:
        if hits > 0:
            chance = min(chance, 0.999)
            self.state.unaudited[chance] = self.state.unaudited.get(chance, 0.0) + hits

    def _reckon(self) -> None:
        state = self.state
        self._unseen = unseen_wrong(self._strata(), state.found_by_chance, self._confidence)
        room = max(self.allowed - state.found_surely - state.found_by_chance, 0.1)
        rung = 2.0 ** -math.floor(math.log2(max(room / 6, 1.0)))
        self.chance = max(rung, self._audit_share)

    def _strata(self) -> Sequence[Unaudited]:
        return [Unaudited(chance, hits) for chance, hits in self.state.unaudited.items()]
