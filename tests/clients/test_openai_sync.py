"""The same with the synchronous client, in a thread of its own, as scripts and notebooks use it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import openai
import pytest

from engines.fake import FakeEngine
from tests.clients.talk import KEY, MODEL, said
from tests.harness import Watch, config_of, engine_running, serving, settled


async def scripted(script: Callable[[openai.OpenAI], Any], **engine: Any) -> FakeEngine:
    """Run `script` with a client. Returns the engine, as it was left."""
    async with engine_running(**engine) as one, serving(config_of(one)) as server:

        def run() -> None:
            with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=20.0) as client:
                script(client)

        await asyncio.to_thread(run)
        return one


async def test_a_script_chats_streams_and_embeds() -> None:
    def script(client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(model=MODEL, messages=said(), seed=1)
        stream = client.chat.completions.create(model=MODEL, messages=said(), seed=1, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == answer.choices[0].message.content
        assert len(client.embeddings.create(model=MODEL, input="x").data[0].embedding) == 16
        assert [model.id for model in client.models.list()] == [MODEL]
        with client.chat.completions.stream(model=MODEL, messages=said(), seed=1) as helper:
            assert helper.get_final_completion().choices[0].message.content == text

    engine = await scripted(script)
    assert engine.stats.completed == 4


async def test_a_scripts_errors_are_of_the_right_class() -> None:
    def script(client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="none", messages=said())
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model=MODEL, messages=said(), max_tokens=0)
        with pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(model=MODEL, messages=said(), extra_body={"fake": {"ttft": 5}}, timeout=0.4)

    engine = await scripted(script)
    assert engine.stats.aborted == 1


async def test_a_stream_that_dies_raises_in_the_loop_that_reads_it() -> None:
    def script(client: openai.OpenAI) -> None:
        with pytest.raises(openai.APIError) as caught:
            for _ in client.chat.completions.create(model=MODEL, messages=said(), stream=True):
                pass
        assert caught.value.code == "upstream_died"

    await scripted(script, die_after=3, itl_s=0.005)


async def test_a01_a_break_and_close_frees_the_engine() -> None:
    async with engine_running(output_tokens=5000, itl_s=0.005) as engine, serving(config_of(engine)) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)

        def script() -> None:
            with client.chat.completions.create(model=MODEL, messages=said(), stream=True) as stream:
                for chunk in stream:
                    if chunk.choices[0].delta.content:
                        break

        try:
            await asyncio.to_thread(script)
            with Watch() as watch:
                await settled(lambda: engine.stats.open or None, "the engine still works", 2.0)
            assert watch.elapsed_s < 0.25
        finally:
            client.close()


async def test_threads_share_one_client() -> None:
    async with engine_running(itl_s=0.002) as engine, serving(config_of(engine)) as server:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:

            def script(number: int) -> str:
                stream = client.chat.completions.create(model=MODEL, messages=said(f"number {number}"), stream=True)
                return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

            texts = await asyncio.gather(*(asyncio.to_thread(script, number) for number in range(8)))
        assert len(set(texts)) == 8
        assert engine.stats.completed == 8
