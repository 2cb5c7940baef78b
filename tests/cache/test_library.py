"""What finds entries, what they cost in memory, and which go first."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.entry import Added, Learned, Purged, Quarantined, Record, Selector, Used
from cache.eviction import Ranking, worth
from cache.held import size_of
from cache.index import as_bytes
from cache.library import PURGED, PURGES, Library
from cache.planted import planted_record, record_of, shipped
from cache.semantics.seam import Look
from cache.signals import Signals, read_signals
from tests.cache.entries import (
    COHORT,
    NOW,
    CountingCohort,
    answer,
    digest,
    entry,
    judged,
    library,
    state_of,
    told,
    vector,
)


def added(name: str, **fields: Any) -> Added:
    return Added(entry(name, **fields))


def test_an_answer_is_found_by_its_key_until_its_time_is_up_however_often_it_is_served() -> None:
    shelf = library()
    kept = entry("a")
    shelf.apply(Added(kept))
    for second in range(0, 3600, 600):
        assert shelf.find(kept.key, NOW + second) is kept
        shelf.hit(kept.id)
    assert shelf.find(kept.key, NOW + 3600) is None
    shelf.sweep(NOW + 3600)
    assert len(shelf) == 0 and shelf.size_bytes == 0
    assert shelf.stats().expired == 1 and shelf.stats().exact_hits == 6


def test_a_find_takes_two_microseconds_at_most() -> None:
    shelf = library(100_000_000)
    keys = [digest(f"key {name}") for name in range(2000)]
    for name in range(2000):
        shelf.apply(added(str(name)))
    best = min(_timed(shelf, keys) for _ in range(20))
    assert best / len(keys) < 2e-6


def _timed(shelf: Library, keys: list[bytes]) -> float:
    started = time.perf_counter()
    for key in keys:
        shelf.find(key, NOW)
    return time.perf_counter() - started


def test_the_nearest_of_its_partition_are_found_and_those_of_no_other() -> None:
    shelf = library()
    for seed in range(20):
        shelf.apply(added(f"a{seed}", seed=seed))
        shelf.apply(added(f"b{seed}", seed=seed, partition=digest("other"), cohort="globex/chat", tenant="globex"))
    found = shelf.near(digest("partition"), vector(7), 8, NOW)
    assert found[0].text == "what is a7?"
    assert len(found) == 8 and {near.text[8] for near in found} == {"a"}
    assert found[0].cosine == pytest.approx(1.0, abs=1e-3)
    assert shelf.near(digest("nobody's"), vector(7), 8, NOW) == []
    assert shelf.populated(digest("partition")) and not shelf.populated(digest("nobody's"))
    assert [near.id for near in shelf.near(digest("partition"), as_bytes(vector(7)), 8, NOW)] == [n.id for n in found]
    assert shelf.near(digest("partition"), vector(7, 5), 8, NOW) == []
    assert shelf.near(digest("partition"), vector(7), 8, NOW + 3600) == []


def test_the_coarse_stage_rules_nothing_out_that_it_does_not_know() -> None:
    shelf = library()
    where = digest("partition")
    assert shelf.nearest_first(where, vector(1, 8), NOW) == 0.0
    shelf.apply(added("a", seed=1, first=as_bytes(vector(1, 8))))
    assert shelf.nearest_first(where, vector(1, 8), NOW) == pytest.approx(1.0, abs=1e-3)
    assert shelf.nearest_first(where, vector(2, 8), NOW) < 0.9
    shelf.apply(added("b", seed=2))
    assert shelf.nearest_first(where, vector(3, 8), NOW) == 1.0


def test_vectors_of_another_model_are_not_compared() -> None:
    shelf = library()
    shelf.apply(added("a", seed=1, embedder="table@0"))
    assert not shelf.populated(digest("partition"))
    assert shelf.find(digest("key a"), NOW) is not None
    shelf.apply(added("short", seed=2))
    shelf.apply(added("long", seed=3, vector=as_bytes(vector(3, 40))))
    assert shelf.stats().vectors == 1
    shelf.apply(Purged(Selector(), NOW, "me"))
    assert shelf.stats().partitions == 0 and told(shelf).added == []


def test_signals_of_a_text_are_read_once() -> None:
    read: list[str] = []

    def noted(text: str) -> Signals:
        read.append(text)
        return read_signals(text)

    shelf = Library(CountingCohort, library()._bound, max_bytes=10**6, embedder="table@1", read_signals=noted)
    shelf.apply(added("a", seed=1))
    first, second = (shelf.near(digest("partition"), vector(1), 8, NOW)[0].signals for _ in range(2))
    assert first is second is not None
    assert read == ["what is a?"]


def test_the_newer_answer_to_the_same_question_stays_whatever_order_they_are_told_in() -> None:
    older, newer = (entry("a", id=f"{n}" * 32, created_at=NOW + n, seed=n) for n in (1, 2))
    for order in ((older, newer), (newer, older)):
        shelf = library()
        for each in order:
            shelf.apply(Added(each))
        assert shelf.find(older.key, NOW) is newer
        assert len(shelf) == 1 and shelf.size_bytes == size_of(newer) and shelf.stats().vectors == 1


def test_adding_the_same_again_changes_nothing() -> None:
    shelf = library()
    shelf.apply(added("a", seed=1))
    shelf.hit(entry("a").id)
    before = state_of(shelf)
    shelf.apply(added("a", seed=1))
    assert state_of(shelf) == before


def test_what_is_wrong_goes_at_once_with_its_answer_class_and_does_not_come_back() -> None:
    shelf = library()
    for seed, name in enumerate("abc"):
        shelf.apply(added(name, seed=seed))
    wrong, mate = entry("a").id, entry("b").id
    cohort = shelf.cohort(COHORT)
    assert isinstance(cohort, CountingCohort)
    cohort.classmates[wrong] = (mate,)
    shelf.apply(Quarantined((wrong,), NOW, "user"))
    assert sorted(shelf._ids) == [entry("c").id]
    assert shelf.stats().quarantined == 2
    for name in "ab":
        shelf.apply(added(name, seed=1))
    assert len(shelf) == 1
    shelf.apply(Quarantined(("unknown",), NOW, "user"))
    assert told(shelf).quarantined == [wrong, "unknown"]


@pytest.mark.parametrize(
    ("selector", "left"),
    [
        (Selector(), ""),
        (Selector(tenant="acme"), "b"),
        (Selector(deployment="chat"), "c"),
        (Selector(model="m@2"), "ab"),
        (Selector(tag="faq"), "bc"),
        (Selector(cohort="globex/chat"), "ac"),
        (Selector(id=entry("b").id), "ac"),
        (Selector(id=entry("b").id, tenant="acme"), "abc"),
        (Selector(before_epoch=3), "c"),
        (Selector(tenant="acme", before_epoch=3), "bc"),
    ],
)
def test_a_purge_takes_what_it_selects_and_says_so_beforehand(selector: Selector, left: str) -> None:
    shelf = library()
    shelf.apply(added("a", tags=("faq", "de"), epoch=1))
    shelf.apply(added("b", tenant="globex", cohort="globex/chat", epoch=2))
    shelf.apply(added("c", deployment="code", model="m@2", epoch=3))
    total = shelf.size_bytes
    preview = shelf.preview(selector)
    assert len(shelf) == 3, "a dry run takes nothing"
    shelf.apply(Purged(selector, NOW + 1, "admin"))
    assert "".join(name for name in "abc" if shelf.find(digest(f"key {name}"), NOW)) == left
    assert preview.entries == 3 - len(left) == shelf.stats().purged
    assert preview.size_bytes == total - shelf.size_bytes


def test_what_was_made_before_a_purge_but_is_told_after_it_is_purged_as_well() -> None:
    shelf = library()
    shelf.apply(Purged(Selector(tenant="acme"), NOW + 1, "admin"))
    shelf.apply(added("a"))
    shelf.apply(added("b", created_at=NOW + 2))
    shelf.apply(added("c", tenant="globex"))
    assert sorted(shelf._ids) == sorted(entry(name).id for name in "bc")
    for second in range(PURGES + 5):
        shelf.apply(Purged(Selector(tenant="nobody"), NOW + second, "admin"))
    assert len(shelf._purges) == PURGES


def test_a_large_purge_takes_effect_at_once_and_its_work_is_done_in_slices() -> None:
    shelf = library(100_000_000)
    for n in range(3 * PURGED):
        shelf.apply(added(f"e{n}", seed=n % 7, tenant="acme" if n % 3 else "globex"))
    expected = shelf.preview(Selector(tenant="acme"))
    shelf.apply(Purged(Selector(tenant="acme"), NOW, "admin"))
    assert len(shelf) == 3 * PURGED, "the work is put off"
    assert shelf.find(entry("e1").key, NOW) is None and shelf.held(entry("e1").id) is None
    assert shelf.preview(Selector()).entries == PURGED and shelf.preview(Selector(id=entry("e1").id)).entries == 0
    found = shelf.near(digest("partition"), vector(3), 8, NOW)
    assert found and all(int(near.text[9:-1]) % 3 == 0 for near in found)
    shelf.apply(added("e1", id="f" * 32, created_at=NOW + 1, tenant="acme"))
    assert shelf.find(entry("e1").key, NOW) is not None, "it is newer than the purge"
    shelf.apply(Purged(Selector(id=entry("e0").id), NOW, "admin"))
    assert shelf.find(entry("e0").key, NOW) is None
    slices = 1
    while shelf.work():
        slices += 1
    assert slices >= 3 and len(shelf) == PURGED
    assert shelf.stats().purged == expected.entries + 1
    assert shelf.size_bytes == sum(size_of(slot.entry) for slot in shelf._ids.values())


def test_entries_are_found_by_an_embedder_that_comes_later_once_the_work_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cache.library.SLICE_S", 0.0)
    shelf = Library(CountingCohort, library()._bound, max_bytes=10**7)
    for n in range(20):
        shelf.apply(added(f"e{n}", seed=n))
    shelf.apply(added("other", seed=1, embedder="table@0"))
    assert not shelf.populated(digest("partition"))
    shelf.compare_by("table@1")
    assert shelf.work()
    shelf.apply(added("late", seed=30))
    shelf.apply(Quarantined((entry("e19").id,), NOW, "user"))
    while shelf.work():
        pass
    assert shelf.stats().vectors == 20
    assert shelf.near(digest("partition"), vector(30), 1, NOW)[0].id == entry("late").id


def test_a_ranking_forgets_those_that_are_gone() -> None:
    ranks = {number: float(number) for number in range(300)}
    ranking = Ranking(ranks.get)
    for number, rank in ranks.items():
        ranking.add(number, rank)
    for number in range(250):
        del ranks[number]
    ranking.compact(50)
    assert len(ranking) == 50
    ranks[250] = 1000.0
    assert [ranking.take() for _ in range(49)] == list(range(251, 300))
    assert (ranking.take(), ranking.clock, ranking.take()) == (250, 1000.0, None)


def test_what_saves_most_for_its_bytes_stays() -> None:
    size = size_of(entry("a0"))
    shelf = library(10 * size + size // 2)
    for n in range(10):
        shelf.apply(added(f"a{n}", saved_s=float(n + 1)))
    shelf.apply(added("b0", saved_s=5.5))
    assert shelf.find(digest("key a0"), NOW) is None
    assert shelf.find(digest("key b0"), NOW) is not None
    assert len(shelf) == 10 and shelf.stats().evicted == 1


def test_what_is_asked_for_often_outlives_what_saved_more_once() -> None:
    size = size_of(entry("a0"))
    shelf = library(4 * size + size // 2)
    for n in range(4):
        shelf.apply(added(f"a{n}", saved_s=1.0))
    for _ in range(9):
        shelf.hit(entry("a0").id)
    for n in range(3):
        shelf.apply(added(f"b{n}", saved_s=3.0))
    assert shelf.find(digest("key a0"), NOW) is not None
    assert all(shelf.find(digest(f"key a{n}"), NOW) is None for n in (1, 2, 3))


def test_what_was_worth_much_long_ago_goes_at_last() -> None:
    size = size_of(entry("a"))
    shelf = library(4 * size + size // 2)
    shelf.apply(added("a", saved_s=20.0))
    for n in range(300):
        shelf.apply(added(f"b{n}", saved_s=1.0))
    assert shelf.find(digest("key a"), NOW) is None


def test_an_answer_that_did_not_fit_what_was_near_is_worth_less() -> None:
    assert worth(1.0, 0, 3, 5, 0) > worth(1.0, 0, 3, 5, 5) > worth(1.0, 0, 3, 0, 5)
    assert worth(1.0, 1_000_000, 0, 0, 0) > worth(1.0, 0, 0, 0, 0) > worth(0.0, 0, 0, 0, 0) > 0
    assert worth(-1.0, -5, 0, 0, 0) == worth(0.0, 0, 0, 0, 0)
    shelf = library()
    shelf.apply(added("a", seed=1))
    shelf.apply(judged("a"))
    shelf.apply(judged("a", equal=False))
    shelf.apply(judged("gone"))
    held = shelf.held(entry("a").id)
    assert held is not None and (held.confirmed, held.contradicted) == (1, 1)
    assert told(shelf).learned == [(entry("a").id, True), (entry("a").id, False), (entry("gone").id, True)]
    assert shelf.held("unknown") is None


def test_an_answer_that_would_take_a_quarter_of_all_memory_is_not_kept() -> None:
    shelf = library(16_000)
    shelf.apply(added("a", answer=answer("x" * 4000)))
    assert len(shelf) == 0 and shelf.stats().too_large == 1
    shelf.apply(added("b"))
    assert len(shelf) == 1


def test_workers_tell_each_other_what_they_served() -> None:
    mine, yours = library(me="mine"), library(me="yours")
    for shelf in (mine, yours):
        shelf.apply(added("a", seed=1))
    assert mine.used(NOW) is None
    mine.hit(entry("a").id)
    mine.hit(entry("a").id, Look(candidate=entry("a").id), audited=True)
    mine.hit("gone meanwhile", Look())
    used = mine.used(NOW)
    assert used == Used({entry("a").id: 2}, NOW, "mine")
    assert mine.used(NOW) is None
    for shelf in (mine, yours):
        shelf.apply(used)
        held = shelf.held(entry("a").id)
        assert held is not None and held.hits == 2
    assert mine.cohort(COHORT).status().hits == 1
    yours.apply(Used({"unknown": 3}, NOW, "mine"))


def test_what_a_cohort_learned_can_be_handed_on() -> None:
    shelf = library()
    assert shelf.learned(COHORT, NOW) is None
    shelf.cohort(COHORT)
    assert shelf.learned(COHORT, NOW) is None
    shelf.apply(judged("a"))
    learned = shelf.learned(COHORT, NOW)
    assert isinstance(learned, Learned) and learned.labels == 1
    other = library()
    other.apply(learned)
    assert told(other).learned == told(shelf).learned
    assert repr(other) == "<Library entries=0 size_bytes=0>"


def test_what_a_judge_said_of_planted_pairs_is_no_cohorts_and_can_be_handed_on() -> None:
    shelf, name = library(), record_of("m")
    pairs = list(shipped().values())
    for pair in pairs:
        shelf.apply(planted_record("m", pair, True, NOW))
    error = shelf.judge(name)
    assert (error.pairs, error.same.wrong, error.different.wrong) == (len(pairs), 0, error.different.of)
    assert shelf.cohorts == {}
    learned = shelf.learned(name, NOW)
    assert learned is not None and learned.labels == len(pairs)
    other = library()
    other.apply(learned)
    assert (other.judge(name).same, other.judge(name).different) == (error.same, error.different)
    assert other.judge(name).knows(pairs[0].name)
    other.apply(msgspec.structs.replace(learned, state=b"what?"))
    assert other.judge(name).pairs == 0
    assert other.judge(record_of("another")).pairs == 0


NAMES = st.sampled_from("abcdefgh")
SELECTORS = st.sampled_from([Selector(), Selector(tenant="t0"), Selector(tag="x"), Selector(before_epoch=2)])
ADDED = st.builds(
    lambda name, version, seed, size, life, tenant, tags, epoch: added(
        name,
        id=digest(f"{name} {version}").hex()[:32],
        seed=seed,
        created_at=NOW + version,
        expires_at=NOW + life,
        tenant=f"t{tenant}",
        cohort=f"t{tenant}/chat",
        tags=tags,
        epoch=epoch,
        said="x" * size,
    ),
    NAMES,
    st.integers(0, 3),
    st.none() | st.integers(0, 9),
    st.integers(0, 3000),
    st.integers(1, 60),
    st.integers(0, 2),
    st.sampled_from([(), ("x",), ("x", "y")]),
    st.integers(0, 3),
)
RECORDS = st.one_of(
    ADDED,
    ADDED,
    ADDED,
    st.builds(judged, NAMES, st.booleans()),
    st.builds(
        lambda name, version: Quarantined((digest(f"{name} {version}").hex()[:32],), NOW, "x"), NAMES, st.integers(0, 3)
    ),
    st.builds(lambda selector, at: Purged(selector, NOW + at, "x"), SELECTORS, st.integers(0, 5)),
    st.builds(lambda name: Used({entry(name).id: 2}, NOW, "other"), NAMES),
)
STEPS = st.lists(st.one_of(RECORDS, RECORDS, RECORDS, st.integers(0, 60), NAMES), max_size=80)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_memory_is_counted_to_the_byte_and_never_over_its_limit(steps: list[Record | int | str]) -> None:
    shelf = library(20_000)
    for step in steps:
        _do(shelf, step)
        held = [shelf.held(each) for each in shelf._ids]
        assert shelf.size_bytes == sum(size_of(each.entry) for each in held if each is not None) <= 20_000
        stats = shelf.stats()
        assert stats.entries == len(shelf._keys) == len(shelf._slots) == len(held)
        assert stats.vectors == sum(slot.indexed for slot in shelf._slots.values())
        assert (
            stats.added
            == stats.entries + stats.evicted + stats.expired + stats.replaced + stats.purged + stats.quarantined
        )
        assert sum(len(told(shelf, name).added) for name in shelf.cohorts) >= stats.vectors


def _do(shelf: Library, step: Record | int | str) -> None:
    if isinstance(step, int):
        shelf.sweep(NOW + step)
    elif isinstance(step, str):
        shelf.hit(entry(step).id)
    else:
        shelf.apply(step)


@settings(max_examples=100, deadline=None)
@given(st.lists(RECORDS, max_size=60))
def test_the_same_records_in_the_same_order_give_the_same_library(records: list[Record]) -> None:
    one, other = library(20_000), library(20_000)
    for record in records:
        one.apply(record)
    for record in records:
        other.apply(record)
        if isinstance(record, Added | Purged | Quarantined):
            other.apply(record)
    assert state_of(one) == state_of(other)
