"""Labelled questions through the semantic decision: what is read, counted, played and told."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import random
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.embed.seam import NoVector
from cache.entry import Judged
from cache.evaluate.baselines import Static, VCache, play
from cache.evaluate.data import BadData, Stream, order_of, read_pairs, read_stream
from cache.evaluate.figures import Tally, pooled
from cache.evaluate.interval import beta_cdf, clopper_pearson
from cache.evaluate.pairs import cut_at, separation
from cache.evaluate.plot import Curve, Point, p_chr_svg
from cache.evaluate.replay import Run, Setting, replay
from cache.evaluate.vcache import Vote
from cache.evaluate.vectors import BadVectors, KeptVectors
from cache.index import Floats
from cache.semantics.seam import Bound, CohortStatus, Look, Near

PUBLISHED = {(0, 10): (0.0, 0.308497), (1, 10): (0.002529, 0.445016), (5, 10): (0.187086, 0.812914)}
"""Of tables of exact intervals at 95 %."""


@pytest.mark.parametrize(("seen", "interval"), PUBLISHED.items())
def test_intervals_are_those_of_the_tables(seen: tuple[int, int], interval: tuple[float, float]) -> None:
    assert clopper_pearson(*seen) == pytest.approx(interval, abs=1e-6)


@given(st.integers(0, 60), st.integers(1, 60), st.sampled_from([0.8, 0.95, 0.99]))
def test_at_the_limits_the_binomial_tails_are_what_was_asked_for(count: int, more: int, confidence: float) -> None:
    of = count + more
    low, high = clopper_pearson(count, of, confidence)
    at_most = sum(math.comb(of, k) * high**k * (1 - high) ** (of - k) for k in range(count + 1))
    assert at_most == pytest.approx((1 - confidence) / 2, rel=1e-6)
    if count:
        at_least = sum(math.comb(of, k) * low**k * (1 - low) ** (of - k) for k in range(count, of + 1))
        assert at_least == pytest.approx((1 - confidence) / 2, rel=1e-6)


def test_intervals_of_everything_nothing_and_no_share() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    assert clopper_pearson(7, 7)[1] == 1.0
    assert clopper_pearson(20, 100_000) == pytest.approx((0.000122, 0.000309), abs=1e-6)
    assert (beta_cdf(0.0, 2, 3), beta_cdf(1.0, 2, 3)) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 of 2 is no share"):
        clopper_pearson(3, 2)


def write(path: Path, text: str) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


HI = '{"text": "hi", "label": "hello"}'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("q.csv", "text,label\nhow are you?,hello\nhi,hello\nhi,hello\nbye,8\n"),
        ("q.tsv", "label\ttext\nhello\thow are you?\nhello\thi\nhello\thi\n8\tbye\n"),
        (
            "q.jsonl.gz",
            f'{{"text": "how are you?", "label": "hello"}}\n\n{HI}\n{HI}\n{{"text": "bye", "label": 8}}\n',
        ),
        (
            "q.json",
            f'[{{"text": "how are you?", "label": "hello"}}, {HI}, {HI}, {{"text": "bye", "label": 8}}]',
        ),
    ],
)
def test_a_stream_is_read_from_each_format_and_repeats_are_left_out(name: str, text: str, tmp_path: Path) -> None:
    stream = read_stream(write(tmp_path / name, text), "text", "label")
    assert stream == Stream(name, ("how are you?", "hi", "bye"), ("hello", "hello", "8"), repeats=1)


def test_columns_may_have_other_names_and_only_the_first_rows_be_read(tmp_path: Path) -> None:
    file = write(tmp_path / "q.csv", "question,intent\na,1\nb,2\nc,3\n")
    assert read_stream(file, "question", "intent", limit=2).texts == ("a", "b")


def test_questions_that_belong_nowhere_may_have_answers_of_their_own(tmp_path: Path) -> None:
    file = write(tmp_path / "q.csv", "text,label\na,oos\nb,1\nc,oos\nd,1\n")
    assert len(set(read_stream(file, "text", "label", alone="oos").labels)) == 3
    assert len(set(read_stream(file, "text", "label").labels)) == 2


def test_pairs_become_a_stream_in_which_those_that_are_joined_have_one_label(tmp_path: Path) -> None:
    rows = [("a", "b", 1), ("c", "d", 0), ("b", "e", True), ("d", "a", "different"), ("f", "c", "yes")]
    file = write(tmp_path / "p.json", json.dumps([{"text_a": a, "text_b": b, "label": on} for a, b, on in rows]))
    stream = read_stream(file, "text", "label")
    together: dict[str, set[str]] = {}
    for text, label in zip(stream.texts, stream.labels, strict=True):
        together.setdefault(label, set()).add(text)
    assert sorted(map(sorted, together.values())) == [["a", "b", "e"], ["c", "f"], ["d"]]
    assert read_stream(file, "text", "label", limit=3).texts == ("a", "b", "c")


def test_pairs_are_read_with_their_kinds(tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", '{"a": "x", "b": "y", "label": 0, "cap": "Negation"}\n{"a": "x"}\n')
    (pair,) = read_pairs(file, limit=1)
    assert (pair.a, pair.b, pair.equal, pair.kind) == ("x", "y", False, "Negation")
    named = write(tmp_path / "n.csv", "left,right,hit,sort\nx,y,TRUE,plain\n")
    assert read_pairs(named, ["left", "right", "hit", "sort"])[0].kind == "plain"
    assert read_pairs(named, ["left", "right", "hit"])[0].kind == ""


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("q.csv", "text,label\na,1\n,2\n", "q.csv: row 3, column 'text': is empty"),
        ("q.csv", "text,label\na,1\nb\n", "q.csv: row 3, column 'label': is missing"),
        ("q.csv", "question,label\na,1\n", "row 2 has no column 'text'; it has 'question', 'label'"),
        ("q.csv", 'text,label\n"a,1\n', "q.csv: row 2: unexpected end of data"),
        ("q.csv", "", "q.csv: has no rows"),
        ("q.jsonl", '{"text": "a", "label": "1"}\n{"text"\n', "q.jsonl: row 2: Expecting"),
        ("q.jsonl", "[1]\n", "q.jsonl: row 1 is no object"),
        ("q.jsonl", '{"text": ["a"], "label": "1"}', "row 1, column 'text': ['a'] is no text"),
        ("q.jsonl", '{"text": "' + "a" * 40_000 + '", "label": "1"}', "has 40000 characters; 32768 are the most"),
        ("q.json", "{}", "q.json: is no list of objects"),
        ("q.json", "[", "q.json: Expecting"),
        ("q.xlsx", "", "its name ends in none of .csv, .tsv, .json, .jsonl, with or without .gz"),
    ],
)
def test_what_is_wrong_in_a_stream_is_told_with_its_row_and_column(
    name: str, text: str, told: str, tmp_path: Path
) -> None:
    with pytest.raises(BadData) as raised:
        read_stream(write(tmp_path / name, text), "text", "label")
    assert told in str(raised.value)


def test_what_is_wrong_in_pairs_is_told_with_its_row_and_column(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="row 2, column 'label': 'maybe' is neither 1 nor 0"):
        read_pairs(write(tmp_path / "p.csv", "a,b,label\nx,y,maybe\n"))
    with pytest.raises(BadData, match=r"has the columns 'x', 'y'; expected two texts \(text_a and text_b"):
        read_pairs(write(tmp_path / "p.csv", "x,y\n1,2\n"))
    with pytest.raises(BadData, match="has no column 'hit'"):
        read_pairs(write(tmp_path / "p.csv", "a,b,label\nx,y,1\n"), ["a", "b", "hit"])
    with pytest.raises(BadData, match="has no rows"):
        read_pairs(write(tmp_path / "p.json", "[]"))


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="No such file"):
        read_stream(tmp_path / "none.csv", "text", "label")
    (tmp_path / "latin.csv").write_bytes(b"text,label\n\xe9t\xe9,1\n")
    with pytest.raises(BadData, match="is not UTF-8"):
        read_stream(tmp_path / "latin.csv", "text", "label")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"text,label\na,1\n")[:-9])
    with pytest.raises(BadData, match="ended before"):
        read_stream(tmp_path / "cut.csv.gz", "text", "label")


def test_hits_are_counted_by_quarters_of_the_stream() -> None:
    tally = Tally(6)
    for hit, wrong in ((0, 0), (1, 1), (0, 0), (1, 0), (1, 0), (1, 0)):
        tally.hit(wrong=bool(wrong)) if hit else tally.miss()
    figures = tally.figures()
    assert (figures.hits, figures.wrong, figures.wrong_per_hit) == (4, 1, 0.25)
    assert figures.hits_by_quarter == (0.5, 0.0, 1.0, 1.0)
    both = pooled([figures, Tally(6).figures()])
    assert (both.requests, both.hits, both.hits_by_quarter) == (12, 4, (0.25, 0.0, 0.5, 0.5))
    assert Tally(3).figures().interval == (0.0, 1.0)


def groups(count: int, each: int, apart: float, seed: int = 0) -> tuple[Stream, Floats]:
    """Questions in groups of one answer: cosines within a group grow as `apart` falls."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(count, 48))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    vectors = np.repeat(centres, each, axis=0) + draw.normal(size=(count * each, 48)) * apart / math.sqrt(48)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = tuple(str(i // each) for i in range(count * each))
    texts = tuple(f"question {i % each} of {i // each}" for i in range(count * each))
    return Stream("groups", texts, labels, 0), vectors.astype(np.float32)


class Plain:
    """Serves at a cosine; remembers what it is told."""

    def __init__(self, cut: float, wanted: float = 1.0) -> None:
        self._cut = cut
        self._wanted = wanted
        self.learned: list[Judged] = []
        self.there: list[str] = []
        self.hits = self.audited = 0

    def look(self, text: str, near: Sequence[Near]) -> Look:
        assert all(one.id in self.there for one in near)
        if not near:
            return Look()
        best = near[0]
        rivals = tuple(one.id for one in near[1:3])
        serves = best.cosine >= self._cut
        return Look(best.id, best.cosine, best.cosine, (), serves, 0.5, self._cut, self._wanted, rivals)

    def added(self, id: str, text: str) -> None:  # noqa: A002 - as cohorts have it
        self.there.append(id)

    def learn(self, judged: Judged) -> None:
        self.learned.append(judged)

    def served(self, look: Look, audited: bool = False) -> None:
        self.hits += 1
        self.audited += audited

    def status(self) -> CohortStatus:
        return CohortStatus("learning", self._cut, 0.5, len(self.learned), self.hits, 0, 0, (0.0, 1.0))


def played(cohort: Plain, seed: int = 1, judge_error: float = 0.0) -> Run:
    stream, vectors = groups(30, 10, 0.6)
    return replay(stream, vectors, Setting(Bound(0.1), seed, judge_error), cohort)


def test_a_question_is_served_by_what_missed_before_it_and_labelled_by_the_labels() -> None:
    cohort = Plain(0.7)
    run = played(cohort)
    assert run.figures.hits == cohort.hits > 100
    assert run.figures.hits + len(cohort.there) == 300
    assert run.labels == len(cohort.learned) >= 299
    assert (
        run.audits == sum(judged.source == "audit" for judged in cohort.learned) == run.figures.hits == cohort.audited
    )
    audited_wrong = sum(judged.source == "audit" and not judged.equal for judged in cohort.learned)
    assert audited_wrong == run.figures.wrong
    assert all((judged.fresh == "") == (judged.source == "audit") for judged in cohort.learned)
    assert run.spared_rate == 0.0
    assert run.first_hit is not None and 2 <= run.first_hit <= 31
    assert played(Plain(2.0)).first_hit is None
    assert (run.state, run.stated_bound, run.kept) == ("learning", 0.5, run.figures.wrong_per_hit <= 0.1)


def test_an_answer_that_differs_from_the_candidates_is_compared_with_rivals_up_to_the_first_that_is_equal() -> None:
    cohort = Plain(2.0)
    played(cohort)
    by_fresh: dict[str, list[Judged]] = {}
    for judged in cohort.learned:
        by_fresh.setdefault(judged.fresh, []).append(judged)
    assert len(by_fresh) == 299
    assert {len(some) for some in by_fresh.values()} == {1, 2, 3}
    for some in by_fresh.values():
        assert not any(judged.equal for judged in some[:-1])
        assert some[-1].equal or len(some) == 1 + len(some[0].look.rivals)


def test_a_replay_repeats_and_another_seed_is_another_order() -> None:
    assert played(Plain(0.7, 0.5), 3) == played(Plain(0.7, 0.5), 3)
    assert order_of(1, 50) != order_of(2, 50)
    assert sorted(order_of(1, 50)) == list(range(50))


def test_labels_are_asked_for_as_often_as_they_are_wanted() -> None:
    assert played(Plain(0.7, 0.0)).labels == 0
    assert 100 < played(Plain(0.7, 0.5)).labels < played(Plain(0.7, 1.0)).labels


def test_a_judge_that_errs_flips_labels() -> None:
    sure, unsure = Plain(2.0), Plain(2.0)
    played(sure)
    played(unsure, judge_error=0.2)
    first = [{judged.fresh: judged.equal for judged in reversed(one.learned)} for one in (sure, unsure)]
    flipped = sum(first[0][fresh] != equal for fresh, equal in first[1].items())
    assert 30 < flipped < 90


def test_the_replay_tells_of_each_step() -> None:
    stream, vectors = groups(3, 2, 0.1)
    steps: list[int] = []
    replay(stream, vectors, Setting(Bound(), 1), Plain(0.5), step=lambda: steps.append(1))
    play(stream, vectors, [Static(0.9)], 1, lambda: steps.append(2))
    assert steps == [1] * 6 + [2] * 6


def test_a_higher_threshold_serves_less_and_more_of_it_rightly() -> None:
    stream, vectors = groups(40, 12, 0.9)
    low, high = play(stream, vectors, [Static(0.35), Static(0.6)], 1)
    assert low.hits > high.hits > 0
    assert low.wrong_per_hit > high.wrong_per_hit


def test_a_threshold_serves_what_slow_counting_says() -> None:
    stream, vectors = groups(8, 5, 0.9)
    kept: list[int] = []
    hits = wrong = 0
    for at in order_of(4, 40):
        cosine, best = max(((float(vectors[at] @ vectors[k]), k) for k in kept), default=(0.0, 0))
        if cosine >= 0.5:
            hits += 1
            wrong += stream.labels[at] != stream.labels[best]
        else:
            kept.append(at)
    (figures,) = play(stream, vectors, [Static(0.5)], 4)
    assert (figures.hits, figures.wrong) == (hits, wrong)


def test_vcache_keeps_its_share_of_all_requests_and_serves_more_the_more_may_be_wrong() -> None:
    stream, vectors = groups(30, 60, 0.8)
    careful, careless = play(stream, vectors, [VCache(0.01, 1), VCache(0.05, 1)], 1)
    assert 0 < careful.hits < careless.hits
    assert careful.wrong_per_request <= 0.01
    assert careless.wrong_per_request <= 0.05


def test_an_answer_of_vcache_is_explored_until_enough_is_known_of_it() -> None:
    vote = Vote()
    for _ in range(3):
        vote.add(0.8, equal=True)
    assert vote.explore(0.99, 0.02) == 1.0
    vote.add(0.8, equal=True)
    sure = vote.explore(0.95, 0.02)
    assert sure < vote.explore(0.7, 0.02) <= vote.explore(0.1, 0.02) == pytest.approx(0.98, abs=0.01)
    for _ in range(3):
        vote.add(0.9, equal=False)
    assert vote.explore(0.95, 0.02) > sure


def test_a_score_that_separates_has_all_and_one_that_says_nothing_half() -> None:
    equal = [True, True, False, False]
    clean = separation([0.9, 0.8, 0.2, 0.1], equal, ["", "", "x", "y"])
    assert (clean.auc, clean.recall) == (1.0, {"0.95": 1.0, "0.99": 1.0})
    assert clean.cuts[0].traps_by_kind == {"x": 0.0, "y": 0.0}
    assert separation([0.5] * 4, equal, [""] * 4).auc == 0.5
    assert separation([0.1, 0.2, 0.8, 0.9], equal, [""] * 4).recall["0.95"] == 0.0
    with pytest.raises(ValueError, match="2 paraphrases and 0 traps: both are needed"):
        separation([0.5, 0.5], [True, True], ["", ""])


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2).filter(lambda p: len({e for _, e in p}) == 2))
def test_auc_and_recall_are_what_slow_counting_says(pairs: list[tuple[int, bool]]) -> None:
    scores, equal = [score / 10 for score, _ in pairs], [same for _, same in pairs]
    found = separation(scores, equal, [""] * len(pairs))
    right = [s for s, same in zip(scores, equal, strict=True) if same]
    wrong = [s for s, same in zip(scores, equal, strict=True) if not same]
    auc = sum((r > w) + (r == w) / 2 for r in right for w in wrong) / (len(right) * len(wrong))
    assert found.auc == pytest.approx(auc)
    recall = 0.0
    for cut in set(scores):
        good, bad = sum(s >= cut for s in right), sum(s >= cut for s in wrong)
        if good >= 0.95 * (good + bad):
            recall = max(recall, good / len(right))
    assert found.recall["0.95"] == pytest.approx(recall)
    for share, at in zip((0.5, 0.57, 0.75, 0.9), found.cuts, strict=True):
        assert at.paraphrases >= share - 1e-9
        assert at == cut_at(at.score, scores, equal, [""] * len(pairs))


class Letters:
    """Vectors of how often each letter is in a text; more than ten characters are too many."""

    name = "letters"
    dimensions = 26
    calls = 0

    async def embed(self, texts: Sequence[str], *, urgent: bool = True) -> list[Floats]:
        self.calls += 1
        if any(len(text) > 10 for text in texts):
            raise NoVector("long")
        if "busy" in texts:
            raise NoVector("busy")
        return [np.array([text.count(chr(97 + i)) for i in range(26)], np.float32) for text in texts]

    async def aclose(self) -> None: ...


def test_vectors_are_kept_in_a_file_and_not_made_twice(tmp_path: Path) -> None:
    file, embedder, done = tmp_path / "v.npz", Letters(), list[int]()
    kept = KeptVectors("letters")
    texts = [chr(97 + i % 26) + chr(97 + i // 26) for i in range(70)]
    asyncio.run(kept.fill(kept.missing([*texts, *texts]), embedder, done.append))
    kept.write(file)
    assert (done, embedder.calls) == ([32, 32, 6], 3)
    again = KeptVectors("letters")
    again.read(file)
    assert again.missing([*texts, "new"]) == ["new"]
    assert np.allclose(again.of(["ab"]) @ again.of(["ba"]).T, 1.0)


async def test_questions_that_are_too_long_are_left_out_and_counted() -> None:
    kept = KeptVectors("letters")
    stream = Stream("s", ("short", "much too long", "other"), ("1", "2", "3"), 0)
    await kept.fill(stream.texts, Letters(), lambda _count: None)
    assert kept.without_long(stream) == (Stream("s", ("short", "other"), ("1", "3"), 0), 1)
    with pytest.raises(NoVector):
        await kept.fill(["busy"], Letters(), lambda _count: None)


def test_files_that_hold_no_vectors_or_others_are_refused(tmp_path: Path) -> None:
    kept = KeptVectors("letters")
    with pytest.raises(BadVectors, match="No such file"):
        kept.read(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(BadVectors, match="is no file of vectors"):
        kept.read(tmp_path / "bad.npz")
    np.savez(tmp_path / "words.npz", embedder="words", keys=np.zeros((1, 16), np.uint8), vectors=np.ones((1, 4)))
    with pytest.raises(BadVectors, match="has vectors of 'words', not of 'letters'"):
        kept.read(tmp_path / "words.npz")
    np.savez(tmp_path / "odd.npz", embedder="letters", keys=np.zeros((2, 16), np.uint8), vectors=np.ones((1, 4)))
    with pytest.raises(BadVectors, match=r"their shapes are \(2, 16\) and \(1, 4\)"):
        kept.read(tmp_path / "odd.npz")
    with pytest.raises(BadVectors, match="No such file"):
        kept.write(tmp_path / "none" / "v.npz")


def points(seed: int, count: int) -> list[Point]:
    draw = random.Random(seed)
    found = []
    for number in range(count):
        precision = draw.uniform(0.3, 1.0)
        found.append(Point(draw.random(), precision, (precision - 0.01, min(1.0, precision + 0.01)), f"{number}"))
    return found


@given(st.integers(0, 50), st.integers(0, 9))
def test_a_plot_is_xml_with_a_mark_for_each_point_that_has_hits_inside_its_frame(seed: int, count: int) -> None:
    marks = points(seed, count)
    svg = p_chr_svg("a < b", [Curve("one & two", [*marks, Point(0.0, 1.0, (0.0, 1.0), "none")])])
    root = ET.fromstring(svg)
    circles = [one for one in root.iter() if one.tag.endswith("circle")]
    assert len(circles) == count + 1
    assert all(60 <= float(one.attrib["cx"]) <= 720 and 39 <= float(one.attrib["cy"]) <= 371 for one in circles)
    assert "none" not in svg.replace('"none"', "")
