from __future__ import annotations

import pytest

from gateway.prompts import Lengths


def test_four_bytes_a_token_until_an_engine_has_counted() -> None:
    assert Lengths().prompt_tokens(4000) == 1000


def test_bytes_per_token_are_learned() -> None:
    lengths = Lengths()
    for _ in range(300):
        lengths.learn_prompt(3000, 1500)
    assert lengths.prompt_tokens(3000) == pytest.approx(1500, rel=0.05)


def test_long_prompts_say_more_of_bytes_per_token_than_short_ones() -> None:
    lengths = Lengths()
    for _ in range(200):
        lengths.learn_prompt(2, 30)  # nearly all of it is the template's
        lengths.learn_prompt(40_000, 10_000)
    assert lengths.bytes_per_token == pytest.approx(4.0, rel=0.02)


def test_absurd_counts_are_bounded_and_missing_ones_ignored() -> None:
    lengths = Lengths()
    for _ in range(1000):
        lengths.learn_prompt(10**9, 1)
    assert lengths.bytes_per_token == 32
    lengths.learn_prompt(0, 5)
    lengths.learn_prompt(5, 0)
    assert lengths.bytes_per_token == 32
    for _ in range(3000):
        lengths.learn_prompt(1, 10**9)
    assert lengths.bytes_per_token == 0.5


def test_an_answer_is_expected_to_be_as_long_as_others_or_as_it_may_be() -> None:
    lengths = Lengths()
    for _ in range(200):
        lengths.learn_output(50, cut=False)
    assert lengths.output_tokens(None) == pytest.approx(50, rel=0.1)
    assert lengths.output_tokens(10) == 10
    assert lengths.output_tokens(4000) == lengths.output_tokens(None)


def test_an_answer_that_was_cut_says_only_that_answers_are_no_shorter() -> None:
    lengths = Lengths()
    before = lengths.output_tokens(None)
    lengths.learn_output(1, cut=True)
    assert lengths.output_tokens(None) == before
    lengths.learn_output(100_000, cut=True)
    assert lengths.output_tokens(None) > before


def test_the_mean_follows_what_changes() -> None:
    lengths = Lengths()
    for tokens in (10, 1000):
        for _ in range(300):
            lengths.learn_output(tokens, cut=False)
        assert lengths.output_tokens(None) == pytest.approx(tokens, rel=0.05)
    assert repr(lengths) == "<Lengths bytes_per_token=4.00 output_tokens=998>"
