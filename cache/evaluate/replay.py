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
    from cache.verify import Signals

COHORT = "evaluate/stream"
_STEP_S = 1.0
"""Time of the stream that passes from question to question."""


class Cohort(Protocol):
    """What of `cache.semantics.cohort.Cohort` a replay needs."""

    def look(self, text: str, near: Sequence[Near], /) -> Look: ...

    def added(self, entry: str, text: str, /) -> None: ...

    def learn(self, judged: Judged, /) -> None: ...

    def served(self, look: Look, /) -> None: ...

    def status(self) -> CohortStatus: ...


@dataclass(frozen=True, slots=True)
class Setting:
    """One pass. `judge_error`: the share of labels that the judge gets wrong, either way."""

    bound: Bound
    seed: int
    judge_error: float = 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """What came of it. `labels`: how often the judge was asked, `audits`: of these, for answers that were served."""

    setting: Setting
    figures: Figures
    labels: int
    audits: int
    state: State
    stated_bound: float

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
    kept, and compared with the candidate's with that probability. Equal arguments give equal runs.

    read: what is remembered of a kept text for comparing it. step: called after each question.
    """
    passing = _Pass(stream, setting, cohort, Index(vectors.shape[1]), read)
    for number, at in enumerate(order_of(setting.seed, len(stream.texts))):
        passing.ask(number, at, vectors[at])
        step()
    status = cohort.status()
    figures = passing.tally.figures()
    return Run(setting, figures, passing.labels, passing.audits, status.state, status.bound)


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
        if look.serves:
            self._cohort.served(look)
            self.tally.hit(wrong=not self._equal(look, at))
            self.audits += self._judge(look, at, "", "audit", number)
            return
        self.tally.miss()
        self._signals[at] = self._read(text)
        self._index.add(at, as_bytes(vector))
        self._cohort.added(_id(at), text)
        self._judge(look, at, _id(at), "miss", number)

    def _equal(self, look: Look, at: int) -> bool:
        labels = self._stream.labels
        return labels[int(look.candidate, 16)] == labels[at]

    def _judge(self, look: Look, at: int, fresh: str, source: Source, number: int) -> bool:
        if not look.candidate or self._chance.random() >= look.wanted:
            return False
        equal = self._equal(look, at) != (self._chance.random() < self._setting.judge_error)
        self._cohort.learn(Judged(COHORT, look, fresh, equal, source, number * _STEP_S))
        self.labels += 1
        return True


def _id(at: int) -> str:
    """Of the entry of the question at this place of the file."""
    return f"{at:032x}"
