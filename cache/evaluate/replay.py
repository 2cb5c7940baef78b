"""A labelled stream through the decision that serves, as workers take it: the real cohort, and the real index."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cache.entry import Judged, Source
from cache.evaluate.data import Stream, order_of
from cache.evaluate.figures import Figures, Tally
from cache.index import Index, as_bytes
from cache.semantics.seam import Bound, CohortStatus, Look, Near, State

if TYPE_CHECKING:
    from cache.index import Floats
    from cache.signals import Signals

COHORT = "evaluate/stream"
_STEP_S = 1.0
"""Time of the stream that passes from question to question."""


class Cohort(Protocol):
    """What of `cache.semantics.cohort.Cohort` a replay needs."""

    def look(self, text: str, near: Sequence[Near], /) -> Look: ...

    def added(self, entry: str, text: str, /) -> None: ...

    def learn(self, judged: Judged, /) -> None: ...

    def served(self, look: Look, /, audited: bool = False) -> None: ...

    def status(self) -> CohortStatus: ...


@dataclass(frozen=True, slots=True)
class Setting:
    """One pass. `judge_error`: the share of labels that the judge gets wrong, either way."""

    bound: Bound
    seed: int
    judge_error: float = 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """What came of it. `labels`: how often the judge was asked, `audits`: of these, for answers that were served;
    `first_hit`: the question that was the first to be served, counted from 1."""

    setting: Setting
    figures: Figures
    labels: int
    audits: int
    first_hit: int | None
    state: State
    stated_bound: float

    @property
    def spared_rate(self) -> float:
        """Of all questions, those for which the engine was not asked, not even afterwards."""
        return (self.figures.hits - self.audits) / max(self.figures.requests, 1)

    @property
    def kept(self) -> bool:
        """Whether the share of wrong hits stayed within the limit."""
        return self.figures.wrong_per_hit <= self.setting.bound.max_wrong_hit_rate


def replay(
    stream: Stream,
    vectors: Floats,
    setting: Setting,
    cohort: Cohort,
    read: Callable[[str], Signals | None] = lambda _text: None,
    step: Callable[[], object] = lambda: None,
) -> Run:
    """A pass over the stream in the order of the seed. Each question is looked up among those that missed before it;
    if its answer is served, that is a hit, and audited with the probability that the cohort wants; else its answer is
    kept, and compared with the candidate's with that probability, and then with its rivals'. Equal arguments give equal
    runs.

    read: what is remembered of a kept text for comparing it. step: called after each question.
    """
    passing = _Pass(stream, setting, cohort, Index(vectors.shape[1]), read)
    for number, at in enumerate(order_of(setting.seed, len(stream.texts))):
        passing.ask(number, at, vectors[at])
        step()
    status = cohort.status()
    figures = passing.tally.figures()
    return Run(setting, figures, passing.labels, passing.audits, passing.first_hit, status.state, status.bound)


class _Pass:
    def __init__(
        self,
        stream: Stream,
        setting: Setting,
        cohort: Cohort,
        index: Index,
        read: Callable[[str], Signals | None],
    ) -> None:
        self.tally = Tally(len(stream.texts))
        self.labels = self.audits = 0
        self.first_hit: int | None = None
        self._stream = stream
        self._setting = setting
        self._cohort = cohort
        self._index = index
        self._read = read
        self._chance = random.Random(f"chance {setting.seed}")  # noqa: S311 - has to repeat
        self._signals: dict[int, Signals | None] = {}

    def ask(self, number: int, at: int, vector: Floats) -> None:
        text = self._stream.texts[at]
        near = [
            Near(_id(kept), self._stream.texts[kept], cosine, self._signals[kept])
            for kept, cosine in self._index.near(vector, self._setting.bound.neighbours)
        ]
        look = self._cohort.look(text, near)
        wanted = bool(look.candidate) and self._chance.random() < look.wanted
        if look.serves:
            self._cohort.served(look, audited=wanted)
            self.tally.hit(wrong=not self._equal(look.candidate, at))
            self.audits += wanted
            self.first_hit = self.first_hit or number + 1
        else:
            self.tally.miss()
            self._signals[at] = self._read(text)
            self._index.add(at, as_bytes(vector))
            self._cohort.added(_id(at), text)
        if wanted:
            self._label(look, at, number)

    def _equal(self, candidate: str, at: int) -> bool:
        labels = self._stream.labels
        return labels[int(candidate, 16)] == labels[at]

    def _label(self, look: Look, at: int, number: int) -> None:
        """Of the candidate; of a miss then of its rivals, up to the first that is equal."""
        source: Source = "audit" if look.serves else "miss"
        fresh = "" if look.serves else _id(at)
        for filed in (look, *map(look.rival, () if look.serves else look.rivals)):
            equal = self._equal(filed.candidate, at) != (self._chance.random() < self._setting.judge_error)
            self._cohort.learn(Judged(COHORT, filed, fresh, equal, source, number * _STEP_S))
            self.labels += 1
            if equal:
                return


def _id(at: int) -> str:
    """Of the entry of the question at this place of the file."""
    return f"{at:032x}"
