from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.fake.kv import PrefixCache
from engines.fake.metrics import Histogram
from engines.fake.schema import minimal_instance
from engines.fake.tokens import make_words, split_text, split_tokens, token_bytes, token_id

SCHEMAS: list[tuple[Any, object]] = [
    ({"type": "string"}, ""),
    ({"type": "string", "minLength": 3}, "aaa"),
    ({"type": "string", "format": "date"}, "2000-01-01"),
    ({"type": "integer", "minimum": 3}, 3),
    ({"type": "integer", "exclusiveMinimum": 3}, 4),
    ({"type": "integer", "maximum": -2}, -2),
    ({"type": "number", "minimum": 3, "multipleOf": 5}, 5),
    ({"type": "number"}, 0),
    ({"type": "boolean"}, False),
    ({"type": "null"}, None),
    ({"type": ["string", "null"]}, ""),
    ({"type": []}, {}),
    ({"type": "array", "items": {"type": "integer"}}, []),
    ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [0, 0]),
    ({"enum": ["b", "a"]}, "b"),
    ({"const": 5}, 5),
    ({"default": {"a": 1}}, {"a": 1}),
    ({"anyOf": [{"type": "null"}, {"type": "string"}]}, None),
    ({"oneOf": [{"type": "boolean"}]}, False),
    ({"properties": {"a": {"type": "string"}}}, {}),
    ({"type": "object", "properties": {"a": {}}, "required": ["a"]}, {"a": None}),
    ({"allOf": [{"properties": {"a": {"type": "string"}}, "required": ["a"]}, {"type": "object"}]}, {"a": ""}),
    ({"allOf": [{"$ref": "#/$defs/x"}, {"$ref": "#/no"}], "$defs": {"x": {"required": ["k"]}}}, {"k": None}),
    ({"$ref": "#/$defs/x~1y", "$defs": {"x/y": {"type": "boolean"}}}, False),
    ({"properties": {"a": {"type": "array", "items": True, "minItems": 1}}, "required": ["a"]}, {"a": [None]}),
    (True, {}),
]


@pytest.mark.parametrize(("schema", "instance"), SCHEMAS, ids=str)
def test_the_smallest_instance_of_a_schema(schema: Any, instance: object) -> None:
    assert minimal_instance(schema) == instance


def test_a_schema_that_contains_itself_comes_to_an_end() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    assert str(minimal_instance(node)).startswith("{'next': {'next':")


@given(st.text())
def test_tokens_join_to_their_text(text: str) -> None:
    tokens = split_tokens(text)
    assert b"".join(tokens) == text.encode()
    assert [token_bytes(token_id(token)) for token in tokens] == tokens
    assert all(token_id(token) < 2**53 for token in tokens)
    assert "".join(split_text(text)) == text


@pytest.mark.parametrize("number", [-1, 0, 2**60, 512])
def test_an_id_that_no_token_has_is_the_replacement_character(number: int) -> None:
    assert token_bytes(number) == "\ufffd".encode()


def test_half_a_character_is_replaced() -> None:
    assert split_text("a\ud800") == ["a\ufffd\ufffd\ufffd"]


def test_words_are_the_same_for_the_same_seed() -> None:
    assert make_words(5, "s") == make_words(5, "s")
    assert make_words(0, "s") == []


def test_a_prefix_is_cached_up_to_the_last_whole_block_but_one_token() -> None:
    cache = PrefixCache(block_tokens=2, capacity_blocks=10)
    tokens = [b"a", b"b", b"c", b"d", b"e"]
    assert cache.use(tokens) == 0
    assert cache.use(tokens) == 4
    assert cache.use(tokens[:4]) == 2
    assert cache.use([*tokens[:3], b"x", b"y"]) == 2
    assert cache.use([b"z", *tokens[1:]]) == 0
    assert cache.use([]) == 0


def test_the_blocks_least_recently_used_go_first() -> None:
    cache = PrefixCache(block_tokens=1, capacity_blocks=2)
    cache.use([b"a", b"b"])
    cache.use([b"c"])
    assert len(cache) == 2
    assert cache.use([b"a", b"b"]) == 0
    cache.clear()
    assert len(cache) == 0


def test_a_histogram_is_cumulative() -> None:
    histogram = Histogram("h", (1, 2))
    for value, times in ((0.5, 1), (1.0, 1), (3.0, 2)):
        histogram.observe(value, times)
    assert histogram.lines('a="b"') == [
        "# TYPE h histogram",
        'h_bucket{a="b",le="1.0"} 2.0',
        'h_bucket{a="b",le="2.0"} 2.0',
        'h_bucket{a="b",le="+Inf"} 4.0',
        'h_sum{a="b"} 7.5',
        'h_count{a="b"} 4.0',
    ]
