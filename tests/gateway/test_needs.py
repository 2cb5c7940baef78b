"""What a call needs is read from its body, and variants that do not offer it are left out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from engines.base import Operation
from gateway.config.spill_options import OfferOptions
from gateway.needs import NO_NEEDS, Menu, Needs, read_needs
from gateway.prompts.body import MEDIA_TOKENS
from gateway.wire import Call


@dataclass(frozen=True)
class Build:
    name: str


def call(body: Any) -> Call:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Call(Operation.CHAT, "m", False, False, raw)


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **more}


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
SOUND = {"type": "input_audio", "input_audio": {"data": "A" * 100_000}}


@pytest.mark.parametrize(
    ("body", "capabilities"),
    [
        (user("hi"), set()),
        (user("hi", tools=[]), set()),
        (user("hi", tools=None, functions=None), set()),
        (user("hi", tools=[{"type": "function"}]), {"tools"}),
        (user("hi", functions=[{"name": "f"}]), {"tools"}),
        (user("hi", response_format={"type": "json_object"}), set()),
        (user("hi", response_format={"type": "json_schema", "json_schema": {}}), {"json_schema"}),
        (user([{"type": "text", "text": "see"}, IMAGE]), {"vision"}),
        (user([{"type": "input_image", "image_url": "x"}]), {"vision"}),
        (user(["text", SOUND, IMAGE]), {"audio", "vision"}),
        (user([{"type": "something_new"}]), set()),
        (user(None), set()),
        ({"prompt": "hi"}, set()),
        (b"no JSON", set()),
        (user("hi", response_format=7), set()),
        (b"[" * 100_000, set()),
    ],
)
def test_capabilities_are_read_from_the_body(body: Any, capabilities: set[str]) -> None:
    assert read_needs(call(body)).capabilities == capabilities


@pytest.mark.parametrize(
    ("body", "least", "most"),
    [
        (user("word " * 4000), 5000, 5002),
        (user("word " * 4000, max_tokens=1000), 6000, 6002),
        (user("hi", max_completion_tokens=500, max_tokens=None), 500, 502),
        (user("hi", max_tokens="lots"), 0, 2),
        (user([IMAGE]), MEDIA_TOKENS, MEDIA_TOKENS),
        (user(["word " * 400, {"type": "text", "text": "word " * 400}]), 1000, 1002),
        ({"prompt": "word " * 4000}, 5000, 5002),
        ({"input": ["word " * 4000]}, 5000, 5002),
    ],
)
def test_tokens_are_estimated_from_the_text_and_the_longest_answer_that_is_asked_for(
    body: Any, least: int, most: int
) -> None:
    assert least <= read_needs(call(body)).tokens <= most


BUILDS = [Build("small"), Build("tools"), Build("all")]
MENU = Menu(
    {
        "small": OfferOptions(max_context_tokens=8000, capabilities=[]),
        "tools": OfferOptions(max_context_tokens=32_000, capabilities=["tools", "json_schema"]),
        "all": OfferOptions(max_context_tokens=32_000),
    }
)


@pytest.mark.parametrize(
    ("needs", "fit"),
    [
        (NO_NEEDS, {"small", "tools", "all"}),
        (Needs(frozenset({"tools"}), 100), {"tools", "all"}),
        (Needs(frozenset({"vision"}), 100), {"all"}),
        (Needs(frozenset(), 9000), {"tools", "all"}),
        (Needs(frozenset(), 1_000_000), {"tools", "all"}),
        (Needs(frozenset({"audio"}), 1_000_000), {"all"}),
    ],
)
def test_what_does_not_fit_is_left_out_and_the_largest_context_stays(needs: Needs, fit: set[str]) -> None:
    assert {one.name for one in MENU.fitting(BUILDS, needs)} == fit


def test_a_call_that_nobody_can_serve_is_refused_by_what_is_missing() -> None:
    needs = Needs(frozenset({"tools", "vision"}))
    assert MENU.fitting(BUILDS[:2], needs) == []
    menu = Menu({"small": OfferOptions(capabilities=["tools"])})
    refusal = menu.refusal("chat", needs)
    assert (refusal.status, refusal.code) == (400, "unsupported_operation")
    assert "'chat' may be sent images; see `deployments.*.variants.*.capabilities`" in refusal.message


def test_what_only_different_variants_can_do_is_refused_with_all_of_it() -> None:
    menu = Menu({"a": OfferOptions(capabilities=["tools"]), "b": OfferOptions(capabilities=["vision"])})
    assert "function calls and images" in menu.refusal("chat", Needs(frozenset({"tools", "vision"}))).message


def test_where_nothing_is_restricted_no_body_is_read() -> None:
    menu = Menu({"a": OfferOptions(), "b": OfferOptions(step_down=True)})
    assert menu.needs_of(call(user([IMAGE]))) is NO_NEEDS
    assert menu.fitting(BUILDS, Needs(frozenset({"tools"}))) is BUILDS
    assert MENU.needs_of(call(user([IMAGE]))).capabilities == {"vision"}
    assert menu["b"].step_down and "step_down=True" in repr(menu)
