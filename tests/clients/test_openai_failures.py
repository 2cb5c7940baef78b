"""What the `openai` package makes of errors, and what becomes of the engine when the client gives up."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from engines.fake import FakeEngine
from tests.clients.talk import KEY, MODEL, Talk, client_of, fake, said, talking
from tests.harness import (
    DONE,
    FINISH,
    SSE_HEAD,
    HandEngine,
    Watch,
    config_of,
    engine_by_hand,
    nobody,
    serving,
    settled,
    token,
    whole,
)

FREED_S = 0.25
"""A01: how long an engine may go on for a client that is gone."""
OTHER = {"name": "other", "key": "sk-other", "deployments": []}
ANSWER = json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}]}).encode()


async def refused(talk: Talk, kind: type[openai.APIStatusError], **fields: Any) -> openai.APIStatusError:
    with pytest.raises(kind) as caught:
        await talk.client.chat.completions.create(**({"model": MODEL, "messages": said()} | fields))
    assert type(caught.value) is kind
    assert caught.value.request_id == caught.value.response.headers["x-request-id"]
    return caught.value


async def freed(engine: FakeEngine) -> float:
    with Watch() as watch:
        await settled(lambda: engine.stats.open or None, "the engine still works", 2.0)
    assert engine.stats.aborted == 1
    return watch.elapsed_s


# Errors that are the caller's


@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_engine_refuses_is_a_bad_request_with_its_words(stream: bool) -> None:
    async with talking() as talk:
        error = await refused(talk, openai.BadRequestError, max_tokens=0, stream=stream)
        assert (error.status_code, error.type, error.param) == (400, "invalid_request_error", "max_tokens")
        assert "max_tokens must be at least 1" in error.message


async def test_a_prompt_that_is_too_long_has_the_code_that_programs_look_for() -> None:
    async with talking(engine={"context_tokens": 16}) as talk:
        error = await refused(talk, openai.BadRequestError, messages=said("far too long " * 20))
        assert error.code == "context_length_exceeded"


async def test_a_wrong_type_is_a_bad_request_and_never_a_422() -> None:
    async with talking() as talk:
        error = await refused(talk, openai.BadRequestError, extra_body={"stream": "yes"})
        assert (error.code, error.param) == ("invalid_type", "stream")
        assert talk.engine.stats.requests == 0


async def test_a_key_that_is_not_known_is_an_authentication_error() -> None:
    async with talking(config={"keys": [OTHER]}) as talk:
        error = await refused(talk, openai.AuthenticationError)
        assert (error.type, error.code) == ("authentication_error", "invalid_api_key")
        with pytest.raises(openai.AuthenticationError):
            await talk.client.models.list()


async def test_a_model_that_the_key_may_not_call_is_a_denied_permission() -> None:
    async with talking(config={"keys": [OTHER | {"key": KEY}]}) as talk:
        error = await refused(talk, openai.PermissionDeniedError)
        assert (error.type, error.code, error.param) == ("permission_error", "model_not_allowed", "model")
        assert [model async for model in talk.client.models.list()] == []


async def test_a_model_that_does_not_exist_is_not_found() -> None:
    async with talking() as talk:
        error = await refused(talk, openai.NotFoundError, model="gpt-none")
        assert (error.code, error.param) == ("model_not_found", "model")
        with pytest.raises(openai.NotFoundError) as caught:
            await talk.client.models.retrieve("owner/gpt-none")
        assert caught.value.code == "model_not_found"


async def test_a_route_that_does_not_exist_is_not_found_in_the_same_shape() -> None:
    async with talking() as talk:
        with pytest.raises(openai.NotFoundError) as caught:
            await talk.client.post("/no/such/route", body={}, cast_to=object)
        assert (caught.value.type, caught.value.code) == ("invalid_request_error", "not_found")


async def test_a_body_that_is_too_large_is_told_its_limit() -> None:
    async with talking(config={"server": {"max_body_bytes": 4096}}) as talk:
        with pytest.raises(openai.APIStatusError) as caught:
            await talk.client.chat.completions.create(model=MODEL, messages=said("x" * 500_000))
        assert (caught.value.status_code, caught.value.code) == (413, "body_too_large")
        assert "4096" in caught.value.message.replace(",", "")


# Limits and retries


async def test_a_key_over_its_limit_gets_a_rate_limit_error_that_says_when_to_come_back() -> None:
    key = {"name": "team", "key": KEY, "max_parallel": 1}
    async with talking(config={"keys": [key]}) as talk:
        talk.engine.hold()
        first = asyncio.create_task(talk.client.chat.completions.create(model=MODEL, messages=said()))
        await talk.engine.arrived()
        error = await refused(talk, openai.RateLimitError)
        assert (error.type, error.code) == ("rate_limit_error", "concurrency")
        assert int(error.response.headers["retry-after"]) >= 1
        talk.engine.release()
        assert (await first).choices


async def test_the_client_waits_as_long_as_the_engine_asked_it_to_and_succeeds() -> None:
    async with engine_by_hand() as engine, serving(config_of(engine.url)) as server, client_of(server) as client:
        create = client.with_options(max_retries=1).chat.completions.with_raw_response.create

        async def ask() -> Any:
            return await create(model=MODEL, messages=said())

        call = asyncio.create_task(ask())
        turn = await engine.turn()
        turn.send(whole(b'{"error": {"message": "slow down"}}', "429 Too Many Requests", "retry-after-ms: 1200"))
        with Watch() as watch:
            turn = await engine.turn()
        assert watch.elapsed_s > 1.1, "left to itself it comes back within 0.5 s"
        turn.send(whole(ANSWER))
        raw = await call
        assert raw.retries_taken == 1
        assert raw.parse().choices[0].message.content == "hi"


@pytest.mark.parametrize(("retries", "calls"), [(0, 1), (1, 2)])
async def test_a_failing_engine_is_an_internal_server_error_after_the_retries(retries: int, calls: int) -> None:
    async with talking(client={"max_retries": retries}) as talk:
        error = await refused(talk, openai.InternalServerError, extra_body=fake(status=500))
        assert (error.status_code, error.type) == (502, "server_error")
        assert error.request.headers["x-stainless-retry-count"] == str(retries)
        assert talk.engine.stats.requests == calls


async def test_a_retry_of_the_client_succeeds_once_the_engine_has_recovered() -> None:
    options = {"error_rate": 1.0, "fault_count": 1}
    async with talking(engine=options, client={"max_retries": 2}) as talk:
        raw = await talk.client.chat.completions.with_raw_response.create(model=MODEL, messages=said())
        assert raw.retries_taken == 1


async def test_a_bad_request_is_never_retried() -> None:
    async with talking(client={"max_retries": 5}) as talk:
        await refused(talk, openai.BadRequestError, max_tokens=0)
        assert talk.engine.stats.requests == 1


async def test_no_engine_at_all_is_an_internal_server_error_that_says_when_to_come_back() -> None:
    with nobody() as url:
        async with serving(config_of(url)) as server, client_of(server) as client:
            with pytest.raises(openai.InternalServerError) as caught:
                await client.chat.completions.create(model=MODEL, messages=said(), stream=True)
    assert (caught.value.status_code, caught.value.code) == (503, "no_healthy_backend")
    assert caught.value.response.headers["retry-after"]


async def test_an_engine_that_takes_too_long_is_an_internal_server_error() -> None:
    config = {"timeouts": {"ttft_s": 0.1}}
    async with talking(engine={"hang": "before"}, config=config) as talk:
        error = await refused(talk, openai.InternalServerError)
        assert (error.status_code, error.type, error.code) == (504, "timeout_error", "ttft_timeout")


# Failures in the middle of a stream


@pytest.mark.parametrize("how", ["rst", "fin"])
async def test_a08_an_engine_that_dies_in_a_stream_raises_after_the_tokens_it_sent(how: str) -> None:
    async with talking(engine={"die_after": 5, "die_how": how, "itl_s": 0.005}) as talk:
        stream = await talk.client.chat.completions.create(model=MODEL, messages=said(), stream=True)
        tokens = 0
        with pytest.raises(openai.APIError) as caught:
            async for chunk in stream:
                tokens += bool(chunk.choices[0].delta.content)
        assert tokens == 5
        assert caught.value.code == "upstream_died"
        assert "died" in caught.value.message or "ended" in caught.value.message


async def test_a08_the_stream_helper_raises_it_too() -> None:
    async with talking(engine={"die_after": 2}) as talk:
        with pytest.raises(openai.APIError, match="engine"):
            async with talk.client.chat.completions.stream(model=MODEL, messages=said()) as stream:
                await stream.get_final_completion()


async def test_a_stream_that_the_engine_ends_with_an_error_raises_its_words() -> None:
    error = b'data: {"error": {"message": "out of KV blocks", "code": 500}}\n\n'
    async with engine_by_hand() as engine, serving(config_of(engine.url)) as server, client_of(server) as client:
        call = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=said(), stream=True))
        turn = await engine.turn()
        turn.send(SSE_HEAD)
        turn.events(token("a"), error)
        stream = await call
        with pytest.raises(openai.APIError, match="out of KV blocks"):
            _ = [chunk async for chunk in stream]


async def test_a11_keep_alive_comments_are_sent_and_the_client_sees_tokens_only() -> None:
    often = {"sse_keepalive_s": 0.05}
    async with (
        engine_by_hand() as engine,
        serving(config_of(engine.url, server=often)) as server,
        client_of(server) as client,
    ):
        raw = client.chat.completions.with_streaming_response
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_pausing(engine))
            async with raw.create(model=MODEL, messages=said(), stream=True) as response:
                lines = [line async for line in response.iter_lines() if line]
        assert lines.count(": keepalive") >= 2
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_pausing(engine))
            stream = await client.chat.completions.create(model=MODEL, messages=said(), stream=True)
            chunks = [chunk async for chunk in stream]
        assert [chunk.choices[0].delta.content for chunk in chunks] == ["a", "b", None]


async def _pausing(engine: HandEngine) -> None:
    """A stream with a silence before its first token and another one after it."""
    turn = await engine.turn()
    turn.send(SSE_HEAD)
    for event in (token("a"), token("b")):
        await asyncio.sleep(0.13)
        turn.events(event)
    turn.events(FINISH, DONE)
    turn.end()


# Clients that give up


@pytest.mark.parametrize("stream", [False, True])
async def test_a01_a_client_that_times_out_frees_the_engine(stream: bool) -> None:
    async with talking() as talk:
        talk.engine.hold()
        with pytest.raises(openai.APITimeoutError):
            await talk.client.chat.completions.create(model=MODEL, messages=said(), stream=stream, timeout=0.4)
        assert await freed(talk.engine) < FREED_S
        (record,) = await talk.server.records()
        assert record["status"] == 499


async def test_a01_a_client_that_times_out_between_tokens_frees_the_engine() -> None:
    async with talking(engine={"hang": "mid", "hang_after": 3}) as talk:
        stream = await talk.client.chat.completions.create(model=MODEL, messages=said(), stream=True, timeout=0.5)
        with pytest.raises((openai.APITimeoutError, httpx.ReadTimeout)):  # older releases let httpx's through
            _ = [chunk async for chunk in stream]
        await stream.close()
        assert await freed(talk.engine) < FREED_S


@pytest.mark.parametrize("stream", [False, True])
async def test_a01_a02_a_cancelled_call_frees_the_engine(stream: bool) -> None:
    async with talking() as talk:
        talk.engine.hold()
        create = talk.client.chat.completions.create
        call = asyncio.create_task(create(model=MODEL, messages=said(), stream=stream))
        await talk.engine.arrived()
        call.cancel()
        assert await freed(talk.engine) < FREED_S
        assert call.cancelled()


async def test_a01_a_stream_that_is_closed_early_frees_the_engine() -> None:
    async with talking(engine={"output_tokens": 5000, "itl_s": 0.005}) as talk:
        stream = await talk.client.chat.completions.create(model=MODEL, messages=said(), stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()
        assert await freed(talk.engine) < FREED_S


async def test_a01_leaving_the_stream_helpers_block_frees_the_engine() -> None:
    async with talking(engine={"output_tokens": 5000, "itl_s": 0.005}) as talk:
        async with talk.client.chat.completions.stream(model=MODEL, messages=said()) as stream:
            await anext(aiter(stream))
        assert await freed(talk.engine) < FREED_S
        again = await talk.client.chat.completions.create(model=MODEL, messages=said(), max_tokens=2)
        assert again.usage is not None, "the client goes on with a new connection"


async def test_a_client_without_patience_retries_and_every_attempt_is_freed() -> None:
    async with talking(client={"max_retries": 1, "timeout": 0.4}) as talk:
        talk.engine.hold()
        with pytest.raises(openai.APITimeoutError):
            await talk.client.chat.completions.create(model=MODEL, messages=said())
        await talk.engine.aborted_at_least(2)
        assert talk.engine.stats.requests == 2
