"""curl, as people type it: the first thing that anybody tries."""

from __future__ import annotations

import asyncio
import json
import shutil
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.clients.talk import KEY
from tests.harness import (
    DONE,
    FINISH,
    MODEL,
    SSE_HEAD,
    Json,
    Watch,
    chat,
    config_of,
    engine_by_hand,
    engine_running,
    events_in,
    serving,
    settled,
    streamed,
    text_in,
    token,
)

pytestmark = pytest.mark.e2e
JSON = ("-H", "content-type: application/json")


@pytest.fixture(autouse=True)
def curl_is_here() -> None:
    if shutil.which("curl") is None:
        pytest.fail("curl is not installed, and these tests are about it", pytrace=False)


@asynccontextmanager
async def curling(*arguments: str) -> AsyncIterator[Process]:
    # -q: nobody's ~/.curlrc; the proxy would be the environment's.
    command = ("curl", "-q", "-sS", "--noproxy", "*", "--max-time", "20", *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def curl(*arguments: str) -> bytes:
    async with curling(*arguments) as process:
        output, problems = await process.communicate()
    assert process.returncode == 0, problems.decode()
    return output


def body(fields: Json) -> tuple[str, ...]:
    return (*JSON, "-d", json.dumps(fields))


async def test_a_chat_is_answered() -> None:
    async with engine_running(text="Hello!") as engine, serving(config_of(engine)) as server:
        answer = json.loads(await curl(f"{server.url}/v1/chat/completions", *body(chat())))
        assert answer["choices"][0]["message"]["content"] == "Hello!"


async def test_a_body_without_a_content_type_is_answered_all_the_same() -> None:
    async with engine_running(text="Hello!") as engine, serving(config_of(engine)) as server:
        answer = await curl(f"{server.url}/v1/chat/completions", "-d", json.dumps(chat()))
        assert b"Hello!" in answer, "curl calls it a form by itself, and people forget"


async def test_a12_an_unbuffered_stream_shows_each_token_when_it_comes() -> None:
    async with (
        engine_by_hand() as engine,
        serving(config_of(engine.url)) as server,
        curling("-N", f"{server.url}/v1/chat/completions", *body(streamed())) as process,
    ):
        assert process.stdout is not None
        turn = await engine.turn()
        turn.send(SSE_HEAD)
        for text in ("one", "two", "three"):
            turn.events(token(text))
            with Watch() as watch:
                shown = await process.stdout.readuntil(b"\n\n")
            assert text_in(shown) == text
            assert watch.elapsed_s < 0.25
        turn.events(FINISH, DONE)
        turn.end()
        assert events_in(await process.stdout.read())[-1] == "[DONE]"
        assert await process.wait() == 0


async def test_a01_ctrl_c_frees_the_engine() -> None:
    async with (
        engine_running(output_tokens=5000, itl_s=0.005) as engine,
        serving(config_of(engine)) as server,
        curling("-N", f"{server.url}/v1/chat/completions", *body(streamed())) as process,
    ):
        assert process.stdout is not None
        await process.stdout.readuntil(b"\n\n")
        process.terminate()
        await process.wait()
        with Watch() as watch:
            await settled(lambda: engine.stats.open or None, "the engine still works", 2.0)
        assert watch.elapsed_s < 0.25


async def test_headers_keys_and_statuses_are_shown() -> None:
    config_keys = [{"name": "me", "key": KEY}]
    async with engine_running() as engine, serving(config_of(engine, keys=config_keys)) as server:
        listed = await curl("-i", f"{server.url}/v1/models", "-H", f"Authorization: Bearer {KEY}")
        head, _, listing = listed.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert [model["id"] for model in json.loads(listing)["data"]] == [MODEL]
        status = await curl("-o", "/dev/null", "-w", "%{http_code}", f"{server.url}/v1/models")
        assert status == b"401"
        keyless = json.loads(await curl(f"{server.url}/v1/chat/completions", *body(chat())))
        assert keyless["error"]["message"] == "No API key given. Send it as `Authorization: Bearer KEY`."
        refused = await curl(f"{server.url}/v1/chat/completions", *body(chat()), "-H", "Authorization: Bearer nope")
        assert json.loads(refused)["error"]["code"] == "invalid_api_key"
        assert json.loads(await curl(f"{server.url}/health"))["status"] == "ok"


async def test_a_wrong_method_is_answered_as_http_says() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        wrong = await curl("-i", f"{server.url}/v1/chat/completions")
        assert wrong.startswith(b"HTTP/1.1 405 ")
        assert b"\r\nallow: POST\r\n" in wrong.lower().replace(b"post", b"POST")


@pytest.mark.parametrize("options", [("--http1.0",), ("-H", "Connection: close"), ("--http2",)])
async def test_other_ways_of_http_are_answered(options: tuple[str, ...]) -> None:
    async with engine_running(text="Hello!") as engine, serving(config_of(engine)) as server:
        for fields in (chat(), streamed()):
            answer = await curl("-N", *options, f"{server.url}/v1/chat/completions", *body(fields))
            assert b"Hello" in answer


async def test_a_large_file_is_sent_after_a_100_continue(tmp_path: Path) -> None:
    file = tmp_path / "body.json"
    file.write_text(json.dumps(chat("word " * 600_000)))
    async with engine_running(context_tokens=2**21, text="Read.") as engine, serving(config_of(engine)) as server:
        url = f"{server.url}/v1/chat/completions"
        answer = await curl(url, *JSON, "-H", "Expect: 100-continue", "--data-binary", f"@{file}")
        assert b"Read." in answer
        assert engine.requests[-1].body == file.read_bytes()
