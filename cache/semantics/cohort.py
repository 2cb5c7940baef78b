"""What a tenant's traffic to a deployment has taught about whose answers fit: it decides what may be served."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from cache.evaluate.interval import clopper_pearson
from cache.semantics.certificate import Certificate, CertificateState
from cache.semantics.classes import Classes, ClassState
from cache.semantics.evidence import NAMES, SCALES, WEIGHTS, weigh
from cache.semantics.scores import Model, ModelState
from cache.semantics.seam import Bound, CohortStatus, Look, Near, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cache.entry import Judged


PACE = 1e-6
"""By which the model's doubt grows with each label: about ten thousand of them are remembered."""


class CohortState(msgspec.Struct, array_like=True):
    """All that was learned. `features`: names of what the score is made of; with others it would mean another thing."""

    features: tuple[str, ...]
    model: ModelState
    classes: list[ClassState]
    certificate: CertificateState
    labels: int
    hits: int
    audited: int
    audited_wrong: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(CohortState).decode


class Cohort:
    """Pure: no clock, no chance, no I/O. Workers that learn the same records in the same order decide alike; only the
    account of what was served is each one's own.

    The score of a look is the probability that the candidate's answer fits, as far as was known before its label; that
    is what makes the certificate's use of the labels fair."""

    __slots__ = (
        "_audited",
        "_audited_wrong",
        "_bound",
        "_certificate",
        "_classes",
        "_hits",
        "_labels",
        "_model",
    )

    def __init__(self, bound: Bound) -> None:
        self._bound = bound
        self._classes = Classes()
        self._model = Model(WEIGHTS, SCALES, pace=PACE)
        self._certificate = Certificate(bound.max_wrong_hit_rate, bound.confidence, bound.audit_share)
        self._labels = self._hits = self._audited = self._audited_wrong = 0

    def look(self, text: str, near: Sequence[Near]) -> Look:
        """What to do about a question. Changes nothing. `near`: nearest first."""
        if not near:
            return Look()
        evidence = weigh(text, near, self._classes)
        certificate = self._certificate
        score = self._model.probability(evidence.features)
        cut = certificate.cut()
        return Look(
            candidate=evidence.best.id,
            score=score,
            cosine=evidence.best.cosine,
            features=evidence.features,
            serves=score >= cut,
            bound=certificate.bound,
            cut=cut,
            wanted=certificate.wanted(score),
            rivals=evidence.rivals,
        )

    def added(self, entry_id: str, text: str = "") -> None:
        """An entry that questions may lie near from now on."""
        self._classes.add(entry_id)

    def served(self, look: Look, audited: bool = False) -> None:
        """It went out. `audited`: its label will come; the coin of probability `look.wanted` said so."""
        self._hits += 1
        self._certificate.served(look.score, chance=look.wanted, audited=audited)

    def lost(self, look: Look) -> None:
        """The audit of a hit will not come after all, for a reason that has nothing to do with its answer."""
        self._certificate.lost(chance=look.wanted)

    def learn(self, judged: Judged) -> None:
        """Of planted pairs nothing is learned. A caller's complaint counts against the certificate, his praise for
        nothing: he chooses what to speak of."""
        if judged.source == "planted":
            return
        if judged.source == "feedback":
            self._complain(judged)
            return
        if judged.look.features:
            self._learn_score(judged)
        if judged.equal and judged.fresh:
            self._classes.join(judged.fresh, judged.look.candidate)

    def quarantine(self, entry_id: str) -> tuple[str, ...]:
        """Ids of what must not be served any more: the entry, and all whose answers equal its."""
        return self._classes.drop_class(entry_id)

    def forget(self, entry_id: str) -> None:
        """It is not kept any more."""
        self._classes.drop(entry_id)

    def status(self) -> CohortStatus:
        certificate = self._certificate
        return CohortStatus(
            state=self._stands(),
            cut=certificate.cut(),
            bound=certificate.bound,
            labels=self._labels,
            hits=self._hits,
            audited=self._audited,
            audited_wrong=self._audited_wrong,
            interval=clopper_pearson(self._audited_wrong, self._audited, self._bound.confidence),
        )

    def snapshot(self) -> bytes:
        return _encode(
            CohortState(
                NAMES,
                self._model.snapshot(),
                self._classes.snapshot(),
                self._certificate.snapshot(),
                self._labels,
                self._hits,
                self._audited,
                self._audited_wrong,
            )
        )

    def restore(self, state: bytes) -> None:
        """Take over what another learned, or the same before a restart, where that is more. Entries that are not known
        yet are left out. Nothing changes if the score was made of other things.

        Raises:
            msgspec.DecodeError: it is no state.
        """
        told = _decode(state)
        if told.features != NAMES or told.labels <= self._labels or not self._certificate.restore(told.certificate):
            return
        self._model.restore(told.model)
        self._classes.restore(told.classes)
        self._labels, self._hits = told.labels, told.hits
        self._audited, self._audited_wrong = told.audited, told.audited_wrong

    def _stands(self) -> State:
        if self._certificate.alarmed:
            return "alarmed"
        if self._certificate.cut() < math.inf:
            return "certified"
        return "learning" if self._labels else "cold"

    def _learn_score(self, judged: Judged) -> None:
        look, audit = judged.look, judged.source == "audit"
        self._labels += 1
        if audit:
            self._audited += 1
            self._audited_wrong += not judged.equal
        self._model.learn(look.features, judged.equal)
        self._classes.count(look.candidate, judged.equal)
        before = self._certificate.alarmed
        self._certificate.observe(look.score, not judged.equal, served=audit, chance=look.wanted)
        if self._certificate.alarmed and not before:
            self._model.doubt()

    def _complain(self, judged: Judged) -> None:
        if not judged.equal:
            self._classes.count(judged.look.candidate, False)
            self._certificate.complained(judged.look.score)
