"""What the certificate lets be served, label by label."""

from __future__ import annotations

import math
import random

import msgspec
import pytest

from cache.semantics.bounds import BETS, TILTS
from cache.semantics.certificate import EDGES, Certificate, CertificateState
from cache.semantics.ledger import LOSSES, PATIENCE, PENANCE, Ledger, LedgerState

SAFE = 0.99


def taught(max_wrong: float = 0.02, labels: int = 1000, score: float = SAFE) -> Certificate:
    """Certified by right answers alone."""
    certificate = Certificate(max_wrong)
    for _ in range(labels):
        certificate.observe(score, False, served=False)
    return certificate


def serve(certificate: Certificate, *, wrong: bool = False) -> bool:
    """One hit at the safe score, audited if it has to be. Whether it was served."""
    if certificate.cut() > SAFE:
        return False
    chance = certificate.wanted(SAFE)
    certificate.served(SAFE, chance=chance, audited=True)
    certificate.observe(SAFE, wrong, served=True, chance=chance)
    return True


def test_a_new_certificate_serves_nothing() -> None:
    certificate = Certificate(0.01)
    assert certificate.cut() == math.inf
    assert certificate.bound == 1.0
    assert not certificate.alarmed
    assert certificate.wanted(1.0) == 1.0


@pytest.mark.parametrize(("max_wrong", "most"), [(0.01, 700), (0.02, 350), (0.05, 264)])
def test_right_answers_alone_certify_after_few_labels_but_never_after_too_few(max_wrong: float, most: int) -> None:
    certificate, labels = Certificate(max_wrong), 0
    while certificate.cut() == math.inf:
        certificate.observe(SAFE, False, served=False)
        labels += 1
        assert labels <= most
    assert (1 - max_wrong) ** labels < 0.05
    assert certificate.bound <= max_wrong


def test_a_cut_is_between_the_safe_scores_and_the_others() -> None:
    certificate, rng = Certificate(0.02), random.Random(1)
    for _ in range(3000):
        certificate.observe(rng.uniform(0.95, 1.0), False, served=False)
        certificate.observe(rng.uniform(0.3, 0.8), rng.random() < 0.3, served=False)
    assert 0.8 < certificate.cut() <= 0.95
    assert certificate.cut() in EDGES


def test_nothing_is_served_where_the_best_scores_are_wrong_too_often() -> None:
    certificate, rng = Certificate(0.02), random.Random(2)
    for _ in range(5000):
        certificate.observe(rng.random(), rng.random() < 0.04, served=False)
        assert certificate.cut() == math.inf
    assert not certificate.alarmed


def test_the_bound_falls_with_more_labels_and_has_the_judges_error_on_top() -> None:
    few, many = taught(labels=400), taught(labels=4000)
    assert many.bound < few.bound <= 0.02
    before = many.bound
    many.judge_error = 0.004
    assert many.bound == pytest.approx(before + 0.004)


def test_a_certificate_stops_at_the_third_wrong_answer_of_few() -> None:
    certificate = taught()
    wrong = sum(serve(certificate, wrong=True) for _ in range(100))
    assert 1 <= wrong <= 3
    assert certificate.cut() == math.inf
    assert certificate.alarmed
    assert certificate.bound == 1.0 or certificate.wanted(SAFE) == 1.0


def test_audits_under_way_count_as_wrong_until_they_come() -> None:
    certificate, served = taught(), 0
    while certificate.cut() <= SAFE:
        certificate.served(SAFE, chance=certificate.wanted(SAFE), audited=True)
        served += 1
    assert served == 3
    certificate.observe(SAFE, False, served=True, chance=1.0)
    assert certificate.cut() <= SAFE


def test_audits_become_rare_as_right_hits_pile_up_but_never_rarer_than_their_share() -> None:
    certificate, rng = Certificate(0.05, audit_share=0.1), random.Random(3)
    for _ in range(1000):
        certificate.observe(SAFE, False, served=False)
    chances = []
    for _ in range(20_000):
        chance = certificate.wanted(SAFE)
        chances.append(chance)
        audited = rng.random() < chance
        certificate.served(SAFE, chance=chance, audited=audited)
        if audited:
            certificate.observe(SAFE, False, served=True, chance=chance)
    assert chances[0] == 1.0
    assert chances[-1] == 0.1
    assert chances == sorted(chances, reverse=True)


def test_a_change_is_noticed_and_what_was_known_of_scores_forgotten() -> None:
    certificate = taught()
    for _ in range(2000):
        serve(certificate)
    assert not certificate.alarmed
    wrong = sum(serve(certificate, wrong=True) for _ in range(100))
    assert wrong < 15
    assert certificate.alarmed
    assert not any(certificate.snapshot().passed)
    for _ in range(1000):
        certificate.observe(SAFE, False, served=False)
    assert certificate.cut() <= SAFE
    assert not certificate.alarmed


def test_a_complaint_counts_as_a_wrong_hit_whether_or_not_it_was_audited() -> None:
    certificate = taught(labels=3000)
    for _ in range(3):
        certificate.complained(SAFE)
    assert certificate.cut() == math.inf


def test_audits_that_never_come_are_reckoned_with() -> None:
    certificate = taught()
    answered, lost = 0, 0
    while certificate.cut() <= SAFE and lost < 1000:
        certificate.served(SAFE, chance=1.0, audited=True)
        certificate.lost(chance=1.0)
        lost += 1
    assert lost < 20
    certificate = taught()
    while answered < 3000 and serve(certificate):
        answered += 1
    assert answered == 3000
    certificate.lost(chance=1.0)  # nothing is under way: nothing is lost
    assert certificate.cut() <= SAFE


def test_an_audit_that_nobody_speaks_of_again_is_taken_for_lost_in_the_end() -> None:
    certificate = taught()
    while certificate.cut() <= SAFE:
        certificate.served(SAFE, chance=1.0, audited=True)
    for _ in range(PATIENCE - 1):
        certificate.observe(SAFE, False, served=False)
    assert certificate.snapshot().ledger.pending == 3
    assert certificate.cut() == math.inf
    for _ in range(2 * PATIENCE + 1):
        certificate.observe(SAFE, False, served=False)
    assert certificate.snapshot().ledger.pending == 0
    assert certificate.cut() <= SAFE


def test_a_state_survives_its_journal_and_decides_alike() -> None:
    first, rng = Certificate(0.02), random.Random(4)
    second = Certificate(0.02)
    for step in range(6000):
        score = rng.random()
        wrong = rng.random() < (0.001 if score > 0.7 else 0.5)
        chance = first.wanted(score)
        if served := score >= first.cut():
            first.served(score, chance=chance, audited=True)
        first.observe(score, wrong, served=served, chance=chance)
        if step == 3000:
            state = msgspec.msgpack.decode(msgspec.msgpack.encode(first.snapshot()), type=CertificateState)
            assert second.restore(state)
            assert second.cut() == first.cut()
        elif step > 3000:
            if served:
                second.served(score, chance=chance, audited=True)
            second.observe(score, wrong, served=served, chance=chance)
            assert second.snapshot().ledger == first.snapshot().ledger
    assert second.cut() == first.cut() < math.inf


def test_audits_that_were_under_way_at_a_restart_count_as_unaudited() -> None:
    before = taught()
    before.served(SAFE, chance=1.0, audited=True)
    after = Certificate(0.02)
    assert after.restore(before.snapshot())
    assert after.snapshot().ledger.pending == 0
    assert after.snapshot().ledger.unseen == 1
    assert after.snapshot().ledger.kept < 1


def test_a_state_of_other_bins_is_refused() -> None:
    certificate = taught()
    cut = certificate.cut()
    assert not certificate.restore(CertificateState([], [], [], []))
    assert certificate.cut() == cut


def test_an_audit_of_another_worker_stands_for_all_that_it_served() -> None:
    ledger = Ledger(0.01, 0.95, 0.03)
    ledger.audited(False, 0.25)
    assert ledger.state.hits == 4
    assert ledger.state.unseen == 3


def test_an_account_that_is_used_up_is_paid_back_by_very_many_right_looks() -> None:
    ledger = Ledger(0.01, 0.95, 0.03)
    for _ in range(3):
        ledger.served(1.0, True)
        ledger.audited(True, 1.0)
    assert ledger.exhausted
    for _ in range(PENANCE - 1):
        ledger.shadowed(False)
    ledger.shadowed(True)
    assert ledger.exhausted
    for _ in range(100):
        ledger.shadowed(False)
    assert ledger.state.forgiven == 0 or not ledger.exhausted


def test_looks_that_would_have_been_served_pay_back_while_nothing_is() -> None:
    certificate = taught(labels=4000)
    state = msgspec.convert(msgspec.to_builtins(certificate.snapshot()), CertificateState, strict=False)
    state.ledger = LedgerState(hits=5, found=3, bets=list(BETS))
    assert certificate.restore(state)
    assert certificate.cut() == math.inf
    assert certificate.alarmed
    for _ in range(PENANCE + 1):
        certificate.observe(SAFE, False, served=False)
    assert certificate.snapshot().ledger.forgiven == 1
    assert certificate.cut() <= SAFE


def test_a_state_of_another_account_is_refused() -> None:
    """As earlier versions kept it: what it says of audits would be read as if there had been none."""
    state = msgspec.to_builtins(taught().snapshot())
    state["ledger"] = {"chance": 0.75, "hits": 900.0, "found_by_chance": 5, "unaudited": {"0.75": 200.0}}
    certificate = Certificate(0.02)
    assert not certificate.restore(msgspec.convert(state, CertificateState, strict=False))
    assert certificate.cut() == math.inf
    assert certificate.snapshot().ledger.hits == 0


def filled(ledger: Ledger, hits: int, wrong: int = 0) -> Ledger:
    """So many hits, all audited, the wrong ones last."""
    for number in range(hits):
        ledger.served(1.0, True)
        ledger.audited(number >= hits - wrong, 1.0)
    return ledger


def test_fewer_hits_are_audited_where_fewer_are_wrong() -> None:
    chances = [filled(Ledger(0.02, 0.95, 0.03), 3000).needs(rate) for rate in (0.0, 0.005, 0.01, 0.015)]
    assert chances == sorted(chances)
    assert chances[0] < chances[-1] < 1


def test_a_chance_is_chosen_that_leaves_room_for_two_wrong_hits_found_in_a_row() -> None:
    ledger = filled(Ledger(0.02, 0.95, 0.03), 2000)
    ledger.choose_chance(0.005)
    chance = ledger.chance
    assert chance < 0.5
    for _ in range(2):
        assert ledger.affords()
        ledger.served(chance, True)
        ledger.audited(True, chance)
    ledger.choose_chance(0.005)
    assert ledger.chance > chance
    assert ledger.affords()


def test_all_hits_are_audited_when_room_gets_short() -> None:
    ledger = filled(Ledger(0.02, 0.95, 0.03), 300, wrong=7)
    ledger.choose_chance(0.005)
    assert ledger.chance == 1.0


def test_an_account_endures_longer_with_more_room_and_fewer_wrong_hits() -> None:
    short, roomy = filled(Ledger(0.02, 0.95, 0.03), 100, wrong=2), filled(Ledger(0.02, 0.95, 0.03), 1000)
    assert short.endures(0.01) < roomy.endures(0.01) < roomy.endures(0.005)
    assert short.endures(0.02) < 0.1


def test_a_bet_that_is_too_steep_for_a_chance_is_over() -> None:
    ledger = filled(Ledger(0.05, 0.95, 0.03), 20_000)
    ledger.choose_chance(0.001)
    assert ledger.chance == 0.03
    over = [bet == -math.inf for bet in ledger.state.bets]
    assert over == [1 - math.exp(-tilt) > 0.03 * LOSSES for tilt in TILTS]
    assert sum(map(math.exp, ledger.state.bets)) == pytest.approx(1)
    ledger.choose_chance(1.0)
    assert ledger.state.bets[0] == -math.inf


def test_while_room_is_short_the_cut_is_where_fewest_are_wrong() -> None:
    certificate, rng = Certificate(0.02), random.Random(5)
    for _ in range(6000):
        certificate.observe(rng.uniform(0.992, 0.999), False, served=False)
        certificate.observe(rng.uniform(0.935, 0.96), rng.random() < 0.015, served=False)

    def cut(ledger: LedgerState) -> float:
        certificate.snapshot().ledger = ledger
        assert certificate.restore(certificate.snapshot())
        for _ in range(200):
            certificate.observe(0.995, False, served=False)
        return certificate.cut()

    assert cut(LedgerState(hits=3000, found=3, bets=list(BETS))) < 0.96
    assert 0.96 < cut(LedgerState(hits=400, found=9, bets=list(BETS))) <= 0.992


def test_a_judge_that_is_away_costs_room_and_not_the_bets() -> None:
    ledger = filled(Ledger(0.02, 0.95, 0.03), 5000)
    ledger.choose_chance(0.005)
    chance, bets = ledger.chance, list(ledger.state.bets)
    for _ in range(40):
        ledger.served(chance, True)
        ledger.lost(chance)
    assert ledger.state.bets == bets
    assert ledger.state.found + ledger.state.unseen == 40
    assert ledger.state.found > 10
    ledger.audited(False, 0.031)  # of another worker, whose chance is lower
    assert ledger.state.bets == bets
    ledger.audited(True, 0.031)
    assert all(new < old or old == -math.inf for new, old in zip(ledger.state.bets, bets, strict=True))
    assert ledger.wrong < math.inf
