"""Does the certificate of the semantic cache hold what it promises? Streams of looks, some made by an opponent.

    python -m tests.bench.cache_validity --streams 1200 --json validity.json

A stream breaks the promise if more than `max_wrong` of its hits were wrong in fact, as the stream's maker knows it, and
not by the few more that the promise has: three at first, none any more from 30 / max_wrong hits on."""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cache.evaluate.interval import clopper_pearson
from cache.semantics.certificate import Certificate

FREE, FADED = 3, 30


@dataclass(slots=True)
class Stream:
    """What a maker of looks may use: everything that the certificate knows, and its own notes."""

    length: int
    max_wrong: float
    rng: random.Random
    certificate: Certificate
    at: int = 0
    hits: int = 0
    wrong: int = 0
    since: int = -1
    """When the first hit was served."""
    notes: dict[str, float] = field(default_factory=dict)

    @property
    def serving(self) -> bool:
        return self.certificate.cut() < math.inf

    def note(self, name: str, draw: Callable[[], float]) -> float:
        """A number drawn once for the stream."""
        return self.notes.setdefault(name, draw())


Maker = Callable[[Stream], tuple[float, float]]
"""Says of the next look: its score, and the probability that serving it is wrong."""


def separable(stream: Stream) -> tuple[float, float]:
    """Half of the looks are safe enough, as many as drawn; the scores of the others are spread below."""
    share, rate = stream.note("share", lambda: stream.rng.uniform(0.2, 0.8)), stream.note("rate", lambda: 0.9)
    return _two(stream, share, stream.note("risk", lambda: stream.rng.random() * rate) * stream.max_wrong)


def calibrated(stream: Stream) -> tuple[float, float]:
    """The score is the probability of being right."""
    spread = stream.note("spread", lambda: stream.rng.uniform(1.5, 4.0))
    score = 1 / (1 + math.exp(-stream.rng.gauss(1.0, spread)))
    return score, 1 - score


def by_a_hair(stream: Stream) -> tuple[float, float]:
    """The best looks are a little worse than allowed: nothing may be served."""
    return _two(stream, 0.5, stream.note("risk", lambda: stream.rng.uniform(1.0, 1.5)) * stream.max_wrong)


def hopeless(stream: Stream) -> tuple[float, float]:
    """The score says nothing."""
    return stream.rng.random(), stream.note("risk", lambda: stream.rng.uniform(0.05, 0.8))


def slow_drift(stream: Stream) -> tuple[float, float]:
    """From none wrong at the top to many times what may be."""
    end = stream.note("end", lambda: stream.rng.uniform(2, 20)) * stream.max_wrong
    return _two(stream, 0.6, min(0.9, end * stream.at / stream.length))


def abrupt_drift(stream: Stream) -> tuple[float, float]:
    """From one look on, up to nine of ten at the top are wrong."""
    when = stream.note("when", stream.rng.random) * stream.length
    after = stream.note("after", lambda: stream.rng.uniform(0.02, 0.9))
    return _two(stream, 0.6, 0.1 * stream.max_wrong if stream.at < when else after)


def scores_move(stream: Stream) -> tuple[float, float]:
    """As from a model that is refitted: the same question gets other scores, for better and worse."""
    pace = stream.note("pace", lambda: stream.rng.uniform(200, 4000))
    true = stream.rng.gauss(1.5, 3.0)
    seen = true + stream.note("size", lambda: stream.rng.uniform(0, 2)) * math.sin(stream.at / pace)
    return 1 / (1 + math.exp(-seen)), 1 / (1 + math.exp(true))


def switches_when_certified(stream: Stream) -> tuple[float, float]:
    """Perfect until some hits have been served, then all wrong. Sees when."""
    wait = stream.note("wait", lambda: stream.rng.choice([0, 0, 1, 10, 100, 1000, 3000]))
    return 0.99, float(stream.hits >= wait and stream.serving)


def wrong_only_when_served(stream: Stream) -> tuple[float, float]:
    """Right whenever it is checked first, wrong with some probability whenever it is served."""
    return 0.99, stream.note("share", lambda: stream.rng.choice([0.02, 0.1, 0.5, 1.0])) * stream.serving


def strikes_while_few_look(stream: Stream) -> tuple[float, float]:
    """Waits until audits have become rare, and is then wrong for as long as that stays so."""
    rare = stream.note("rare", lambda: stream.rng.choice([0.5, 0.25, 0.125, 0.0625]))
    share = stream.note("share", lambda: stream.rng.choice([0.05, 0.2, 1.0]))
    return 0.99, share * (stream.serving and stream.certificate.wanted(0.99) <= rare)


def bursts(stream: Stream) -> tuple[float, float]:
    """Sorted: long runs of right ones, short ones of wrong ones."""
    every = int(stream.note("every", lambda: stream.rng.choice([50, 200, 1000])))
    size = max(1, int(stream.note("size", lambda: stream.rng.uniform(0.3, 2)) * stream.max_wrong * every))
    return 0.99, float(stream.at % every < size)


def _two(stream: Stream, share: float, risk: float) -> tuple[float, float]:
    if stream.rng.random() < share:
        return stream.rng.uniform(0.9, 1.0), risk
    return stream.rng.uniform(0.0, 0.8), 0.7


@dataclass(frozen=True, slots=True)
class Family:
    """`stationary`: whether the share of wrong ones at a score stays what it is. `judge_error`: probability that a
    label is the opposite of the truth. `delay`: looks until a label comes; `lost`: share of those that never do."""

    maker: Maker
    stationary: bool = False
    lengths: tuple[int, ...] = (2000, 6000, 13000)
    judge_error: float = 0.0
    delay: int = 0
    lost: float = 0.0


FAMILIES = {
    "separable": Family(separable, stationary=True),
    "calibrated": Family(calibrated, stationary=True),
    "calibrated, late labels": Family(calibrated, stationary=True, delay=40, lost=0.03),
    "tiny": Family(separable, stationary=True, lengths=(50, 200, 600)),
    "by a hair": Family(by_a_hair, stationary=True),
    "hopeless": Family(hopeless, stationary=True),
    "noisy judge": Family(separable, stationary=True, judge_error=0.003),
    "slow drift": Family(slow_drift),
    "abrupt drift": Family(abrupt_drift),
    "abrupt drift, late labels": Family(abrupt_drift, delay=40, lost=0.03),
    "scores move": Family(scores_move),
    "switches when certified": Family(switches_when_certified),
    "wrong only when served": Family(wrong_only_when_served),
    "strikes while few look": Family(strikes_while_few_look),
    "bursts": Family(bursts),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """`risk`: sum over the hits of the probability that each was wrong. `forgiven`: on the account."""

    family: str
    max_wrong: float
    length: int
    hits: int
    wrong: int
    risk: float
    audits: int
    first: int
    forgiven: int
    judge_error: float
    alarmed: bool

    @property
    def breaks(self) -> bool:
        """More wrong than promised."""
        share = (self.max_wrong + self.judge_error) * self.hits
        return self.wrong > share + FREE * max(0.0, 1 - share / FADED)

    @property
    def breaks_strictly(self) -> bool:
        """A share above the limit, however few the hits."""
        return self.wrong > (self.max_wrong + self.judge_error) * self.hits

    @property
    def breaks_surely(self) -> bool:
        """So many that a share within the limit is ruled out at 95 %."""
        return clopper_pearson(self.wrong, self.hits, 0.9)[0] > self.max_wrong + self.judge_error

    @property
    def breaks_on_average(self) -> bool:
        """A mean risk of its hits above the limit."""
        return self.risk > (self.max_wrong + self.judge_error) * self.hits


def run(name: str, seed: int) -> Outcome:
    """One stream. The same for the same seed."""
    family, rng = FAMILIES[name], random.Random(f"{name} {seed}")
    max_wrong = rng.choice([0.01, 0.02, 0.05])
    certificate = Certificate(max_wrong, 0.95, rng.choice([0.03, 0.1]), judge_error=family.judge_error)
    stream = Stream(rng.choice(family.lengths), max_wrong, rng, certificate)
    late: deque[tuple[int, Callable[[], None]]] = deque()
    risk, audits, coins = 0.0, 0, random.Random(seed)
    for at in range(stream.length):
        stream.at = at
        while late and late[0][0] <= stream.at:
            late.popleft()[1]()
        score, chance_wrong = family.maker(stream)
        wrong = rng.random() < chance_wrong
        served, chance = score >= certificate.cut(), certificate.wanted(score)
        labelled = coins.random() < chance
        if served:
            certificate.served(score, chance=chance, audited=labelled)
            stream.since = stream.at if stream.since < 0 else stream.since
            stream.hits, stream.wrong, risk = stream.hits + 1, stream.wrong + wrong, risk + chance_wrong
            audits += labelled
        if labelled:
            seen = wrong != (rng.random() < family.judge_error)
            late.append((stream.at + family.delay, _label(certificate, score, seen, served, chance, rng, family.lost)))
            if not family.delay:
                late.popleft()[1]()
    return Outcome(
        name,
        max_wrong,
        stream.length,
        stream.hits,
        stream.wrong,
        risk,
        audits,
        stream.since,
        certificate.snapshot().ledger.forgiven,
        family.judge_error,
        certificate.alarmed,
    )


def _label(
    certificate: Certificate, score: float, wrong: bool, served: bool, chance: float, rng: random.Random, lost: float
) -> Callable[[], None]:
    def come() -> None:
        if rng.random() >= lost:
            certificate.observe(score, wrong, served=served, chance=chance)
        elif served:
            certificate.lost(chance=chance)

    return come


def summary(outcomes: list[Outcome]) -> dict[str, dict[str, float]]:
    """Per family."""
    rows: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(outcome.family for outcome in outcomes):
        of = [outcome for outcome in outcomes if outcome.family == name]
        looks, hits = sum(each.length for each in of), sum(each.hits for each in of)
        enough = [each for each in of if each.hits >= FADED / each.max_wrong]
        rows[name] = {
            "streams": len(of),
            "serving": sum(each.hits > 0 for each in of) / len(of),
            "hit_rate": hits / looks,
            "audited": sum(each.audits for each in of) / max(hits, 1),
            "alarmed": sum(each.alarmed for each in of) / len(of),
            "breaks": sum(each.breaks for each in of) / len(of),
            "strictly": sum(each.breaks_strictly for each in of) / len(of),
            "strictly_of_many_hits": sum(each.breaks_strictly for each in enough) / max(len(enough), 1),
            "surely": sum(each.breaks_surely for each in of) / len(of),
            "on_average": sum(each.breaks_on_average for each in of) / len(of),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1200, help="over all families")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--family", action="append", help="only these")
    parser.add_argument("--json", type=Path, help="write all outcomes there")
    args = parser.parse_args()
    names, began = args.family or list(FAMILIES), time.perf_counter()
    each = math.ceil(args.streams / len(names))
    outcomes = [run(name, 100_000 * args.seed + number) for name in names for number in range(each)]
    rows = summary(outcomes)
    print(f"{'family':28}" + "".join(f"{key[:12]:>13}" for key in next(iter(rows.values()))))
    for name, row in rows.items():
        print(
            f"{name:28}"
            + "".join(f"{value:13.3f}" if value != int(value) else f"{int(value):13}" for value in row.values())
        )
    broken = sum(outcome.breaks for outcome in outcomes)
    print(f"{broken} of {len(outcomes)} streams break the promise; {time.perf_counter() - began:.0f} s")
    if args.json:
        document = {"seed": args.seed, "families": rows, "outcomes": [asdict(outcome) for outcome in outcomes]}
        args.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
