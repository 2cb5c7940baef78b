"""A pydantic-ai agent on the gateway: tools in a loop, structured output, streams. Run by `test_agents.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent  # type: ignore[import-not-found, unused-ignore]
from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError  # type: ignore[import-not-found, unused-ignore]
from pydantic_ai.models.openai import OpenAIChatModel  # type: ignore[import-not-found, unused-ignore]
from pydantic_ai.providers.openai import OpenAIProvider  # type: ignore[import-not-found, unused-ignore]

from tests.clients.talk import MODEL, Talk, talking
from tests.harness import Json


class City(BaseModel):
    name: str
    people: int


@dataclass
class Served:
    model: Any
    talk: Talk


@asynccontextmanager
async def served(**engine: Any) -> AsyncIterator[Served]:
    async with talking(engine=engine) as talk:
        yield Served(OpenAIChatModel(MODEL, provider=OpenAIProvider(openai_client=talk.client)), talk)


async def test_an_agent_answers() -> None:
    async with served(text="Paris.") as one:
        result = await Agent(one.model, instructions="Be brief.").run("What is the capital of France?")
        assert result.output == "Paris."
        assert result.usage.requests == 1
        assert result.usage.output_tokens > 0


async def test_an_agent_calls_its_tool_and_goes_on_with_the_result() -> None:
    asked: list[str] = []

    def weather(city: str) -> str:
        """The weather in a city."""
        asked.append(city)
        return f"It rains in {city}."

    async with served() as one:
        result = await Agent(one.model, tools=[weather]).run('please call weather {"city": "Riga"}')
        assert asked == ["Riga"]
        assert result.output
        assert one.talk.engine.stats.completed == 2
        told: Json = one.talk.seen["messages"][-1]
        assert (told["role"], told["content"]) == ("tool", "It rains in Riga.")


async def test_an_agent_that_streams_calls_its_tool_too() -> None:
    asked: list[str] = []

    def weather(city: str) -> str:
        """The weather in a city."""
        asked.append(city)
        return "It rains."

    async with served() as one:
        async with Agent(one.model, tools=[weather]).run_stream('call weather {"city": "Oslo"}') as run:
            texts = [text async for text in run.stream_text(delta=True, debounce_by=None)]
        assert asked == ["Oslo"]
        assert len(texts) > 8, "as tokens, not at once"
        assert run.usage.requests == 2
        assert run.usage.output_tokens > 16
        assert one.talk.seen["stream_options"]["include_usage"] is True


async def test_structured_output_comes_by_a_tool_streamed_or_not() -> None:
    async with served() as one:
        agent = Agent(one.model, output_type=City)
        assert isinstance((await agent.run("Name a city.")).output, City)
        assert one.talk.seen["tool_choice"] == "required"
        async with agent.run_stream("Name a city.") as run:
            assert isinstance(await run.get_output(), City)


async def test_structured_output_comes_by_a_schema_of_the_response() -> None:
    from pydantic_ai import NativeOutput

    async with served() as one:
        result = await Agent(one.model, output_type=NativeOutput(City)).run("Name a city.")
        assert isinstance(result.output, City)
        assert one.talk.seen["response_format"]["type"] == "json_schema"


async def test_an_error_of_the_gateway_has_its_status_and_body() -> None:
    async with served(context_tokens=16) as one:
        with pytest.raises(ModelHTTPError) as caught:
            await Agent(one.model).run("far too long " * 30)
        assert caught.value.status_code == 400
        assert caught.value.body["code"] == "context_length_exceeded"


async def test_an_engine_that_dies_ends_the_agents_stream_with_an_error() -> None:
    import openai

    async with served(die_after=4, itl_s=0.005) as one:
        with pytest.raises((ModelAPIError, openai.APIError), match="engine"):
            async with Agent(one.model).run_stream("Hello") as run:
                _ = [text async for text in run.stream_text(delta=True, debounce_by=None)]
