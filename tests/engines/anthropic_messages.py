"""Answers in the form of Anthropic's Messages API, and an engine that speaks it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from engines.adapter import AdapterEngine
from engines.anthropic import AnthropicTranslator
from engines.http import Endpoint
from tests.engines.clouds import Cloud, Json, cloud

USER = {"role": "user", "content": "Hi"}


def named(*pairs: tuple[str, Json]) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps(data).encode()) for kind, data in pairs)


def event(kind: str, **data: Any) -> tuple[str, Json]:
    return kind, {"type": kind, **data}


START = event(
    "message_start",
    message={
        "id": "msg_1nZdL29xx5MUA1yADyHTEsnR8uuvGzszyY",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": "claude-sonnet-4-5-20250929",
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 25,
            "cache_creation_input_tokens": 100,
            "cache_read_input_tokens": 1000,
            "output_tokens": 1,
        },
    },
)

STOP = event("message_stop")


def block(index: int, kind: str, *deltas: Json, **fields: Any) -> list[tuple[str, Json]]:
    return [
        event("content_block_start", index=index, content_block={"type": kind, **fields}),
        *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
        event("content_block_stop", index=index),
    ]


def ending(stop_reason: str, **usage: Any) -> tuple[str, Json]:
    return event("message_delta", delta={"stop_reason": stop_reason, "stop_sequence": None}, usage=usage)


TALK = named(
    START,
    event("ping"),
    *block(
        0,
        "thinking",
        {"type": "thinking_delta", "thinking": "Größe 27"},
        {"type": "thinking_delta", "thinking": " times 453"},
        {"type": "signature_delta", "signature": "EqQBCgIYAhIM"},
        thinking="",
        signature="",
    ),
    *block(
        1, "text", {"type": "text_delta", "text": "Okay"}, {"type": "text_delta", "text": ", let's see ☔"}, text=""
    ),
    *block(
        2,
        "tool_use",
        {"type": "input_json_delta", "partial_json": ""},
        {"type": "input_json_delta", "partial_json": '{"location":'},
        {"type": "input_json_delta", "partial_json": ' "San Francisco"}'},
        id="toolu_1",
        name="get_weather",
        input={},
    ),
    *block(3, "tool_use", {"type": "input_json_delta", "partial_json": ""}, id="toolu_2", name="now", input={}),
    ending("tool_use", output_tokens=89, output_tokens_details={"thinking_tokens": 12}),
    STOP,
)

USAGE = {
    "prompt_tokens": 1125,
    "completion_tokens": 89,
    "total_tokens": 1214,
    "prompt_tokens_details": {"cached_tokens": 1000, "cache_creation_tokens": 100},
    "completion_tokens_details": {"reasoning_tokens": 12},
}


@asynccontextmanager
async def anthropic(*answers: bytes) -> AsyncIterator[tuple[AdapterEngine, Cloud]]:
    async with cloud(*answers) as peer:
        endpoint = Endpoint("e", peer.url, {"x-api-key": "k", "anthropic-version": "2023-06-01"})
        engine = AdapterEngine(endpoint, AnthropicTranslator(4096))
        try:
            yield engine, peer
        finally:
            await engine.aclose()
