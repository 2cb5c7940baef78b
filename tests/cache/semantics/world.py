"""Made-up questions with known answers, on a circle: the cosine of two is that of the angle between them."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from cache.entry import Judged, Source
from cache.semantics.cohort import Cohort
from cache.semantics.seam import Look, Near

COHORT = "acme/chat"


def entry_id(number: int) -> str:
    return f"{number:032x}"


def near(*found: tuple[str, float], text: str = "how do I pay") -> list[Near]:
    return [Near(entry, text, cosine) for entry, cosine in found]


def judged(look: Look, equal: bool, fresh: str = "", source: Source = "miss") -> Judged:
    return Judged(COHORT, look, fresh, equal, source, 0.0)


@dataclass
class Asked:
    """A question: where it lies, and which answer is right."""

    angle: float
    answer: str


def topics(seed: int, number: int, *, of: int, width: float = 0.05, hopeless: bool = False) -> list[Asked]:
    """Questions about topics that lie apart; hopeless: each has an answer of its own."""
    chance = random.Random(seed)
    asked = []
    for count in range(number):
        topic = chance.randrange(of)
        angle = 2 * math.pi * topic / of + chance.gauss(0.0, width)
        asked.append(Asked(angle, f"{count}" if hopeless else f"{topic}"))
    return asked


@dataclass
class Tally:
    hits: int = 0
    wrong: int = 0
    labels: int = 0
    served_at: list[int] = field(default_factory=list)


class Gateway:
    """Looks up, serves, keeps and judges as the gateway does, with a brute-force index and a judge that is never wrong
    but with a probability of `noise`."""

    def __init__(self, cohort: Cohort, seed: int = 1, noise: float = 0.0) -> None:
        self.cohort = cohort
        self.tally = Tally()
        self.records: list[Judged] = []
        self._kept: list[tuple[str, Asked]] = []
        self._answers: dict[str, str] = {}
        self._chance = random.Random(seed)
        self._noise = noise
        self._asked = 0

    def ask(self, asked: Asked) -> Look:
        self._asked += 1
        look = self.cohort.look("how do I pay", self._near(asked))
        wanted = bool(look.candidate) and self._chance.random() < look.wanted
        fresh = ""
        if look.serves:
            self.cohort.served(look, wanted)
            self.tally.hits += 1
            self.tally.wrong += self._answers[look.candidate] != asked.answer
            self.tally.served_at.append(self._asked)
        else:
            fresh = entry_id(self._asked)
            self._kept.append((fresh, asked))
            self._answers[fresh] = asked.answer
            self.cohort.added(fresh)
        if wanted:
            self._judge(look, asked, fresh)
        return look

    def _near(self, asked: Asked) -> list[Near]:
        found = [(math.cos(asked.angle - kept.angle), kept_id) for kept_id, kept in self._kept]
        return [Near(kept_id, "how do I pay", cosine) for cosine, kept_id in sorted(found, reverse=True)[:8]]

    def _judge(self, look: Look, asked: Asked, fresh: str) -> None:
        for filed in (look, *map(look.rival, look.rivals if fresh else ())):
            equal = (self._answers[filed.candidate] == asked.answer) != (self._chance.random() < self._noise)
            record = judged(filed, equal, fresh, "miss" if fresh else "audit")
            self.records.append(record)
            self.cohort.learn(record)
            self.tally.labels += 1
            if equal:
                return
