from __future__ import annotations

import math
import random

import pytest

from cache.semantics.scores import FARTHEST, Model

TRUTH = (-0.5, 2.0, -1.0)


def fitted(number: int, seed: int = 1, model: Model | None = None, truth: tuple[float, ...] = TRUTH) -> Model:
    chance = random.Random(seed)
    model = model or Model((0.0, 0.0, 0.0), (2.0, 2.0, 2.0))
    for _ in range(number):
        features = (1.0, chance.gauss(0, 1), chance.gauss(0, 1))
        odds = sum(a * b for a, b in zip(truth, features, strict=True))
        model.learn(features, chance.random() < 1 / (1 + math.exp(-odds)))
    return model


def test_before_any_label_the_weights_are_those_it_was_given() -> None:
    model = Model((1.0, -2.0), (1.0, 1.0))
    assert model.odds((2.0, 1.5)) == pytest.approx(-1.0)
    assert model.probability((2.0, 1.0)) == 0.5


def test_it_finds_the_weights_that_made_the_labels() -> None:
    assert fitted(4000).weights == pytest.approx(TRUTH, abs=0.15)


def test_one_label_moves_it_as_newtons_step_does() -> None:
    model = Model((0.0,), (1.0,))
    model.learn((1.0,), True)
    assert model.weights == pytest.approx([0.5 / 1.25])
    assert model.snapshot().spread == [[pytest.approx(1 - 0.25 / 1.25)]]


def test_an_unsure_weight_moves_more_than_a_sure_one() -> None:
    model = Model((0.0, 0.0), (1.0, 0.1))
    model.learn((1.0, 1.0), True)
    assert model.weights[0] > 50 * model.weights[1] > 0


def test_it_is_never_surer_than_the_farthest_odds() -> None:
    model = Model((100.0,), (1.0,))
    assert model.odds((1.0,)) == FARTHEST
    assert model.odds((-1.0,)) == -FARTHEST
    model.learn((1.0,), False)
    assert math.isfinite(model.weights[0])


def test_after_a_doubt_it_learns_what_has_changed_soon() -> None:
    changed = (-0.5, -2.0, 1.0)
    sure, doubting = fitted(4000), fitted(4000)
    doubting.doubt()
    fitted(300, 2, sure, changed)
    fitted(300, 2, doubting, changed)
    assert math.dist(doubting.weights, changed) < 1.0 < math.dist(sure.weights, changed)


def test_with_a_pace_old_labels_fade() -> None:
    changed = (-0.5, -2.0, 1.0)
    for_ever, fading = fitted(4000), fitted(4000, model=Model((0.0, 0.0, 0.0), (2.0, 2.0, 2.0), pace=1e-4))
    far = [math.dist(fitted(2000, 2, model, changed).weights, changed) for model in (for_ever, fading)]
    assert far[1] < 0.5 * far[0]


def test_a_restored_model_goes_on_as_the_first() -> None:
    model, other = fitted(100), Model((0.0, 0.0, 0.0), (2.0, 2.0, 2.0))
    assert other.restore(model.snapshot())
    assert fitted(50, 3, model).weights == fitted(50, 3, other).weights


def test_a_state_of_other_features_is_left_alone() -> None:
    other = Model((0.25,), (1.0,))
    assert not other.restore(fitted(10).snapshot())
    assert other.weights == [0.25]
