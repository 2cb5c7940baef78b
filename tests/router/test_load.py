"""The books on one replica, under any interleaving of requests (R07)."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.load import ReplicaLoad, Work
from router.speed import Speed

times = st.sampled_from([0.0, 0.001, 0.1, 3.0, 100.0])


class Books(RuleBasedStateMachine):
    """Requests begin, show a first token, end, or do so twice, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.load = ReplicaLoad("a", Speed(1.7e-4, 0.03, 3.1e-9), 100_000)
        self.now_s = 0.0
        self.prefilling: list[Work] = []
        self.decoding: list[Work] = []
        self.over: list[Work] = []

    @rule(
        prompt_tokens=st.integers(0, 5000),
        cached_tokens=st.integers(0, 6000),
        output_tokens=st.floats(0.0, 900.0),
        streamed=st.booleans(),
    )
    def begun(self, prompt_tokens: int, cached_tokens: int, output_tokens: float, streamed: bool) -> None:
        work = self.load.begin(prompt_tokens, cached_tokens, output_tokens, self.now_s, streamed=streamed)
        assert work.uncached_tokens == max(0, prompt_tokens - cached_tokens)
        self.prefilling.append(work)

    @precondition(lambda self: self.prefilling)
    @rule(data=st.data())
    def showed_a_first_token(self, data: st.DataObject) -> None:
        work = data.draw(st.sampled_from(self.prefilling))
        self.prefilling.remove(work)
        self.decoding.append(work)
        work.first_token(self.now_s)

    @precondition(lambda self: self.prefilling or self.decoding)
    @rule(data=st.data(), left_first=st.booleans())
    def ended(self, data: st.DataObject, left_first: bool) -> None:
        work = data.draw(st.sampled_from(self.prefilling + self.decoding))
        (self.prefilling if work in self.prefilling else self.decoding).remove(work)
        self.over.append(work)
        if left_first:
            work.leave()
        work.close()

    @precondition(lambda self: self.decoding or self.over)
    @rule(data=st.data())
    def was_told_again(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.decoding + self.over)).first_token(self.now_s)
        for work in self.over:
            work.close()
            work.leave()
            work.assumed(self.now_s)

    @rule(step_s=times)
    def time_passed(self, step_s: float) -> None:
        self.now_s += step_s
        self.load.backlog_s(self.now_s)  # those whose first token does not show are taken to be past their prefill

    @invariant()
    def the_sums_are_those_of_what_is_open(self) -> None:
        load = self.load
        still = [w for w in self.prefilling if w.streamed]
        whole = [w for w in self.prefilling if not w.streamed]
        open_now = self.prefilling + self.decoding
        assert load.in_flight == len(open_now)
        assert load.served == len(open_now) + len(self.over)
        assert len(still) <= load.waiting <= len(still) + len(whole)
        tokens = sum(w.uncached_tokens for w in still)
        assert tokens <= load.prefill_tokens <= tokens + sum(w.uncached_tokens for w in whole)
        assert load.prefill_pairs >= sum(w.pairs for w in still)
        assert load.context_tokens == pytest.approx(sum(w.prompt_tokens + w.output_tokens for w in open_now), abs=1e-6)
        assert load.kv_usage() == pytest.approx(load.context_tokens / 100_000, abs=1e-9)
        assert load.sent_sum_s == pytest.approx(sum(w.sent_s for w in open_now), abs=1e-6)

    @invariant()
    def neither_the_backlog_nor_what_was_learned_is_negative(self) -> None:
        speed = self.load.speed
        assert self.load.backlog_s(self.now_s) >= 0.0
        assert min(speed.s_per_token, speed.s_per_pair, speed.fixed_s) >= 0.0

    def teardown(self) -> None:
        for work in self.prefilling + self.decoding:
            work.close()
        load = self.load
        assert (load.in_flight, load.waiting, load.prefill_tokens, load.prefill_pairs) == (0, 0, 0, 0)
        assert (load.context_tokens, load.sent_sum_s) == (0.0, 0.0)
        assert load.backlog_s(self.now_s) == 0.0


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def load(s_per_token: float = 1e-3, fixed_s: float = 0.0, kv_capacity_tokens: int = 0) -> ReplicaLoad:
    return ReplicaLoad("a", Speed(s_per_token, fixed_s), kv_capacity_tokens)


def test_the_backlog_shrinks_with_time_until_the_first_token_is_overdue_and_then_grows() -> None:
    """A replica that hangs is left alone."""
    one = load()
    one.begin(1000, 200, 10.0, 0.0)
    one.begin(500, 0, 10.0, 0.0)
    assert [round(one.backlog_s(t), 3) for t in (0.0, 0.4, 0.8, 1.0, 2.0)] == [1.3, 0.9, 0.5, 0.7, 1.7]


def test_rounding_does_not_make_the_backlog_negative() -> None:
    rng = random.Random(5)
    for _ in range(300):
        one = ReplicaLoad("a", Speed(rng.uniform(1e-5, 1e-3), 0.1, rng.uniform(0.0, 1e-8)))
        for _ in range(3):
            one.begin(rng.randint(5000, 9000), rng.randint(0, 5000), 10.0, 0.0, streamed=False)
        assert 0.0 <= one.backlog_s(1000.0) < 1e-9


def test_a_first_token_is_not_overdue_before_the_round_trip() -> None:
    one = load(fixed_s=0.5)
    one.begin(1000, 0, 10.0, 0.0)
    assert [round(one.backlog_s(t), 3) for t in (0.0, 1.0, 1.5, 1.6)] == [1.0, 0.0, 0.0, 0.1]


def test_the_next_prefill_is_under_way_once_the_one_before_shows_its_first_token() -> None:
    one = load()
    first = one.begin(1000, 0, 10.0, 0.0)
    one.begin(500, 0, 10.0, 0.0)
    first.first_token(0.9)
    assert [round(one.backlog_s(t), 3) for t in (0.9, 1.1, 1.4)] == [0.5, 0.3, 0.0]


def test_a_prefill_that_does_not_show_its_end_is_over_when_it_should_be() -> None:
    """Whole answers: nothing is seen before their end, and that says nothing of the speed."""
    one = load()
    works = [one.begin(tokens, 0, 10.0, 0.0, streamed=False) for tokens in (1000, 500)]
    assert [round(one.backlog_s(t), 3) for t in (0.0, 0.5, 1.2, 1.5, 9.0)] == [1.5, 1.0, 0.3, 0.0, 0.0]
    assert (one.in_flight, one.waiting) == (2, 0)
    for work in works:
        work.close(1000, 0)
    assert one.speed.observations == 0


def test_what_others_sent_is_ahead_too_and_says_nothing_of_when_it_will_be_done() -> None:
    one = load(kv_capacity_tokens=1000)
    one.others_prefill_tokens, one.others_context_tokens = 300.0, 250.0
    assert one.backlog_s(7.0) == pytest.approx(0.3)
    one.begin(100, 0, 50.0, 7.0)
    assert one.backlog_s(7.0) == pytest.approx(0.4)
    assert (one.kv_usage(), one.kv_usage(100.0)) == (0.4, 0.5)
    assert load().kv_usage(100.0) == 0.0


def test_speed_is_learned_from_the_time_since_the_first_token_before() -> None:
    one = load(1e-4)
    a, b, c = (one.begin(1000, 0, 10.0, 0.0) for _ in range(3))
    for work, now_s in ((a, 1.0), (b, 2.0), (c, 3.0)):
        work.first_token(now_s)
    for work in (c, a, b):
        work.close()
    assert one.speed.observations == 3
    assert one.speed.prefill_s(1000, 0) == pytest.approx(1.0, rel=0.1)


def test_the_engines_own_count_of_tokens_is_learned_from_before_the_guess() -> None:
    one, other = load(1e-4), load(1e-4)
    for which, told in ((one, (1000, 0)), (other, (0, 0))):
        work = which.begin(4000, 3900, 10.0, 0.0)
        work.first_token(1.0)
        work.close(*told)
    assert one.speed.prefill_s(1000, 0) == pytest.approx(0.8, rel=0.3)
    assert other.speed.prefill_s(100, 0) != pytest.approx(one.speed.prefill_s(100, 0), rel=0.1)


def test_a_request_that_found_the_engine_idle_by_the_time_it_came_is_no_slow_prefill() -> None:
    """Sent while another waited, but the round trip is longer than its prefill."""
    one = load(1e-4, fixed_s=0.1)
    a = one.begin(100, 0, 10.0, 0.0)
    b = one.begin(100, 0, 10.0, 0.09)
    a.first_token(0.11)
    b.first_token(0.20)
    for work in (a, b):
        work.close()
    assert one.speed.prefill_s(100, 0) + one.speed.fixed_s == pytest.approx(0.11, rel=0.01)


def test_nothing_is_learned_behind_a_prefill_that_was_given_up() -> None:
    one = load()
    given_up, behind = one.begin(1000, 0, 10.0, 0.0), one.begin(1000, 0, 10.0, 0.0)
    given_up.close()
    behind.first_token(9.0)
    behind.close()
    assert one.speed.observations == 0


def test_nothing_is_learned_behind_a_prefill_whose_end_does_not_show() -> None:
    one = load()
    whole, behind = one.begin(1000, 0, 10.0, 0.0, streamed=False), one.begin(1000, 0, 10.0, 0.0)
    behind.first_token(2.0)
    for work in (whole, behind):
        work.close()
    assert one.speed.observations == 0


def test_a_newcomer_begins_level_with_the_one_that_did_least() -> None:
    busy, calm, new = load(1e-3), load(3e-3), ReplicaLoad("new")
    for _ in range(3):
        busy.begin(1000, 0, 10.0, 5.0).close()
    calm.begin(100, 0, 10.0, 5.0).close()
    new.level_with([busy, calm])
    assert (new.served, new.recent_tokens(5.0)) == (1, 100.0)
    assert new.speed.s_per_token == pytest.approx(2e-3)
    assert [round(busy.recent_tokens(5.0 + t)) for t in (-1.0, 0.0, 10.0, 90.0)] == [3000, 3000, 750, 30]
    assert repr(new) == "<ReplicaLoad new in_flight=0 waiting=0 prefill_tokens=0 context_tokens=0>"
