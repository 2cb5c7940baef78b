"""An `openai` client in front of a gateway in front of a fake engine, and short ways to ask it for something."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import openai
from openai.types.chat import ChatCompletionMessageParam

from engines.fake import FakeEngine
from tests.harness import MODEL, Json, Server, config_of, engine_running, serving

KEY = "sk-headrace-test"


def said(content: str = "hello there") -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": content}]


def fake(**overrides: Any) -> Json:
    """`extra_body` that tells the fake engine what this request is to meet."""
    return {"fake": overrides}


@dataclass
class Talk:
    client: openai.AsyncOpenAI
    server: Server
    engine: FakeEngine

    @property
    def seen(self) -> Json:
        """The body of the last request, as the engine got it."""
        body: Json = json.loads(self.engine.requests[-1].body)
        return body


@asynccontextmanager
async def client_of(server: Server, **options: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    defaults: Json = {"api_key": KEY, "max_retries": 0, "timeout": 20.0}
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", **(defaults | options)) as client:
        yield client


@asynccontextmanager
async def talking(
    *, engine: Json | None = None, config: Json | None = None, client: Json | None = None
) -> AsyncIterator[Talk]:
    """`engine`: options of the fake engine; `config`: of the gateway, for `config_of`; `client`: of the client."""
    async with (
        engine_running(**(engine or {})) as one,
        serving(config_of(one, **(config or {}))) as server,
        client_of(server, **(client or {})) as talker,
    ):
        yield Talk(talker, server, one)


__all__ = ["KEY", "MODEL", "Talk", "client_of", "fake", "said", "talking"]
