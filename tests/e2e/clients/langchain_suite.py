"""LangChain's `ChatOpenAI` on the gateway: streams, tools, structured output. Run by `test_agents.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from langchain_core.messages import (  # type: ignore[import-not-found, unused-ignore]
    AIMessage,
    HumanMessage,
    ToolMessage,
)
from langchain_openai import ChatOpenAI, OpenAIEmbeddings  # type: ignore[import-not-found, unused-ignore]
from pydantic import BaseModel

from engines.fake import FakeEngine
from tests.clients.talk import KEY, MODEL
from tests.harness import config_of, engine_running, serving


class City(BaseModel):
    """A city and how many live there."""

    name: str
    people: int


def weather(city: str) -> str:
    """The weather in a city."""
    return f"It rains in {city}."


@asynccontextmanager
async def served(*, api: str = "chat", **engine: Any) -> AsyncIterator[tuple[Any, FakeEngine]]:
    import httpx2

    async with engine_running(**engine) as one, serving(config_of(one)) as server, httpx2.AsyncClient() as http:
        options: dict[str, Any] = {"api_key": KEY, "base_url": f"{server.url}/v1", "http_async_client": http}
        kind = {"chat": ChatOpenAI, "embeddings": OpenAIEmbeddings}[api]
        yield kind(model=MODEL, max_retries=0, **options), one


async def test_a_message_is_answered_with_its_usage() -> None:
    async with served(text="Paris.") as (model, _):
        answer = await model.ainvoke([HumanMessage("What is the capital of France?")])
        assert isinstance(answer, AIMessage)
        assert answer.content == "Paris."
        assert answer.usage_metadata["total_tokens"] > 2
        assert answer.response_metadata["finish_reason"] == "stop"


async def test_a_stream_comes_in_chunks_that_add_up() -> None:
    async with served() as (model, _):
        chunks = [chunk async for chunk in model.astream("Hello")]
        total = chunks[0]
        for chunk in chunks[1:]:
            total += chunk
        assert len([chunk for chunk in chunks if chunk.content]) == 16
        assert total.response_metadata["finish_reason"] == "stop"
        assert len(total.content.split()) > 8


async def test_bound_tools_are_called_and_answered() -> None:
    async with served() as (model, engine):
        bound = model.bind_tools([weather])
        question = HumanMessage('call weather {"city": "Riga"}')
        answer = await bound.ainvoke([question])
        (call,) = answer.tool_calls
        assert (call["name"], call["args"]) == ("weather", {"city": "Riga"})
        result = ToolMessage(weather(**call["args"]), tool_call_id=call["id"])
        assert (await bound.ainvoke([question, answer, result])).content
        assert engine.stats.completed == 2


async def test_tool_calls_add_up_from_a_stream() -> None:
    async with served() as (model, _):
        chunks = [chunk async for chunk in model.bind_tools([weather]).astream('call weather {"city": "Oslo"}')]
        total = chunks[0]
        for chunk in chunks[1:]:
            total += chunk
        assert [call["args"] for call in total.tool_calls] == [{"city": "Oslo"}]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
async def test_structured_output_is_a_model(method: str) -> None:
    async with served() as (model, _):
        assert isinstance(await model.with_structured_output(City, method=method).ainvoke("Name a city."), City)


async def test_documents_are_embedded() -> None:
    async with served(api="embeddings", embedding_dims=8) as (model, _):
        model.check_embedding_ctx_length = False
        vectors = await model.aembed_documents(["one", "two"])
        assert [len(vector) for vector in vectors] == [8, 8]
        assert vectors[0] != vectors[1]


async def test_an_engine_that_dies_raises_in_the_stream() -> None:
    async with served(die_after=4, itl_s=0.005) as (model, _):
        with pytest.raises(openai.APIError, match="engine"):
            _ = [chunk async for chunk in model.astream("Hello")]
