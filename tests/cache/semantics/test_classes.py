from __future__ import annotations

import msgspec

from cache.semantics.classes import AnswerClass, Classes, ClassState


def classes(*groups: str) -> Classes:
    """Each a string of one-letter ids."""
    made = Classes()
    for group in groups:
        for each in group:
            made.add(each)
            made.join(each, group[0])
    return made


def of(made: Classes, entry_id: str) -> AnswerClass:
    found = made.get(entry_id)
    assert found is not None
    return found


def test_an_entry_opens_a_class_of_its_own_and_joins_another() -> None:
    made = classes("a", "b")
    assert list(of(made, "b").members) == ["b"]
    made.join("b", "a")
    assert list(of(made, "a").members) == ["a", "b"]
    assert of(made, "a") is of(made, "b")


def test_adding_or_joining_again_changes_nothing() -> None:
    made = classes("ab")
    made.add("b")
    made.join("b", "a")
    made.join("a", "b")
    assert list(of(made, "a").members) == ["a", "b"]
    assert len(made) == 2


def test_two_grown_classes_are_never_merged() -> None:
    made = classes("ab", "cd")
    made.join("a", "c")
    assert of(made, "a") is not of(made, "c")


def test_what_is_not_known_joins_nothing() -> None:
    made = classes("a")
    made.join("x", "a")
    made.join("a", "x")
    assert "x" not in made
    assert list(of(made, "a").members) == ["a"]


def test_judgements_count_for_the_entry_and_its_class() -> None:
    made = classes("ab")
    made.count("a", True)
    made.count("b", False)
    made.count("x", True)
    its = of(made, "a")
    assert (its.record.fitted, its.record.failed) == (1, 1)
    assert (its.members["a"].fitted, its.members["a"].failed) == (1, 0)


def test_what_moves_takes_its_record_along() -> None:
    made = classes("a", "b")
    made.count("b", True)
    made.join("b", "a")
    assert of(made, "a").record.fitted == 1


def test_a_dropped_entry_leaves_its_record_with_its_class() -> None:
    made = classes("ab")
    made.count("b", True)
    made.drop("b")
    made.drop("b")
    assert "b" not in made
    assert list(of(made, "a").members) == ["a"]
    assert of(made, "a").record.fitted == 1


def test_a_class_is_dropped_whole_and_names_the_asked_entry_first() -> None:
    made = classes("abc", "d")
    assert made.drop_class("b") == ("b", "a", "c")
    assert made.drop_class("b") == ("b",)
    assert len(made) == 1


def test_a_state_tells_what_is_known_of_entries_that_are_there() -> None:
    made = classes("abc", "d", "e")
    made.count("c", True)
    made.count("d", False)
    states = msgspec.msgpack.decode(msgspec.msgpack.encode(made.snapshot()), type=list[ClassState])
    other = classes("a", "c", "d", "f")
    other.restore(states)
    assert list(of(other, "a").members) == ["a", "c"]
    assert of(other, "c").members["c"].fitted == 1
    assert of(other, "d").record.failed == 1
    assert "b" not in other
    assert list(of(other, "f").members) == ["f"]
