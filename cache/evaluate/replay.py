"""A labelled stream through the decision that serves, as workers take it: the real cohort, and the real index."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cache.entry import Judged, Source
from cache.evaluate.data import Stream, order_of
from cache.evaluate.figures import Figures, Tally
from cache.semantics.seam import Bound, CohortStatus, Look, Near, State

if TYPE_CHECKING:
    from cache.evaluate.cosines import Floats
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


class Index(Protocol):
    """What of `cache.index.Index` a replay needs."""

    def add(self, entry: str, vector: Floats, /) -> object: ...

    def near(self, vector: Floats, k: int, /) -> Sequence[tuple[str, float]]: ...


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
    vectors: Sequence[Floats],
    setting: Setting,
    cohort: Cohort,
    index: Index,
    read: Callable[[str], Signals | None] = lambda _text: None,
    step: Callable[[], object] = lambda: None,
) -> Run:
    """A pass over the stream in the order of the seed. Each question is looked up among those that missed before it;
    if its answer is served, that is a hit, and audited with the probability that the cohort wants; else its answer is
    kept, and compared with the candidate's with that probability. Equal arguments give equal runs.

    read: what is remembered of a kept text for comparing it. step: called after each question.
    """
    passing = _Pass(stream, setting, cohort, read)
    for number, at in enumerate(order_of(setting.seed, len(stream.texts))):
        passing.ask(number, at, vectors[at], index)
        step()
    status = cohort.status()
    figures = passing.tally.figures()
    return Run(setting, figures, passing.labels, passing.audits, status.state, status.bound)


class _Pass:
    def __init__(self, stream: Stream, setting: Setting, cohort: Cohort, read: Callable[[str], Signals | None]) -> None:
        self.tally = Tally(len(stream.texts))
        self.labels = self.audits = 0
        self._stream = stream
        self._setting = setting
        self._cohort = cohort
        self._read = read
        self._chance = random.Random(f"chance {setting.seed}")  # noqa: S311 - has to repeat
        self._kept: dict[str, tuple[int, Signals | None]] = {}

    def ask(self, number: int, at: int, vector: Floats, index: Index) -> None:
        text = self._stream.texts[at]
        near = [
            Near(entry, self._stream.texts[self._kept[entry][0]], cosine, self._kept[entry][1])
            for entry, cosine in index.near(vector, self._setting.bound.neighbours)
        ]
        look = self._cohort.look(text, near)
        if look.serves:
            self._cohort.served(look)
            self.tally.hit(wrong=not self._equal(look, at))
            self.audits += self._judge(look, at, "", "audit", number)
            return
        fresh = f"{at:032x}"
        self._kept[fresh] = at, self._read(text)
        self._cohort.added(fresh, text)
        index.add(fresh, vector)
        self.tally.miss()
        self._judge(look, at, fresh, "miss", number)

    def _equal(self, look: Look, at: int) -> bool:
        labels = self._stream.labels
        return labels[self._kept[look.candidate][0]] == labels[at]

    def _judge(self, look: Look, at: int, fresh: str, source: Source, number: int) -> bool:
        if not look.candidate or self._chance.random() >= look.wanted:
            return False
        equal = self._equal(look, at) != (self._chance.random() < self._setting.judge_error)
        self._cohort.learn(Judged(COHORT, look, fresh, equal, source, number * _STEP_S))
        self.labels += 1
        return True
