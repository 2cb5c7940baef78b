"""The breaker in virtual time (R05)."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.breaker import Breaker, BreakerState


def opened(now_s: float = 0.0) -> Breaker:
    breaker = Breaker(threshold=3, first_wait_s=1.0, max_wait_s=8.0)
    for _ in range(3):
        assert breaker.allows(now_s)
        breaker.failed(now_s, probe=breaker.sent())
    return breaker


def test_it_opens_at_the_threshold_and_half_opens_after_its_wait() -> None:
    breaker = Breaker(threshold=3, first_wait_s=1.0)
    states = []
    for now_s in (0.0, 0.1, 0.2):
        states.append(breaker.state(now_s))
        breaker.failed(now_s, probe=breaker.sent())
    assert states == [BreakerState.CLOSED] * 3
    assert [breaker.state(t) for t in (0.2, 1.19, 1.2)] == [
        BreakerState.OPEN,
        BreakerState.OPEN,
        BreakerState.HALF_OPEN,
    ]
    assert [breaker.allows(t) for t in (0.2, 1.19, 1.2)] == [False, False, True]
    assert breaker.retry_after_s(0.7) == 0.5
    assert breaker.retry_after_s(1.2) == 0.0
    assert repr(breaker) == "<Breaker failures=3 probing=False open_until_s=1.200>"


def test_failures_with_answers_between_them_count_by_their_share_alone() -> None:
    breaker = Breaker(threshold=2)
    for _ in range(10):
        breaker.failed(0.0, probe=breaker.sent())
        breaker.sent()
        breaker.succeeded()
    assert breaker.state(0.0) is BreakerState.CLOSED


def test_a_replica_of_which_more_than_half_fails_is_left_though_answers_lie_between() -> None:
    breaker = Breaker()
    rounds = 0
    while breaker.state(0.0) is BreakerState.CLOSED:
        rounds += 1
        breaker.succeeded()
        breaker.failed(0.0, probe=False)
        breaker.failed(0.0, probe=False)
    assert 3 <= rounds <= 8
    breaker.failed(1.0, probe=False)
    breaker.succeeded()
    assert breaker.state(1.0) is BreakerState.CLOSED
    breaker.failed(1.0, probe=False)
    assert breaker.state(1.0) is BreakerState.CLOSED, "what was before the probe counts no more"


def test_a_replica_of_which_a_third_fails_is_kept() -> None:
    breaker = Breaker()
    for _ in range(100):
        breaker.succeeded()
        breaker.succeeded()
        breaker.failed(0.0, probe=False)
    assert breaker.state(0.0) is BreakerState.CLOSED


def test_one_probe_at_a_time_finds_out_and_its_success_closes() -> None:
    """R05: recovery by one half-open probe."""
    breaker = opened()
    assert breaker.sent()
    assert not breaker.allows(1.0)
    assert breaker.retry_after_s(1.0) == 0.0
    breaker.succeeded()
    assert breaker.allows(1.0)
    assert breaker.state(1.0) is BreakerState.CLOSED
    assert not breaker.sent()


def test_each_failed_probe_doubles_the_wait_up_to_the_limit() -> None:
    breaker = opened()
    now_s, waits = 0.0, []
    for _ in range(6):
        wait_s = breaker.retry_after_s(now_s)
        waits.append(wait_s)
        now_s += wait_s
        breaker.failed(now_s, probe=breaker.sent())
    assert waits == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    breaker.succeeded()
    for _ in range(3):
        breaker.failed(now_s, probe=breaker.sent())
    assert breaker.retry_after_s(now_s) == 1.0


def test_a_probe_that_was_abandoned_or_met_a_full_replica_makes_room_for_the_next() -> None:
    """R05: busy is not broken."""
    breaker = opened()
    for _ in range(5):
        breaker.abandoned(probe=breaker.sent())
        assert breaker.allows(1.0)
        assert breaker.state(1.0) is BreakerState.HALF_OPEN


def test_requests_from_before_it_opened_do_not_end_the_probe_of_another() -> None:
    """R05: their ends say nothing about the probe."""
    breaker = Breaker(threshold=3, first_wait_s=1.0)
    early = [breaker.sent() for _ in range(5)]
    for probe in early[:3]:
        breaker.failed(0.0, probe=probe)
    assert breaker.sent()
    breaker.abandoned(probe=early[3])
    assert not breaker.allows(1.0)
    breaker.failed(1.0, probe=early[4])
    assert breaker.retry_after_s(1.0) == 1.0
    assert not breaker.allows(2.0)


def test_a_probe_whose_answer_has_begun_keeps_nobody_waiting() -> None:
    """R05: a long stream as the probe must not shut the only replica of a pool."""
    breaker = opened()
    first = breaker.sent()
    breaker.answered(probe=first)
    assert breaker.allows(1.0)
    assert breaker.state(1.0) is BreakerState.HALF_OPEN
    second = breaker.sent()
    breaker.failed(1.0, probe=first)
    assert not breaker.allows(2.9)
    breaker.abandoned(probe=second)
    assert breaker.allows(3.0)


class Requests(RuleBasedStateMachine):
    """Any interleaving of requests: the breaker always lets somebody through again, and one probe at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(threshold=2, first_wait_s=1.0, max_wait_s=4.0)
        self.now_s = 0.0
        self.out: list[bool] = []
        self.waiting: set[int] = set()

    @rule(step_s=st.sampled_from([0.0, 0.5, 1.0, 5.0]))
    def time_passes(self, step_s: float) -> None:
        self.now_s += step_s

    @precondition(lambda self: self.breaker.allows(self.now_s))
    @rule()
    def send(self) -> None:
        self.out.append(self.breaker.sent())

    @precondition(lambda self: self.out)
    @rule(index=st.integers(0, 100), end=st.sampled_from(["succeeded", "failed", "abandoned"]))
    def finish(self, index: int, end: str) -> None:
        probe = self.out.pop(index % len(self.out))
        if end == "succeeded":
            self.breaker.succeeded()
            self.out = [False] * len(self.out)
        elif end == "failed":
            self.breaker.failed(self.now_s, probe=probe)
        else:
            self.breaker.abandoned(probe=probe)

    @invariant()
    def at_most_one_probe_is_out(self) -> None:
        assert sum(self.out) <= 1

    @invariant()
    def without_a_probe_the_wait_is_finite_and_true(self) -> None:
        wait_s = self.breaker.retry_after_s(self.now_s)
        assert 0.0 <= wait_s <= 4.0
        if not any(self.out):
            assert self.breaker.allows(self.now_s + wait_s)
            assert self.breaker.allows(self.now_s) is (wait_s == 0.0)


Requests.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
test_any_order_of_ends_keeps_one_probe_and_lets_somebody_through = Requests.TestCase
