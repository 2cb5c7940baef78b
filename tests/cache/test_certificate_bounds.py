"""The certificate's bounds against exact binomial probabilities."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.evaluate.interval import clopper_pearson
from cache.semantics.bounds import (
    BETS,
    LEVELS,
    STAKES,
    TILTS,
    charged,
    costs,
    fair,
    log_wealth,
    steadiness,
    unseen_wrong,
    winnings,
)

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


@given(st.floats(0.02, 1.0))
def test_a_wrong_hit_is_a_fair_bet_whether_audited_or_not(chance: float) -> None:
    for tilt, cost in zip(TILTS, costs(chance), strict=True):
        if cost < math.inf:
            assert chance * math.exp(-cost) + (1 - chance) * math.exp(tilt) == pytest.approx(1)
        else:
            assert (1 - chance) * math.exp(tilt) >= 1
    assert sum(map(math.exp, BETS)) == pytest.approx(1)


def ever_exceeded(chances: list[float], wrong: int, sure: float) -> float:
    """Exact probability that more hits are unseen and wrong, at any time, than the limit says: of an opponent all of
    whose hits are wrong. After so many were found the next is audited with `chances[found]`, then with the last."""
    had = [chances[min(found, len(chances) - 1)] for found in range(wrong + 1)]
    limits, bets = [], list(BETS)
    for chance in had:
        limits.append(unseen_wrong(fair(bets, chance), sure))
        bets = charged(fair(bets, chance), chance)
    alive, exceeded = {(0, 0): 1.0}, 0.0
    for _ in range(wrong):
        then: dict[tuple[int, int], float] = {}
        for (found, unseen), mass in alive.items():
            if unseen + 1 > limits[found]:
                exceeded += mass * (1 - had[found])
            else:
                then[found, unseen + 1] = then.get((found, unseen + 1), 0.0) + mass * (1 - had[found])
            then[found + 1, unseen] = then.get((found + 1, unseen), 0.0) + mass * had[found]
        alive = {state: mass for state, mass in then.items() if mass > 1e-12}
    return exceeded


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.05, 1.0), min_size=1, max_size=8), st.sampled_from([0.9, 0.95, 0.99]))
def test_unseen_wrong_hits_ever_exceed_their_limit_with_at_most_the_risk(chances: list[float], sure: float) -> None:
    assert ever_exceeded(chances, 120, sure) <= 1 - sure + 1e-9


@pytest.mark.parametrize("chance", [0.1, 0.3, 0.6])
def test_the_limit_of_unseen_wrong_hits_is_not_many_times_too_wide(chance: float) -> None:
    assert ever_exceeded([chance], 200, 0.5) > 0.1 * 0.5


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.05, 1.0), min_size=5, max_size=5), st.integers(1, 11))
def test_no_choice_of_which_hits_are_wrong_beats_the_limit(rows: list[float], hits: int) -> None:
    """Backward induction: the opponent sees all audits, on which the chances depend too, and chooses before each coin
    whether the hit is wrong."""

    def worst(left: int, found: int, bets: list[float], unseen: int) -> float:
        if unseen > unseen_wrong(bets, 0.5):
            return 1.0
        if not left:
            return 0.0
        chance = rows[(left + 2 * found) % len(rows)]
        bets = fair(bets, chance)
        seen = worst(left - 1, found + 1, charged(bets, chance), unseen)
        missed = worst(left - 1, found, bets, unseen + 1)
        wrong = chance * seen + (1 - chance) * missed
        return max(wrong, worst(left - 1, found, bets, unseen)) if left % 3 == 0 else wrong

    assert worst(hits, 0, list(BETS), 0) <= 0.5 + 1e-9


@given(st.floats(0.03, 0.98), st.integers(0, 20))
def test_the_limit_of_unseen_wrong_hits_grows_with_those_found(chance: float, found: int) -> None:
    limits = [unseen_wrong(charged(fair(BETS, chance), chance, found + more), 0.95) for more in (0, 1)]
    assert limits[0] < limits[1]


@given(st.lists(chances, max_size=5), chances, st.integers(0, 40))
def test_what_is_left_of_bets_that_are_over_is_never_worth_more(found: list[float], chance: float, unseen: int) -> None:
    def wealth(bets: list[float]) -> float:
        return sum(math.exp(bet + tilt * unseen) for bet, tilt in zip(bets, TILTS, strict=True))

    bets = list(BETS)
    for each in found:
        bets = charged(fair(bets, each), each)
    assert wealth(fair(bets, chance)) <= wealth(bets) * (1 + 1e-9)


def test_sure_audits_cost_nothing() -> None:
    assert costs(1.0) == (0.0,) * len(TILTS)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_steadiness_is_the_exponent_with_which_accounts_are_used_up(share: float) -> None:
    x = steadiness(share)
    assert share * math.expm1(x) == pytest.approx(x, rel=0.05)
    assert steadiness(1.0) < 0.02
    assert steadiness(2.0) == 0.0
