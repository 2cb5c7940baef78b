"""Usage is known for every answer, and no client sees that the gateway asked for it (A06)."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from tests.harness import (
    CHAT,
    COMPLETIONS,
    DONE,
    EMBEDDINGS,
    FINISH,
    Json,
    chat,
    config_of,
    engine_running,
    events_in,
    serving,
    streamed,
    token,
)

USAGE = {"prompt_tokens": 21, "completion_tokens": 2, "total_tokens": 23}
EXTRA = b'data: {"id":"x","choices":[],"usage":%b}\n\n' % json.dumps(USAGE).encode()
BEFORE = token("Hé") + b": a comment\n\n" + token("llo") + FINISH


@pytest.mark.parametrize("options", [{}, {"stream_options": None}, {"stream_options": {"include_usage": False}}])
async def test_a06_usage_is_asked_of_the_engine_and_taken_out_again(options: Json) -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        fake = {"sse": (BEFORE + EXTRA + DONE).decode()}
        answer = await server.post(CHAT, streamed(fake=fake, **options))
        assert answer.content == BEFORE + DONE
        (request,) = engine.requests
        assert json.loads(request.body)["stream_options"] == {"include_usage": True}
        (record,) = await server.records()
        assert (record["tokens_in"], record["tokens_out"]) == (21, 2)
        assert "estimated" not in record


async def test_a06_a_client_that_asks_for_usage_gets_it_byte_for_byte() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        whole = BEFORE + EXTRA + DONE
        body = streamed(stream_options={"include_usage": True}, fake={"sse": whole.decode()})
        answer = await server.post(CHAT, body)
        assert answer.content == whole
        assert json.loads(engine.requests[0].body) == body


async def test_a06_the_other_stream_options_stay() -> None:
    options = {"include_obfuscation": False, "continuous_usage_stats": True, "x": [1, {"y": None}]}
    async with engine_running() as engine, serving(config_of(engine)) as server:
        await server.post(CHAT, streamed(stream_options=options))
        assert json.loads(engine.requests[0].body)["stream_options"] == options | {"include_usage": True}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_a06_a_call_that_does_not_stream_is_not_touched(path: str) -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        body = b'{ "model":"m",  "messages":[{"role":"user","content":"x"}], "prompt":"x", "stream": false }'
        answer = await server.post(path, body)
        assert engine.requests[0].body == body
        (record,) = await server.records()
        usage = answer.json()["usage"]
        assert (record["tokens_in"], record["tokens_out"]) == (usage["prompt_tokens"], usage["completion_tokens"])


async def test_a06_usage_on_every_chunk_stays_and_the_last_counts() -> None:
    """As with vLLM's continuous_usage_stats: those chunks have choices, so they are the client's."""
    first = token("a").replace(b"}\n\n", b', "usage":{"prompt_tokens":9,"completion_tokens":1}}\n\n')
    async with engine_running() as engine, serving(config_of(engine)) as server:
        answer = await server.post(CHAT, streamed(fake={"sse": (first + FINISH + EXTRA + DONE).decode()}))
        assert answer.content == first + FINISH + DONE
        (record,) = await server.records()
        assert (record["tokens_in"], record["tokens_out"]) == (21, 2)


@pytest.mark.parametrize("seed", range(12))
async def test_a06_the_stream_is_the_same_wherever_the_engine_cuts_it(seed: int) -> None:
    whole = BEFORE + EXTRA + DONE
    cuts = sorted(random.Random(seed).sample(range(1, len(whole)), 12))
    async with engine_running() as engine, serving(config_of(engine)) as server:
        answer = await server.post(CHAT, streamed(fake={"sse": whole.decode(), "cuts": cuts}))
        assert answer.content == BEFORE + DONE


@pytest.mark.parametrize("newline", ["\r\n", "\r"])
async def test_a06_other_line_ends_pass_unchanged(newline: str) -> None:
    before, extra, done = (part.decode().replace("\n", newline) for part in (BEFORE, EXTRA, DONE))
    async with engine_running() as engine, serving(config_of(engine)) as server:
        answer = await server.post(CHAT, streamed(fake={"sse": before + extra + done}))
        assert answer.content == (before + done).encode()


async def test_a06_without_usage_a_stream_is_estimated_and_says_so() -> None:
    async with engine_running(no_usage=True, output_tokens=16) as engine, serving(config_of(engine)) as server:
        answer = await server.post(CHAT, streamed("one two three four five six"))
        (record,) = await server.records()
        assert record["estimated"] is True
        assert record["tokens_out"] == 16, f"16 chunks had text, {len(events_in(answer.content))} events came"
        assert 5 <= record["tokens_in"] <= 40
        metrics = await server.metrics()
        assert metrics["headrace_estimated_usage_total"] == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [(CHAT, chat("one two three four")), (COMPLETIONS, {"model": "m", "prompt": "one two three four"})],
)
async def test_a06_without_usage_a_whole_answer_is_estimated_and_says_so(path: str, body: Json) -> None:
    async with engine_running(no_usage=True, output_tokens=16) as engine, serving(config_of(engine)) as server:
        await server.post(path, body)
        (record,) = await server.records()
        assert record["estimated"] is True
        assert 8 <= record["tokens_out"] <= 48
        assert 3 <= record["tokens_in"] <= 40


async def test_a06_embeddings_count_their_prompt() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        answer = await server.post(EMBEDDINGS, {"model": "m", "input": ["one two", "three"]})
        (record,) = await server.records()
        assert record["tokens_in"] == answer.json()["usage"]["prompt_tokens"] > 0


@pytest.mark.parametrize("details", [{"cached_tokens": 5}, None])
async def test_a06_cached_and_reasoning_tokens_are_read(details: Any) -> None:
    usage = USAGE | {"prompt_tokens_details": details, "completion_tokens_details": {"reasoning_tokens": 1}}
    extra = b'data: {"id":"x","choices":[],"usage":%b}\n\n' % json.dumps(usage).encode()
    async with engine_running() as engine, serving(config_of(engine)) as server:
        await server.post(CHAT, streamed(fake={"sse": (BEFORE + extra + DONE).decode()}))
        (record,) = await server.records()
        assert record.get("tokens_cached", 0) == (5 if details else 0)


async def test_the_time_per_token_is_never_negative_when_all_tokens_come_at_once() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        for _ in range(5):
            await server.post(CHAT, streamed())
        sums = {name: value for name, value in (await server.metrics()).items() if "_seconds_sum" in name}
        assert sums
        assert all(value >= 0 for value in sums.values()), sums
