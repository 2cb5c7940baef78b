"""Ways of calling that the `openai` package allows: base URLs, queries, many at once, caches, large pieces."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.clients.talk import KEY, MODEL, client_of, fake, said, talking
from tests.harness import DONE, FINISH, SSE_HEAD, config_of, engine_by_hand, engine_running, serving, token


@pytest.mark.parametrize("path", ["/v1", "/v1/", "", "/"])
async def test_any_form_of_the_base_url_works(path: str) -> None:
    async with (
        engine_running() as engine,
        serving(config_of(engine)) as server,
        AsyncOpenAI(base_url=server.url + path, api_key=KEY, max_retries=0) as client,
    ):
        assert (await client.chat.completions.create(model=MODEL, messages=said())).choices
        assert [model.id async for model in client.models.list()] == [MODEL]
        assert (await client.embeddings.create(model=MODEL, input="x")).data


async def test_a_query_in_the_url_changes_nothing() -> None:
    async with talking(client={"default_query": {"api-version": "preview"}}) as talk:
        assert (await talk.client.chat.completions.create(model=MODEL, messages=said())).choices
        assert talk.engine.requests[-1].query == ""


async def test_a_hundred_streams_of_one_client_do_not_mix() -> None:
    async def ask(client: AsyncOpenAI, number: int) -> str:
        body = fake(text=f"number {number} " * 5, itl=0.001)
        stream = await client.chat.completions.create(model=MODEL, messages=said(), stream=True, extra_body=body)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async with talking() as talk:
        texts = await asyncio.gather(*(ask(talk.client, number) for number in range(100)))
        assert texts == [f"number {number} " * 5 for number in range(100)]


@pytest.mark.parametrize("options", [None, {"include_usage": False}, {"include_usage": True, "more": [1]}])
async def test_a06_every_form_of_stream_options_is_obeyed(options: Any) -> None:
    async with talking() as talk:
        stream = await talk.client.chat.completions.create(
            model=MODEL, messages=said(), stream=True, stream_options=options
        )
        chunks = [chunk async for chunk in stream]
        wanted = bool(options and options["include_usage"])
        assert any(chunk.usage for chunk in chunks) is wanted
        assert talk.seen["stream_options"] == {**(options or {}), "include_usage": True}
        (record,) = await talk.server.records()
        assert record["tokens_out"] == 16


async def test_a_cached_answer_looks_like_the_first_one_streamed_or_not() -> None:
    async with talking(config={"cache": {"enabled": True, "store": "memory"}}) as talk:
        create = talk.client.chat.completions.with_raw_response.create
        for stream in (False, True):
            texts, hits = [], []
            for _ in range(2):
                raw: Any = await create(model=MODEL, messages=said(), stream=stream)
                answer: Any = raw.parse()
                hits.append(raw.headers.get("x-headrace-cache"))
                if stream:
                    texts.append("".join([chunk.choices[0].delta.content or "" async for chunk in answer]))
                else:
                    texts.append(answer.choices[0].message.content)
            assert texts[0] == texts[1] != ""
            assert hits == ["hit" if stream else "miss", "hit"]
        assert talk.engine.stats.requests == 1


async def test_an_event_of_two_megabytes_arrives_whole() -> None:
    large = "0123456789" * 200_000
    async with engine_by_hand() as engine, serving(config_of(engine.url)) as server, client_of(server) as client:

        async def answer() -> None:
            turn = await engine.turn()
            turn.send(SSE_HEAD)
            turn.events(token(large), token("end"), FINISH, DONE)
            turn.end()

        answering = asyncio.create_task(answer())
        stream = await client.chat.completions.create(model=MODEL, messages=said(), stream=True)
        pieces = [chunk.choices[0].delta.content async for chunk in stream]
        await answering
        assert pieces[:2] == [large, "end"]


async def test_the_engines_own_name_of_the_model_stays_behind_the_gateway() -> None:
    async with talking(engine={"models": ("org/real-name",)}, config={"model": "org/real-name"}) as talk:
        await talk.client.chat.completions.create(model=MODEL, messages=said())
        assert talk.seen["model"] == "org/real-name"
        with pytest.raises(openai.NotFoundError):
            await talk.client.chat.completions.create(model="org/real-name", messages=said())
