"""A real model in the embedded llama.cpp, run by the launcher: what the gateway relies on."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from engines.commands import free_port, llamacpp_command
from engines.launcher import Change, ProcessLauncher, State
from engines.models import pull

MODEL = "smollm2-135m-instruct"
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def gguf() -> Path:
    return pull(MODEL)


@pytest.fixture(scope="module")
def engine_url(gguf: Path) -> Iterator[str]:
    """One engine for all tests, watched by a loop of its own."""
    port = free_port()

    async def started() -> ProcessLauncher:
        launcher = ProcessLauncher(llamacpp_command("e2e", model=gguf, alias=MODEL, port=port, slots=4))
        launcher.start()
        await launcher.wait_ready()
        return launcher

    with start_blocking_portal() as portal:
        launcher = portal.call(started)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            portal.call(launcher.stop)
            assert launcher.pid is None


@pytest.fixture
async def engine(engine_url: str) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=engine_url, timeout=120, limits=limits, trust_env=False) as client:
        yield client


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 16, **more}


async def test_the_engine_answers_to_its_alias(engine: httpx.AsyncClient) -> None:
    assert (await engine.get("/health")).json() == {"status": "ok"}
    assert [one["id"] for one in (await engine.get("/v1/models")).json()["data"]] == [MODEL]


async def test_a_sentence_is_completed_sensibly(engine: httpx.AsyncClient) -> None:
    body = {"prompt": "The capital of France is", "temperature": 0, "max_tokens": 8}
    answer = (await engine.post("/v1/completions", json=body)).json()
    assert "Paris" in answer["choices"][0]["text"]
    assert answer["usage"]["completion_tokens"] == 8


async def test_a_stream_ends_with_usage_when_asked(engine: httpx.AsyncClient) -> None:
    body = chat("Hello", stream=True, stream_options={"include_usage": True})
    async with engine.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = [line async for line in response.aiter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    last = json.loads(lines[-2].removeprefix("data: "))
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens"] > 0


async def test_a_json_schema_is_obeyed(engine: httpx.AsyncClient) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 10}}, "required": ["name"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    answer = (
        await engine.post("/v1/chat/completions", json=chat("Make a person", max_tokens=64, response_format=wanted))
    ).json()
    assert 0 < len(json.loads(answer["choices"][0]["message"]["content"])["name"]) <= 10


async def test_an_embedding_has_the_models_width(engine: httpx.AsyncClient) -> None:
    answer = (await engine.post("/v1/embeddings", json={"model": MODEL, "input": ["a", "b"]})).json()
    assert [len(one["embedding"]) for one in answer["data"]] == [576, 576]


async def test_text_becomes_tokens_and_tokens_text(engine: httpx.AsyncClient) -> None:
    tokens = (await engine.post("/tokenize", json={"content": "Hello world"})).json()
    assert tokens == {"tokens": [19556, 905]}
    assert (await engine.post("/detokenize", json=tokens)).json() == {"content": "Hello world"}
    prompt = (await engine.post("/apply-template", json=chat("Hi"))).json()["prompt"]
    assert prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


async def test_health_answers_while_a_hundred_calls_wait(engine: httpx.AsyncClient) -> None:
    calls = [
        asyncio.create_task(engine.post("/v1/chat/completions", json=chat(f"Story {n}", max_tokens=4)))
        for n in range(100)
    ]
    try:
        while "requests_deferred 0" in (await engine.get("/metrics")).text:
            await asyncio.sleep(0.02)
        started_s = time.monotonic()
        assert (await engine.get("/health")).status_code == 200
        assert time.monotonic() - started_s < 1.0
    finally:
        assert {call.status_code for call in await asyncio.gather(*calls)} == {200}


async def test_a_model_that_is_missing_fails_for_good_and_says_so(tmp_path: Path) -> None:
    changes: list[Change] = []
    spec = llamacpp_command("e2e", model=tmp_path / "none.gguf", alias=MODEL, port=free_port())
    failed = asyncio.Event()

    def changed(change: Change) -> None:
        changes.append(change)
        if change.new is State.FAILED:
            failed.set()

    launcher = ProcessLauncher(spec, on_change=changed)
    launcher.start()
    await failed.wait()
    assert "the model file is missing" in changes[-1].reason
    await launcher.stop()


async def test_sigterm_ends_a_busy_engine_at_once(gguf: Path) -> None:
    port = free_port()
    launcher = ProcessLauncher(llamacpp_command("e2e", model=gguf, alias=MODEL, port=port, slots=2))
    launcher.start()
    try:
        await launcher.wait_ready()
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            async with client.stream("POST", url, json=chat("Tell a story", stream=True, max_tokens=2000)) as response:
                await anext(response.aiter_raw())
                started_s = time.monotonic()
                await launcher.stop()
                assert time.monotonic() - started_s < 2.0
    finally:
        await launcher.stop()
    assert launcher.state is State.STOPPED
