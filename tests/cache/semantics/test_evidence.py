from __future__ import annotations

from cache.semantics.classes import Classes
from cache.semantics.evidence import NAMES, SCALES, WEIGHTS, Evidence, weigh
from tests.cache.semantics.test_classes import classes
from tests.cache.semantics.world import near


def feature(evidence: Evidence, name: str) -> float:
    return evidence.features[NAMES.index(name)]


def weighed(known: Classes, *found: tuple[str, float]) -> Evidence:
    return weigh("how do I pay", near(*found), known)


def test_each_feature_has_a_name_a_weight_and_a_scale() -> None:
    assert len(NAMES) == len(WEIGHTS) == len(SCALES) == len(weighed(classes("a"), ("a", 0.9)).features)
    assert len(set(NAMES)) == len(NAMES)


def test_many_neighbours_with_one_answer_outvote_a_nearer_one() -> None:
    found = weighed(classes("a", "bcd"), ("a", 0.9), ("b", 0.89), ("c", 0.88), ("d", 0.87))
    assert found.best.id == "b"
    assert feature(found, "lead") < 0


def test_the_nearest_of_the_winning_answer_is_the_candidate() -> None:
    assert weighed(classes("abc"), ("c", 0.9), ("a", 0.8)).best.id == "c"


def test_agreement_grows_with_the_say_of_the_winner() -> None:
    alone = weighed(classes("ab"), ("a", 0.9), ("b", 0.89))
    split = weighed(classes("a", "b"), ("a", 0.9), ("b", 0.89))
    assert feature(alone, "agreement") > 0.5 > feature(split, "agreement")


def test_what_was_judged_of_an_answer_speaks_for_it() -> None:
    known = classes("ab")
    before = weighed(known, ("a", 0.9))
    known.count("a", True)
    known.count("b", True)
    after = weighed(known, ("a", 0.9))
    assert feature(after, "class_record") > feature(before, "class_record")
    assert feature(after, "entry_record") > feature(before, "entry_record")


def test_an_entry_that_nobody_knows_is_an_answer_of_its_own() -> None:
    found = weighed(classes("a"), ("x", 0.9), ("y", 0.9), ("a", 0.8))
    assert found.best.id == "x"
    assert feature(found, "answers") == 3 / 4 - 1


def test_only_an_answer_with_a_say_is_worth_comparing_with() -> None:
    assert weighed(classes("a", "b"), ("a", 0.9), ("b", 0.85)).rivals == ("b",)
    assert weighed(classes("a", "b"), ("a", 0.9), ("b", 0.5)).rivals == ()
    assert weighed(classes("ab"), ("a", 0.9), ("b", 0.85)).rivals == ()


def test_a_text_that_says_otherwise_makes_an_answer_less_likely() -> None:
    same = weigh("can I fly to Rome", near(("a", 0.95), text="can I fly to Rome?"), classes("a"))
    other = weigh("can I fly with 3 bags", near(("a", 0.95), text="can I fly with 2 bags"), classes("a"))
    assert feature(other, "doubt") < feature(same, "doubt") == 0
