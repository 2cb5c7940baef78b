from __future__ import annotations

import math
import time

import msgspec
import pytest

from cache.semantics.cohort import Cohort
from cache.semantics.seam import Bound, Look
from tests.cache.semantics.world import Asked, Gateway, entry_id, judged, near, topics

BOUND = Bound(max_wrong_hit_rate=0.05)


def served(cohort: Cohort, asked: list[Asked], seed: int = 1, noise: float = 0.0) -> Gateway:
    gateway = Gateway(cohort, seed, noise)
    for each in asked:
        gateway.ask(each)
    return gateway


@pytest.fixture(scope="module")
def taught() -> bytes:
    """The state of a cohort that serves."""
    return served(Cohort(BOUND), topics(1, 1200, of=6)).cohort.snapshot()


def certified(taught: bytes) -> Cohort:
    """Knows two entries with one answer besides."""
    cohort = Cohort(BOUND)
    cohort.restore(taught)
    look = cohort.look("how do I pay", near(("a", 0.9)))
    cohort.added("a")
    cohort.added("b")
    cohort.learn(judged(msgspec.structs.replace(look, candidate="a", features=()), True, "b"))
    return cohort


def test_where_nothing_is_near_nothing_is_served_nor_judged() -> None:
    look = Cohort(BOUND).look("how do I pay", [])
    assert look == Look()
    assert not look.serves
    assert look.wanted == 0.0


def test_a_cold_cohort_serves_nothing_however_near() -> None:
    cohort = Cohort(BOUND)
    cohort.added("a")
    look = cohort.look("how do I pay", near(("a", 1.0)))
    assert (look.candidate, look.serves, look.bound, look.cut, look.wanted) == ("a", False, 1.0, math.inf, 1.0)
    assert cohort.status().state == "cold"


def test_a_look_changes_nothing(taught: bytes) -> None:
    cohort = certified(taught)
    before = cohort.snapshot()
    found = near(("a", 0.99), ("b", 0.98))
    assert cohort.look("how do I pay", found) == cohort.look("how do I pay", found)
    assert cohort.snapshot() == before


def test_topics_that_lie_apart_are_served_within_the_bound() -> None:
    gateway = served(Cohort(BOUND), topics(2, 1500, of=6))
    assert gateway.tally.hits > 400
    assert gateway.tally.wrong <= 0.05 * gateway.tally.hits
    status = gateway.cohort.status()
    assert status.state == "certified"
    assert status.hits == gateway.tally.hits
    assert status.labels > 500
    assert 0 < status.audited <= status.hits
    assert status.interval[0] <= status.audited_wrong / status.audited <= status.interval[1]
    assert status.bound <= 0.05


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_where_each_question_has_its_own_answer_nothing_is_served(seed: int) -> None:
    gateway = served(Cohort(BOUND), topics(seed, 800, of=6, hopeless=True))
    assert gateway.tally.hits == 0
    assert gateway.cohort.status().state == "learning"


def test_a_judge_that_errs_more_often_than_allowed_lets_nothing_be_served() -> None:
    gateway = served(Cohort(Bound(max_wrong_hit_rate=0.02)), topics(3, 1000, of=6), noise=0.1)
    assert gateway.tally.hits == 0


def test_after_its_answers_changed_a_cohort_soon_serves_no_more() -> None:
    """Drift: from one question on, all the old answers are wrong. Fewer than all hits are audited by then."""
    gateway = served(Cohort(BOUND), topics(1, 1200, of=6))
    hits = gateway.tally.hits
    for each in topics(4, 400, of=6, hopeless=True):
        gateway.ask(each)
    assert gateway.tally.wrong <= 0.05 * gateway.tally.hits
    assert gateway.tally.hits - hits < 100
    assert gateway.tally.served_at[-1] < 1300


def test_who_learns_the_same_records_decides_alike() -> None:
    gateway = served(Cohort(BOUND), topics(5, 500, of=6))
    other = Cohort(BOUND)
    for number in range(1, 501):
        other.added(entry_id(number))
    for record in gateway.records:
        other.learn(msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=type(record)))
    found = near((entry_id(1), 0.99), (entry_id(2), 0.97), (entry_id(3), 0.6))
    mine, others = gateway.cohort.look("how do I pay", found), other.look("how do I pay", found)
    assert (mine.candidate, mine.score, mine.features) == (others.candidate, others.score, others.features)


def test_quarantine_names_the_entry_and_all_that_say_the_same(taught: bytes) -> None:
    cohort = certified(taught)
    assert set(cohort.quarantine("b")) == {"a", "b"}
    assert cohort.quarantine("b") == ("b",)


def test_a_forgotten_entry_is_not_quarantined_with_its_class(taught: bytes) -> None:
    cohort = certified(taught)
    cohort.forget("a")
    assert cohort.quarantine("b") == ("b",)


def test_complaints_lower_the_certificate_and_praise_raises_nothing(taught: bytes) -> None:
    cohort = certified(taught)
    found = near(("a", 0.999), ("b", 0.998))
    look = cohort.look("how do I pay", found)
    labels = cohort.status().labels
    for _ in range(20):
        cohort.learn(judged(look, True, source="feedback"))
    assert cohort.look("how do I pay", found) == look
    for _ in range(60):
        cohort.learn(judged(look, False, source="feedback"))
    assert cohort.status().cut == math.inf
    assert cohort.status().labels == labels


def test_planted_pairs_teach_nothing(taught: bytes) -> None:
    cohort = certified(taught)
    before = cohort.snapshot()
    cohort.learn(judged(cohort.look("how do I pay", near(("a", 0.9))), False, "b", "planted"))
    assert cohort.snapshot() == before


def test_a_rival_tells_which_answers_are_equal_and_nothing_of_the_score() -> None:
    cohort = Cohort(BOUND)
    for each in "abc":
        cohort.added(each)
    look = cohort.look("how do I pay", near(("a", 0.9), ("b", 0.88)))
    cohort.learn(judged(look, False, "c"))
    labels = cohort.status().labels
    assert look.rivals == ("b",)
    cohort.learn(judged(look.rival("b"), True, "c"))
    assert cohort.status().labels == labels == 1
    assert set(cohort.quarantine("c")) == {"b", "c"}


def test_an_audit_that_never_comes_is_told(taught: bytes) -> None:
    cohort = certified(taught)
    look = cohort.look("how do I pay", near(("a", 0.999), ("b", 0.998)))
    cohort.served(look, True)
    with_pending = cohort.snapshot()
    cohort.lost(look)
    assert cohort.snapshot() != with_pending


def test_a_restored_cohort_goes_on_as_the_first(taught: bytes) -> None:
    first, second = Cohort(BOUND), Cohort(BOUND)
    first.restore(taught)
    second.restore(first.snapshot())
    status = second.status()
    assert status == first.status()
    assert status.state == "certified"
    found = near(("x", 0.99))
    assert first.look("how do I pay", found) == second.look("how do I pay", found)


def test_a_state_with_no_more_labels_changes_nothing(taught: bytes) -> None:
    cohort = certified(taught)
    cohort.learn(judged(cohort.look("how do I pay", near(("a", 0.9))), True))
    before = cohort.snapshot()
    cohort.restore(taught)
    assert cohort.snapshot() == before


def test_a_state_of_other_features_is_left_alone(taught: bytes) -> None:
    from cache.semantics.cohort import CohortState

    state = msgspec.msgpack.decode(taught, type=CohortState)
    cohort = Cohort(BOUND)
    cohort.restore(msgspec.msgpack.encode(msgspec.structs.replace(state, features=("old",))))
    assert cohort.status().state == "cold"
    with pytest.raises(msgspec.DecodeError):
        cohort.restore(b"\x01")


def test_a_state_with_another_account_is_left_alone(taught: bytes) -> None:
    """The cohort starts anew: what others kept of audits would be read as if there had been none."""
    state = msgspec.msgpack.decode(taught)
    account = next(part for part in state if isinstance(part, dict) and "ledger" in part)
    account["ledger"] = {"chance": 0.5, "hits": 700.0, "found_surely": 3, "unaudited": {0.75: 100.0}}
    cohort = Cohort(BOUND)
    cohort.restore(msgspec.msgpack.encode(state))
    assert cohort.status().state == "cold"
    assert cohort.status().labels == 0


def test_a_look_among_eight_neighbours_takes_no_time_to_speak_of(taught: bytes) -> None:
    """200 us by design; the limit leaves room for a busy machine."""
    cohort = certified(taught)
    found = near(*((entry_id(number), 0.95 - 0.01 * number) for number in range(8)))
    took = []
    for _ in range(200):
        start = time.perf_counter()
        cohort.look("how do I pay with a card", found)
        took.append(time.perf_counter() - start)
    assert sorted(took)[100] < 1e-3
