"""The certificate's bounds against exact binomial probabilities."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.evaluate.interval import clopper_pearson
from cache.semantics.bounds import LEVELS, STAKES, Unaudited, log_wealth, unseen_wrong, winnings

limits = st.sampled_from([0.005, 0.01, 0.02, 0.05, 0.1])
chances = st.floats(0.02, 0.98)


def full(limit: float, wrong: bool) -> tuple[float, ...]:
    """Of the whole limit, not of a level below."""
    return winnings(limit, 1.0, wrong)[-len(STAKES) :]


def wealth(limit: float, right: int, wrong: int) -> float:
    pairs = zip(full(limit, False), full(limit, True), strict=True)
    return log_wealth([right * gain + wrong * loss for gain, loss in pairs])


def pmf(k: int, n: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


@given(limits, st.floats(0.001, 1.0), st.floats(0.0, 1.0))
def test_no_stake_gains_on_average_where_as_many_are_wrong_as_may_be(
    limit: float, weight: float, excess: float
) -> None:
    for order, level in enumerate(LEVELS):
        rate = level * limit + excess * (1 - level * limit)
        at = order * len(STAKES)
        for right, wrong in list(zip(winnings(limit, weight, False), winnings(limit, weight, True), strict=True))[
            at : at + len(STAKES)
        ]:
            assert (1 - rate) * math.exp(right) + rate * math.exp(wrong) <= 1 + 1e-12


@given(limits, st.lists(st.tuples(st.floats(0.1, 1.0), st.floats(0.0, 1.0)), min_size=1, max_size=6))
def test_labels_had_with_different_probabilities_are_weighed_so_that_none_gains(
    limit: float, groups: list[tuple[float, float]]
) -> None:
    """Groups of looks, each with its chance of a label and its share of wrong ones; the limit is what they have."""
    rate = sum(wrong for _, wrong in groups) / len(groups)
    least = min(chance for chance, _ in groups)
    if rate < limit:
        return
    for stake in range(len(STAKES)):
        mean = 0.0
        for chance, wrong in groups:
            right = math.exp(winnings(limit, least / chance, False)[-len(STAKES) + stake])
            loss = math.exp(winnings(limit, least / chance, True)[-len(STAKES) + stake])
            mean += (1 - chance) + chance * ((1 - wrong) * right + wrong * loss)
        assert mean / len(groups) <= 1 + 1e-12


@given(limits, st.integers(1, 5000), st.integers(0, 60), st.sampled_from([0.001, 0.005, 0.025, 0.05]))
def test_what_a_bet_rules_out_an_exact_test_at_one_look_rules_out_too(
    limit: float, labels: int, wrong: int, risk: float
) -> None:
    if wrong <= labels and wealth(limit, labels - wrong, wrong) >= -math.log(risk):
        assert clopper_pearson(wrong, labels, 1 - 2 * risk)[1] <= limit


@pytest.mark.parametrize("limit", [0.01, 0.02, 0.05])
@pytest.mark.parametrize("risk", [0.05, 0.005])
def test_the_probability_of_ever_being_fooled_is_exactly_below_the_risk(limit: float, risk: float) -> None:
    """Dynamic programming over all sequences of 1,500 labels at the limit, looked at after each."""
    alive, fooled = {0: 1.0}, 0.0
    for labels in range(1, 1501):
        after: dict[int, float] = {}
        for wrong, mass in alive.items():
            after[wrong] = after.get(wrong, 0.0) + mass * (1 - limit)
            after[wrong + 1] = after.get(wrong + 1, 0.0) + mass * limit
        lowest = min(after)
        while lowest in after and wealth(limit, labels - lowest, lowest) >= -math.log(risk):
            fooled += after.pop(lowest)
            lowest += 1
        alive = {wrong: mass for wrong, mass in after.items() if mass > 1e-15}
    assert risk / 20 < fooled <= risk


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), chances, st.sampled_from([0.9, 0.95, 0.99]))
def test_unseen_wrong_hits_exceed_their_limit_with_at_most_the_risk(wrong: int, chance: float, sure: float) -> None:
    """All hits are wrong, the worst that there is: as many as the audits' coins leave must be within the limit."""
    missed = 0.0
    for found in range(wrong + 1):
        strata = [Unaudited(chance, float(wrong - found))]
        if wrong - found > unseen_wrong(strata, found, sure):
            missed += pmf(found, wrong, chance)
    assert missed <= 1 - sure


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), chances, st.integers(1, 30), chances)
def test_unseen_wrong_hits_of_two_chances_exceed_their_limit_with_at_most_the_risk(
    few: int, one: float, many: int, other: float
) -> None:
    missed = 0.0
    for seen_one in range(few + 1):
        for seen_other in range(many + 1):
            unseen = [Unaudited(one, float(few - seen_one)), Unaudited(other, float(many - seen_other))]
            if few + many - seen_one - seen_other > unseen_wrong(unseen, seen_one + seen_other, 0.95):
                missed += pmf(seen_one, few, one) * pmf(seen_other, many, other)
    assert missed <= 0.05


@given(chances, st.integers(0, 20))
def test_the_limit_of_unseen_wrong_hits_grows_with_those_found_and_is_never_more_than_the_hits(
    chance: float, found: int
) -> None:
    endless = [Unaudited(chance, math.inf)]
    assert unseen_wrong(endless, found, 0.95) <= unseen_wrong(endless, found + 1, 0.95) * 1.01
    assert unseen_wrong([Unaudited(chance, 2.0)], found, 0.95) <= 2.0
    assert unseen_wrong([], found, 0.95) == 0.0


def test_three_hits_in_a_hundred_audited_leave_about_a_hundred_unseen() -> None:
    assert 95 <= unseen_wrong([Unaudited(0.03, math.inf)], 0, 0.95) <= 130
