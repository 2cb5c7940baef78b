"""What `transformers serve` takes is sent, what it would silently ignore is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engines.adapter import CannotSay
from engines.base import EngineRequest, Operation, Timeouts
from engines.fake import FakeEngine, FakeOptions
from engines.http import Endpoint
from engines.transformers import TransformersEngine, spoken


def sent(started_with: str | None = None, **fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(spoken(json.dumps(fields).encode(), started_with))
    return body


def test_the_model_is_that_which_the_server_was_started_with() -> None:
    assert sent("/models/m", model="m") == {"model": "/models/m"}
    assert sent(None, model="m") == {"model": "m"}


def test_the_newer_limit_is_sent_by_its_older_name() -> None:
    assert sent(max_completion_tokens=5) == {"max_tokens": 5}
    assert sent(max_completion_tokens=None, max_tokens=7) == {"max_tokens": 7}


def test_fields_that_change_no_answer_are_left_out() -> None:
    assert sent(model="m", prompt_cache_key="a", safety_identifier="b", cache_salt="c", priority=1) == {"model": "m"}


def test_no_tools_may_be_called_when_the_caller_says_none() -> None:
    assert "tools" not in sent(tools=[{}], tool_choice="none")
    assert "tools" in sent(tools=[{}], tool_choice="auto")


@pytest.mark.parametrize(
    "fields",
    [{"n": 1}, {"logprobs": False}, {"tool_choice": None}, {"response_format": {"type": "text"}}, {"echo": False}],
)
def test_a_field_at_its_default_passes(fields: dict[str, Any]) -> None:
    assert sent(**fields) == fields


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"best_of": 3},
        {"echo": True},
        {"logprobs": True},
        {"logprobs": 2},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"response_format": {"type": "json_object"}},
        {"response_format": "json"},
    ],
)
def test_a_field_that_would_be_ignored_is_refused_by_its_name(fields: dict[str, Any]) -> None:
    with pytest.raises(CannotSay) as refused:
        sent(**fields)
    assert refused.value.param == next(iter(fields))
    assert f"`{refused.value.param}`" in str(refused.value)


async def test_a_refusal_is_an_answer_and_the_rest_goes_to_the_server() -> None:
    """Against the fake engine as it refuses what transformers does."""
    async with FakeEngine(FakeOptions(models=("/m",), refuse_unknown_fields=True)) as fake:
        engine = TransformersEngine(Endpoint("e", fake.url), model="/m")
        messages = [{"role": "user", "content": "Hi"}]

        async def ask(operation: Operation = Operation.CHAT, **fields: Any) -> tuple[int, dict[str, Any]]:
            body = json.dumps({"model": "m", "messages": messages, **fields}).encode()
            answer = await engine.send(EngineRequest(operation, body), Timeouts())
            return answer.status, json.loads(await answer.read(1 << 20))

        status, body = await ask(max_completion_tokens=3, prompt_cache_key="x")
        assert (status, body["usage"]["completion_tokens"]) == (200, 3)
        status, body = await ask(n=2)
        assert (status, body["error"]["param"]) == (400, "n")
        status, _ = await ask(Operation.TOKENIZE)
        assert status == 404  # as it stands: the model is not rewritten
        await engine.aclose()
