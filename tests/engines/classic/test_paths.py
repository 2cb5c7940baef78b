"""Where in an answer the text or the embeddings stand."""

from __future__ import annotations

import pytest

from engines.classic.paths import JsonPath, NotThere, text_at
from engines.classic.vectors import as_base64, vectors_in

DOCUMENT = {"outputs": [{"data": ["a", "b"], "n": 3}, {"data": [["deep"]], "ok": True, "none": None}], "0": "zero"}


@pytest.mark.parametrize(
    ("path", "text"),
    [("outputs.0.data.0", "a"), ("outputs.0.data.-1", "b"), ("outputs.1.data", "deep"), ("0", "zero")],
)
def test_a_path_leads_to_a_text(path: str, text: str) -> None:
    assert text_at(JsonPath.parse(path), DOCUMENT) == text
    assert str(JsonPath.parse(path)) == path


def test_an_empty_path_is_the_whole_document() -> None:
    assert JsonPath.parse("").find("all") == "all"


def test_a_star_takes_each_element() -> None:
    assert JsonPath.parse("rows.*.v").find({"rows": [{"v": 1}, {"v": 2}]}) == [1, 2]


def test_tensorflows_bytes_are_text() -> None:
    assert text_at(JsonPath.parse("p.0"), {"p": [{"b64": "Z3LDvMOf"}]}) == "grüß"
    with pytest.raises(NotThere, match="no base64"):
        text_at(JsonPath.parse("p.0"), {"p": [{"b64": "Z"}]})


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("outputs.2", r'"outputs.2" leads nowhere: a list of 2 has no "2"'),
        ("outputs.first", "a list of 2"),
        ("output.0", r'an object with "outputs", "0" has no "output"'),
        ("outputs.0.n", "leads to a number, not to text"),
        ("outputs.1.ok", "true or false"),
        ("outputs.1.none", "null"),
        ("outputs.0.data", "a list of 2, not to text"),
        ("0.deeper", "a text has no"),
    ],
)
def test_a_path_that_leads_nowhere_says_how_far_it_led(path: str, said: str) -> None:
    with pytest.raises(NotThere, match=said):
        text_at(JsonPath.parse(path), DOCUMENT)


def test_an_empty_object_has_no_keys_to_name() -> None:
    with pytest.raises(NotThere, match="an empty object"):
        JsonPath.parse("a").find({})


@pytest.mark.parametrize("path", ["$.a", "a..b", ".a", "a[0]", "a b"])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="is no path"):
        JsonPath.parse(path)


@pytest.mark.parametrize(
    "value",
    [
        [[1, 2.5], [3, 4]],
        [[[1, 2.5]], [[3, 4]]],
        {"shape": [2, 2], "data": [1, 2.5, 3, 4]},
        {"shape": [2, 1, 2], "data": [1, 2.5, 3, 4]},
        {"shape": [2, 2], "data": [[1, 2.5], [3, 4]]},
    ],
)
def test_vectors_come_as_lists_or_as_tensors(value: object) -> None:
    assert vectors_in(value, 2) == [[1, 2.5], [3, 4]]


def test_one_vector_may_come_alone() -> None:
    assert vectors_in([0.5, 1], 1) == [[0.5, 1]]
    assert vectors_in({"shape": [2], "data": [0.5, 1]}, 1) == [[0.5, 1]]
    assert vectors_in({"shape": [], "data": [0.5]}, 1) == [[0.5]]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("text", "no embeddings"),
        ([], "no embeddings"),
        ([[1.0]], "1 embeddings for 2 inputs"),
        ([1.0, 2.0], "0 embeddings for 2 inputs"),
        ([[[1.0], [2.0]], [[3.0], [4.0]]], "a vector for each token"),
        ([["a"], ["b"]], "list of numbers"),
        ({"shape": [2, 3], "data": [1, 2]}, "2 numbers, and its shape is"),
        ({"shape": "x", "data": [1]}, '"data" and "shape"'),
    ],
)
def test_what_is_no_embedding_is_said_to_be_none(value: object, said: str) -> None:
    with pytest.raises(NotThere, match=said):
        vectors_in(value, 2)


def test_base64_is_of_little_endian_floats() -> None:
    assert as_base64([1.0, -2.0]) == "AACAPwAAAMA="
