"""What tells two questions apart that look alike, word by word."""

from __future__ import annotations

import subprocess
import sys
import timeit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.signals import MAX_WORDS, read_signals
from cache.verify import NAMES, PRIOR_CUT, WEIGHTS, doubt, features, is_likely, prior, veto


def cues(a: str, b: str) -> dict[str, float]:
    return dict(zip(NAMES, features(a, b), strict=True))


VETOED = {
    "numbers": """
        How many calories are in 2 eggs? | How many calories are in 3 eggs?
        How many calories are in two eggs? | How many calories are in 3 eggs?
        How do I invest $500? | How do I invest $5,000?
        Is a 5% tip enough? | Is a 15 percent tip enough?
        Set a timer for 10 minutes | Set a timer for 10 seconds
        What happens in a week? | What happens in a month?
        Where is order 1234567? | Where is order 1234568?
        What's new in Python 3.1? | What's new in Python 3.10?
        Who won in 2014? | Who won in 2018?
        What caused World War II? | What caused World War III?
        $5 million in cash | $6 million in cash
        Chapter II | Chapter III
        The second law of thermodynamics | The third law of thermodynamics
        2 million users | 3 million users""",
    "exact": """
        Explain the RFC-2616a draft | Explain the RFC-2617b draft
        Book it for Monday | Book it for Tuesday
        Rain in March | Rain in April
        At 3:30pm | At 4:30pm
        What is 2+2? | What is 2*2?
        Is 5 > 3? | Is 5 < 3?
        What is 5 - 3? | What is 5 + 3?
        if x == 1 | if x != 1
        Who is ann@example.com? | Who is bob@example.com?
        Read https://a.example/x | Read https://a.example/y
        What is user_id? | What is order_id?
        Is gpt4o quick? | Is gpt5o quick?
        Prices in summer | Prices in winter""",
    "polarity": """
        Which foods should diabetics eat? | Which foods should diabetics not eat?
        Can employees work overtime with approval? | Can employees work overtime without approval?
        How do I enable dark mode? | How do I disable dark mode?
        Is it safe to eat? | Is it unsafe to eat?
        How do I turn on airplane mode? | How do I turn off airplane mode?
        Advantages of remote work | Disadvantages of remote work
        Can I cancel before it ships? | Can I cancel after it ships?
        Show all accounts | Show only accounts
        Why do they like it? | Why don't they like it?
        When should I use a global variable? | When should I avoid using a global variable?
        What did the first man say? | What did the last man say?
        Which is the largest lake? | Which is the smallest lake?
        Is a higher rate good? | Is a lower rate good?
        Was he there? | Was she there?
        Kann ich das essen? | Kann ich das nicht essen?""",
    "swapped": """
        Flights from London to Paris | Flights from Paris to London
        Convert JSON to YAML | Convert YAML to JSON
        Is China bigger than India? | Is India bigger than China?
        Does Sophia notice Alyssa? | Is Sophia noticed by Alyssa?
        Did Tom hire Ann? | Did Ann hire Tom?
        What is 10 divided by 2? | What is 2 divided by 10?""",
}


def _pairs(lines: str) -> list[tuple[str, str]]:
    return [(a, b) for line in lines.strip().splitlines() for a, b in [line.strip().split(" | ")]]


@pytest.mark.parametrize(("why", "pair"), [(why, pair) for why, lines in VETOED.items() for pair in _pairs(lines)])
def test_what_differs_in_so_many_words_is_vetoed_whatever_the_vectors_say(why: str, pair: tuple[str, str]) -> None:
    found = features(*pair)
    assert veto(found) == why
    assert not is_likely(1.0, found)


SAME = """
    How do I reset my password? | hi, how can I reset my pasword? Thanks!
    How many calories are in two eggs? | How many calories are in 2 eggs?
    How long is 60 minutes? | How long is 1 hour?
    How long is an hour? | How long is 60 min?
    How do I invest $5,000? | How do I invest 5000 dollars?
    Is 2 km far? | Is 2000 meters far?
    What is 1.5 million? | What is 1,500,000?
    When did World War II end? | When did the Second World War end?
    Does Justin trust Emma? | Is Emma trusted by Justin?
    Isn't it safe? | Is it safe?
    How do I become a secure person? | How do I become a person who is not insecure?
    Difference between a list and a tuple | Difference between a tuple and a list
    Flights from London to Paris | Flights to Paris from London
    How do I turn off notifications on my phone? | How do I disable notifications on my phone?
    What is the largest lake in Peru? | What is the biggest lake in Peru?
    What is the capital of the United Kingdom? | What's the capital of the UK?
    Explain the United Nations | Explain the UN
    Caf\u00e9s in Rome | Cafe\u0301s in Rome
    Don\u2019t they sell it? | Don't they sell it?
    How Do I Reset My Password? | how do I reset my password
    What is a metre? | What is a meter?
"""


@pytest.mark.parametrize("pair", _pairs(SAME))
def test_what_is_only_worded_differently_is_not(pair: tuple[str, str]) -> None:
    found = features(*pair)
    assert not veto(found)
    assert is_likely(0.9, found)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Is China bigger than India?", "Is India smaller than China?"),
        ("How can I become more active?", "How can I become less passive?"),
        ("How do I get a good price?", "How do I get a price that is not bad?"),
    ],
)
def test_two_turns_round_cancel_out(a: str, b: str) -> None:
    assert not veto(features(a, b))


@pytest.mark.parametrize(
    ("a", "b", "name"),
    [
        ("What is the capital of France?", "What is the capital of Spain?", "names"),
        ("Who founded it in Paris?", "Who founded it?", "names_missing"),
        ("Best phones", "Best phones under $500", "numbers_missing"),
        ("Is it open?", "Is it open on Sunday?", "exact_missing"),
        ("How do I grow tomatoes?", "How do I grow peppers?", "replaced"),
        ("What are good books?", "What are good books for teenagers?", "added"),
        ("How do I block a user?", "How do I block every user?", "scope"),
        ("Why did it sink?", "When did it sink?", "kind"),
        ("How many sank?", "Which sank?", "kind_unclear"),
        ("What causes floods?", "Where are floods?", "kind"),
        ("How do I sort lists?", "How are lists sorted?", "same"),
    ],
)
def test_lesser_differences_are_cues_for_the_score(a: str, b: str, name: str) -> None:
    found = cues(a, b)
    assert found[name] > 0
    assert veto(features(a, b)) == ""
    assert name in ("same", "added") or prior(0.9, features(a, b)) < prior(0.9, features(a, a))


WORDS = """
how do I not the first before 2 3.10 $5 km million Paris London to from than by Is a US un safe unsafe on off monday ? .
A II 2+2 a_1 -5
a@b.c http://x != C++ C# it's all none he she \u4e09 \u6211\u67093\u4e2a \u00e9t\u00e9 \u0663 \u00b2 x_1 10am 5k % hour
"""
TEXTS = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(WORDS.split()), max_size=20).map(" ".join))


@settings(max_examples=400, deadline=None)
@given(TEXTS, TEXTS)
def test_any_two_texts_are_compared_alike_both_ways_and_a_text_never_differs_from_itself(a: str, b: str) -> None:
    found = features(a, b)
    assert found == features(b, a) == features(read_signals(a), read_signals(b))
    assert len(found) == len(NAMES)
    assert all(0.0 <= one <= 100.0 for one in found)
    assert not veto(features(a, a))
    assert doubt(features(a, a)) == 0.0
    assert doubt(found) <= 0.0
    assert 0.0 < prior(-1.0, found) <= prior(1.0, found) < 1.0


def test_the_hash_seed_of_a_process_changes_nothing() -> None:
    pair = ("Which strong fast cars from Rome cost less?", "Which weak slow autos to Rome cost more, and sell badly?")
    script = (
        f"from cache.verify import features, read_signals\nprint(features{pair}, read_signals({pair[0]!r}).content)"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1


@pytest.mark.parametrize(
    "text", ["a1," * 20_000, "A" * 60_000, "Ab " * 20_000, "?" * 60_000, "x y" * 20_000, "'" * 9_000]
)
def test_a_long_text_costs_no_more_than_its_first_words(text: str) -> None:
    assert len(read_signals(text).content) <= MAX_WORDS
    assert min(timeit.repeat(lambda: features(text, text[::-1]), number=1, repeat=3)) < 0.2


def test_texts_with_nothing_in_common_are_compared_in_no_time() -> None:
    a, b = (
        read_signals(" ".join(f"{letter}word{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(500)))
        for letter in "pq"
    )
    assert cues("", "")["overlap"] == 1.0
    assert min(timeit.repeat(lambda: features(a, b), number=5, repeat=3)) < 0.05


@pytest.mark.parametrize(
    ("text", "numbers", "exact", "content"),
    [
        ("gpt4o utf8 iPhone15Pro b2b", (), {"gpt4o", "utf8", "iphone15pro", "b2b"}, ()),
        ("2+2, 5 - 3, -4", ("2", "2", "5", "3", "4"), {"+", "-"}, ()),
        ("\u6211\u67093\u4e2a\u82f9\u679c", ("3",), set(), ("\u6211\u6709", "\u4e2a\u82f9\u679c")),
        ("1,234,568 at 3:30pm on 2024-05-01, 5/6", ("1234568",), {"3:30pm", "2024-05-01", "5/6"}, ()),
        ("user_id2 of a@b.com: https://x.y/z1", (), {"user_id2", "a@b.com", "https://x.y/z1"}, ()),
        ("C++ and C#", (), set(), ("c++", "c#")),
        ("$5,000.00 or 5k, 10 am, 0.50 kg, 1st June", ("5000$", "5000", "10am", "500g", "1"), {"month6"}, ()),
        ("$5 million, 2 million", ("5million$", "2000000"), set(), ()),
        ("00, 007, 3.10, 3.0", ("0", "7", "3.10", "3"), set(), ()),
        ("Cities\u2019 caf\u00e9s", (), set(), ("city", "caf\u00e9")),
    ],
)
def test_numbers_codes_and_words_are_told_apart(
    text: str, numbers: tuple[str, ...], exact: set[str], content: tuple[str, ...]
) -> None:
    signals = read_signals(text)
    assert (signals.numbers, set(signals.exact), signals.content) == (numbers, exact, content)


def test_the_weights_are_of_features_and_count_against() -> None:
    assert set(WEIGHTS) <= set(NAMES)
    assert all(weight < 0 for weight in WEIGHTS.values())
    assert 0.5 < PRIOR_CUT < 1.0
