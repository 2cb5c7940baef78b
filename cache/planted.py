"""Pairs of answers of which it is known whether they are the same: by them a judge's own error is measured.

A judge says the same about the same pair each time, so that every pair counts once, however often it was asked.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import msgspec

from cache.entry import Judged
from cache.evaluate.interval import clopper_pearson
from cache.known_pairs import PAIRS
from cache.semantics.seam import Look

MAX_PAIRS = 1000
"""Of either kind that are remembered."""
_JUDGE = "judge:"
_KINDS = {True: "same", False: "different"}


class Pair(NamedTuple):
    question: str
    first: str
    second: str
    same: bool

    @property
    def name(self) -> str:
        """As long as it reads like this."""
        told = f"{self.question}\0{self.first}\0{self.second}".encode("utf-8", "surrogatepass")
        return f"{_KINDS[self.same]}-{hashlib.blake2b(told, digest_size=8).hexdigest()}"


class Share(msgspec.Struct, frozen=True):
    """Errors among pairs. `low`, `high`: Clopper-Pearson limits of their share."""

    wrong: int
    of: int
    low: float
    high: float


class JudgeError:
    """How often a judge is wrong, as planted pairs tell. What it gives no verdict on counts as different, here as in
    labels.

    same:      pairs that are the same, and taken for different ones: what is right looks wrong, which costs hits.
    different: pairs that differ, and taken for the same: wrong hits that nobody notices.
    """

    def __init__(self, confidence: float = 0.95) -> None:
        self._confidence = confidence
        self._said: dict[bool, dict[str, bool]] = {True: {}, False: {}}
        """Of either kind, by name, whether it was wrong."""
        self._shares: dict[bool, Share] = {}
        """As reckoned since last something was learned: it is asked for by every semantic hit."""

    def __repr__(self) -> str:
        return f"<JudgeError same={self.same!r} different={self.different!r}>"

    def learn(self, name: str, *, same: bool, said: bool) -> None:
        """What it said of the pair called `name`."""
        known = self._said[same]
        known[name] = said is not same
        self._shares.pop(same, None)
        if len(known) > MAX_PAIRS:
            del known[next(iter(known))]

    def hear(self, planted: Judged) -> None:
        """The same, as a record of the journal tells it: see `planted_record`."""
        name = planted.look.candidate
        self.learn(name, same=name.startswith(_KINDS[True]), said=planted.equal)

    def knows(self, name: str) -> bool:
        return name in self._said[True] or name in self._said[False]

    @property
    def pairs(self) -> int:
        """That it was asked about."""
        return len(self._said[True]) + len(self._said[False])

    @property
    def same(self) -> Share:
        return self._share(True)

    @property
    def different(self) -> Share:
        return self._share(False)

    def stated(self, bound: float) -> float:
        """Upper limit of the share of wrong hits, where the judge says `bound`: it may have missed some of them."""
        return min(1.0, bound / max(1e-9, 1.0 - self.different.high))

    def is_unfit(self, limit: float) -> bool:
        """Whether it surely takes more than `limit`, a share, of what differs for the same: its word is worth nothing
        to who wants no more wrong hits than that."""
        return self.different.low > limit

    def objection(self, limit: float) -> str:
        """For people: how it surely errs more often than `limit`, a share; "": it is not known to."""
        for share, what in (
            (self.different, "different answers for the same"),
            (self.same, "equal answers for different"),
        ):
            if share.low > limit:
                observed = f"{share.wrong / share.of:.0%} of {what} (at least {share.low:.1%}, {share.of} known pairs)"
                return f"takes {observed}: max_wrong_hit_rate is {limit:.2%}"
        return ""

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode((self._said[True], self._said[False]))

    def restore(self, state: bytes) -> None:
        """What cannot be read is not known."""
        try:
            same, different = msgspec.msgpack.decode(state, type=tuple[dict[str, bool], dict[str, bool]])
        except msgspec.DecodeError:
            same, different = {}, {}
        self._said = {True: same, False: different}
        self._shares.clear()

    def _share(self, same: bool) -> Share:
        share = self._shares.get(same)
        if share is None:
            wrong, of = sum(self._said[same].values()), len(self._said[same])
            share = self._shares[same] = Share(wrong, of, *clopper_pearson(wrong, of, self._confidence))
        return share


def record_of(judge: str) -> str:
    """In place of a cohort in the records of what this deployment said of planted pairs: no cohort is called so."""
    return f"{_JUDGE}{judge}"


def is_of_judge(cohort: str) -> bool:
    return cohort.startswith(_JUDGE)


def planted_record(judge: str, pair: Pair, said: bool, at: float) -> Judged:
    """For the journal, so that all workers know it, and those that come after them. at: Unix seconds."""
    return Judged(record_of(judge), Look(candidate=pair.name), "", said, "planted", at)


def shipped() -> dict[str, Pair]:
    """The pairs that come with the product, by name."""
    pairs = [Pair(*each) for each in PAIRS]
    return {pair.name: pair for pair in pairs}
