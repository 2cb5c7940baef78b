"""Bedrock and SageMaker behind the gateway, from an `openai` client to the wire (A01, A08, A09, A24, A25)."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from engines.adapter import AdapterEngine
from engines.aws.bedrock import BedrockTranslator
from engines.base import EngineRequest, EngineTimeout, Operation, Timeouts
from engines.http import Endpoint
from engines.outbox import Outbox
from gateway.config import EngineOptions, Pool
from gateway.config.aws_checks import aws_engine
from gateway.config.aws_options import AwsOptions
from gateway.config.problems import Finding
from gateway.engine_kinds import make_engine
from gateway.kinds.aws import signer_for
from tests.engines.aws.wire import ACCESS_KEY, HEAD, REGION, SECRET_KEY, event, exception, part, signed_by
from tests.engines.server import engine_server
from tests.harness import (
    DONE,
    FINISH,
    MODEL,
    HandEngine,
    Json,
    Server,
    Turn,
    config_of,
    engine_by_hand,
    framed,
    serving,
    streamed,
    token,
    whole,
)

SESSION_TOKEN = "session-token-of-a-role"
BEDROCK, SAGEMAKER = "anthropic.claude-v9:0", "llama-endpoint"
ASKED = cast(list[ChatCompletionMessageParam], [{"role": "user", "content": "hello"}])
USAGE = {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}
START = event("messageStart", role="assistant")
HELLO = event("contentBlockDelta", contentBlockIndex=0, delta={"text": "Hal"})
AGAIN = event("contentBlockDelta", contentBlockIndex=0, delta={"text": "lö"})
STOP = event("messageStop", stopReason="end_turn") + event("metadata", usage=USAGE, metrics={"latencyMs": 1})
ANSWER = {
    "output": {"message": {"role": "assistant", "content": [{"text": "Hallö"}]}},
    "stopReason": "end_turn",
    "usage": USAGE,
    "metrics": {"latencyMs": 1},
}


@pytest.fixture(autouse=True)
def no_proxy_stands_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


def aws(kind: str, **fields: Any) -> Json:
    keys = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY, "session_token": SESSION_TOKEN}
    return {"kind": kind, "aws": {"region": REGION, **keys}, **fields}


@asynccontextmanager
async def clouds(
    kind: str = "bedrock", count: int = 1, **engine: Any
) -> AsyncIterator[tuple[list[HandEngine], Server, openai.AsyncOpenAI]]:
    """`count` endpoints that the test plays, the gateway before them, and a client of the gateway."""
    model = BEDROCK if kind == "bedrock" else SAGEMAKER
    async with engine_by_hand() as one, engine_by_hand() as two:
        peers = [one, two][:count]
        urls = [peer.url for peer in peers]
        config = config_of(*urls, engine=aws(kind) | engine, model=model, policy="round_robin", retry_share=1.0)
        async with (
            serving(config) as server,
            openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0, timeout=20.0) as client,
        ):
            yield peers, server, client


async def next_turn(*peers: HandEngine) -> Turn:
    """The next request, whichever peer gets it."""
    turns = [asyncio.create_task(peer.turn()) for peer in peers]
    done, others = await asyncio.wait(turns, return_when=asyncio.FIRST_COMPLETED)
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    return done.pop().result()


def refusal(status: str, name: str, message: str) -> bytes:
    return whole(json.dumps({"message": message}).encode(), status, f"x-amzn-errortype: {name}:http://internal/")


# Bedrock


async def test_a_chat_goes_to_converse_signed_and_comes_back() -> None:
    async with clouds() as ((peer,), server, client):
        asking = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=ASKED, max_tokens=7))
        turn = await peer.turn()
        assert turn.head.startswith("POST /model/anthropic.claude-v9%3A0/converse HTTP/1.1")
        assert signed_by(turn.head, turn.body, "bedrock", SESSION_TOKEN)
        assert turn.json == {
            "messages": [{"role": "user", "content": [{"text": "hello"}]}],
            "inferenceConfig": {"maxTokens": 7},
        }
        turn.send(whole(json.dumps(ANSWER).encode()))
        answer = await asking
        assert answer.choices[0].message.content == "Hallö"
        assert answer.usage is not None and answer.usage.total_tokens == 5
        (record,) = await server.records()
        assert (record["tokens_in"], record["tokens_out"], record["finish_reason"]) == (3, 2, "stop")


async def test_a_stream_comes_through_though_every_byte_comes_alone() -> None:
    async with clouds() as ((peer,), _, client):
        asking = asyncio.create_task(
            client.chat.completions.create(
                model=MODEL, messages=ASKED, stream=True, stream_options={"include_usage": True}
            )
        )
        turn = await peer.turn()
        assert turn.head.startswith("POST /model/anthropic.claude-v9%3A0/converse-stream HTTP/1.1")
        assert signed_by(turn.head, turn.body, "bedrock", SESSION_TOKEN)
        turn.send(HEAD, *(framed(bytes([byte])) for byte in START + HELLO + AGAIN + STOP))
        turn.end()
        found = [chunk async for chunk in await asking]
        assert "".join(c.delta.content or "" for chunk in found for c in chunk.choices) == "Hallö"
        assert found[-2].choices[0].finish_reason == "stop"
        assert found[-1].usage is not None and found[-1].usage.prompt_tokens == 3


async def test_usage_that_was_not_asked_for_is_counted_and_not_shown() -> None:
    async with clouds() as ((peer,), server, _), server.asking(streamed()) as wire:
        turn = await peer.turn()
        turn.send(HEAD, framed(START + HELLO + STOP))
        turn.end()
        await wire.read_head()
        body = await wire.read_body()
        assert b"usage" not in body and body.endswith(DONE)
        (record,) = await server.records()
        assert (record["tokens_in"], record["tokens_out"]) == (3, 2)


async def test_a_tool_is_called_and_its_result_is_told() -> None:
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    use = event("contentBlockStart", contentBlockIndex=1, start={"toolUse": {"toolUseId": "c1", "name": "weather"}})
    pieces = [event("contentBlockDelta", contentBlockIndex=1, delta={"toolUse": {"input": t}}) for t in ('{"a"', ":1}")]
    async with clouds() as ((peer,), _, client):

        async def ask() -> Any:
            async with client.chat.completions.stream(model=MODEL, messages=ASKED, tools=tools) as stream:
                return await stream.get_final_completion()

        asking = asyncio.create_task(ask())
        turn = await peer.turn()
        turn.send(HEAD, *map(framed, [START, use, *pieces, event("messageStop", stopReason="tool_use")]))
        turn.end()
        message = (await asking).choices[0].message
        assert (message.tool_calls[0].function.name, message.tool_calls[0].function.arguments) == ("weather", '{"a":1}')
        told: Any = [
            *ASKED,
            {"role": "assistant", "tool_calls": [call.model_dump() for call in message.tool_calls]},
            {"role": "tool", "tool_call_id": "c1", "content": "sun"},
        ]
        again = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=told, tools=tools))
        turn = await peer.turn()
        result = {"toolResult": {"toolUseId": "c1", "content": [{"text": "sun"}]}}
        assert turn.json["messages"][2] == {"role": "user", "content": [result]}
        turn.send(whole(json.dumps(ANSWER).encode()))
        assert (await again).choices[0].message.content == "Hallö"


async def test_a_throttled_endpoint_leaves_the_answer_to_another() -> None:
    async with clouds(count=2) as (peers, _, client):
        asking = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=ASKED))
        (await next_turn(*peers)).send(refusal("429 Too Many Requests", "ThrottlingException", "slow down"))
        (await next_turn(*peers)).send(whole(json.dumps(ANSWER).encode()))
        assert (await asking).choices[0].message.content == "Hallö"


@pytest.mark.parametrize(
    ("status", "name", "message", "error", "code"),
    [
        ("429 x", "ThrottlingException", "slow down", openai.RateLimitError, None),
        ("429 x", "ModelNotReadyException", "loading", openai.InternalServerError, "server_is_overloaded"),
        ("400 x", "ServiceQuotaExceededException", "quota", openai.InternalServerError, "server_is_overloaded"),
        ("400 x", "ValidationException", "bad temperature", openai.BadRequestError, None),
        (
            "400 x",
            "ValidationException",
            "Input is too long for requested model.",
            openai.BadRequestError,
            "context_length_exceeded",
        ),
        ("403 x", "AccessDeniedException", "you may not", openai.InternalServerError, "upstream_auth"),
        ("404 x", "ResourceNotFoundException", "gone", openai.InternalServerError, "upstream_model_not_found"),
        ("500 x", "InternalServerException", "oh", openai.InternalServerError, None),
    ],
)
async def test_a_refusal_is_what_the_client_knows(
    status: str, name: str, message: str, error: type[openai.APIStatusError], code: str | None
) -> None:
    async with clouds() as ((peer,), _, client):
        asking = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=ASKED))
        (await peer.turn()).send(refusal(status, name, message))
        with pytest.raises(error) as told:
            await asking
        assert code is None or told.value.code == code


async def test_an_exception_before_the_first_token_leaves_the_answer_to_another() -> None:
    async with clouds(count=2) as (peers, _, client):
        asking = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=ASKED, stream=True))
        turn = await next_turn(*peers)
        turn.send(HEAD, framed(exception("throttlingException", message="slow down")))
        turn.end()
        turn = await next_turn(*peers)
        turn.send(HEAD, framed(START + HELLO + STOP))
        turn.end()
        assert [c.choices[0].delta.content for c in [one async for one in await asking]] == ["", "Hal", None]


async def test_an_exception_after_the_first_token_is_an_error_and_no_end() -> None:
    """A08."""
    async with clouds() as ((peer,), server, _), server.asking(streamed()) as wire:
        turn = await peer.turn()
        turn.send(HEAD, framed(START + HELLO), framed(exception("modelStreamErrorException", message="it died")))
        await wire.read_head()
        body = await wire.read_body()
        assert b"Hal" in body and DONE not in body
        error = json.loads(body.rpartition(b"data: ")[2])["error"]
        assert error["type"] == "server_error" and "it died" in error["message"]
        await asyncio.wait_for(turn.gone.wait(), 5)


@pytest.mark.parametrize("end", ["cut", "early", "changed"])
async def test_a_stream_that_breaks_off_is_an_error_and_no_end(end: str) -> None:
    """A08."""
    async with clouds() as ((peer,), _, client):
        asking = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=ASKED, stream=True))
        turn = await peer.turn()
        turn.send(HEAD, framed(START + HELLO))
        stream = await asking
        if end == "changed":
            turn.send(framed(AGAIN[:-1] + bytes([AGAIN[-1] ^ 1])))
        elif end == "cut":
            turn.send(framed(AGAIN[:-1]))
        turn.end()
        with pytest.raises(openai.APIError):
            async for _ in stream:
                pass


@pytest.mark.parametrize("kind", ["bedrock", "sagemaker"])
@pytest.mark.parametrize("begun", [False, True])
async def test_a_client_that_hangs_up_frees_the_endpoint(kind: str, begun: bool) -> None:
    """A01."""
    first = START + HELLO if kind == "bedrock" else part(token("a"))
    async with clouds(kind) as ((peer,), server, _), server.asking(streamed()) as wire:
        turn = await peer.turn()
        if begun:
            turn.send(HEAD, framed(first))
            await wire.read_head()
            await wire.read_chunk()
        wire.reset()
        await asyncio.wait_for(turn.gone.wait(), 0.25)


async def test_what_bedrock_cannot_say_is_refused_before_anything_is_sent() -> None:
    async with clouds() as ((peer,), _, client):
        with pytest.raises(openai.BadRequestError) as error:
            await client.chat.completions.create(model=MODEL, messages=ASKED, n=2)
        assert (error.value.param, error.value.code) == ("n", "unsupported_parameter")
        with pytest.raises(openai.BadRequestError) as error:
            await client.completions.create(model=MODEL, prompt="x")
        assert error.value.code == "unsupported_operation"
        assert peer.waiting == 0


async def test_an_api_key_is_sent_as_it_is_and_nothing_is_signed() -> None:
    async with clouds(api_key="bedrock-api-key", aws={}) as ((peer,), _, client):
        asking = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=ASKED))
        turn = await peer.turn()
        assert turn.headers["authorization"] == "Bearer bedrock-api-key"
        assert "x-amz-date" not in turn.headers
        turn.send(whole(json.dumps(ANSWER).encode()))
        await asking


async def test_embeddings_are_got_by_invoke_model() -> None:
    async with engine_by_hand() as peer:
        config = config_of(peer.url, engine=aws("bedrock"), model="amazon.titan-embed-text-v2:0")
        async with (
            serving(config) as server,
            openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0) as client,
        ):
            asking = asyncio.create_task(client.embeddings.create(model=MODEL, input="hello"))
            turn = await peer.turn()
            assert signed_by(turn.head, turn.body, "bedrock", SESSION_TOKEN)
            assert turn.json == {"inputText": "hello"}
            turn.send(whole(b'{"embedding": [0.5, -2], "inputTextTokenCount": 3}'))
            answer = await asking
            assert (answer.data[0].embedding, answer.usage.prompt_tokens) == ([0.5, -2.0], 3)


async def test_without_credentials_nothing_is_sent_and_no_secret_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A25."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    async with clouds(aws={"region": REGION}) as ((peer,), _, client):
        with pytest.raises(openai.InternalServerError) as error:
            await client.chat.completions.create(model=MODEL, messages=ASKED)
        assert error.value.code == "no_healthy_backend"
        assert peer.waiting == 0


async def test_the_secrets_never_show(caplog: pytest.LogCaptureFixture) -> None:
    """A25."""
    async with clouds() as ((peer,), server, _):
        asking = asyncio.create_task(server.post("/v1/chat/completions", {"model": MODEL, "messages": ASKED}))
        (await peer.turn()).send(refusal("400 x", "ValidationException", f"{SECRET_KEY} {SESSION_TOKEN}"))
        answer = await asking
        await server.records()
        shown = answer.text + server.log.read_text() + caplog.text
        assert answer.status_code == 400 and SECRET_KEY not in shown and SESSION_TOKEN not in shown


# SageMaker


async def test_a_chat_goes_to_the_endpoint_signed_and_comes_back() -> None:
    async with clouds("sagemaker") as ((peer,), _, client):
        asking = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=ASKED, seed=4))
        turn = await peer.turn()
        assert turn.head.startswith("POST /endpoints/llama-endpoint/invocations HTTP/1.1")
        assert signed_by(turn.head, turn.body, "sagemaker", SESSION_TOKEN)
        assert turn.json == {"messages": ASKED, "seed": 4}
        choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
        turn.send(whole(json.dumps({"choices": [choice], "model": "inner"}).encode()))
        assert (await asking).choices[0].message.content == "hi"


async def test_payload_parts_cut_anywhere_are_a_stream_again() -> None:
    events = token("Hal") + token("lö") + FINISH + DONE
    async with clouds("sagemaker") as ((peer,), server, _), server.asking(streamed()) as wire:
        turn = await peer.turn()
        assert turn.head.startswith("POST /endpoints/llama-endpoint/invocations-response-stream HTTP/1.1")
        assert signed_by(turn.head, turn.body, "sagemaker", SESSION_TOKEN)
        frames = b"".join(part(events[at : at + 11]) for at in range(0, len(events), 11))
        turn.send(HEAD, *(framed(frames[at : at + 13]) for at in range(0, len(frames), 13)))
        turn.end()
        await wire.read_head()
        assert await wire.read_body() == events


async def test_an_error_after_a_200_never_follows_half_an_event() -> None:
    """A08."""
    async with clouds("sagemaker") as ((peer,), server, _), server.asking(streamed()) as wire:
        turn = await peer.turn()
        half = token("b")[:20]
        turn.send(HEAD, framed(part(token("a") + half) + exception("ModelStreamError", Message="it broke")))
        await wire.read_head()
        body = await wire.read_body()
        assert body.startswith(token("a")) and half not in body.removeprefix(token("a"))
        assert "it broke" in json.loads(body.removeprefix(token("a")).removeprefix(b"data: "))["error"]["message"]


async def test_what_the_container_refuses_is_told_in_its_words() -> None:
    """A09."""
    own = {"error": {"message": "This model's maximum context length is 4096 tokens.", "code": 400}}
    told = {"ErrorCode": "CLIENT_ERROR_FROM_MODEL", "OriginalStatusCode": 400, "OriginalMessage": json.dumps(own)}
    async with clouds("sagemaker") as ((peer,), _, client):
        asking = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=ASKED))
        (await peer.turn()).send(whole(json.dumps(told).encode(), "424 Failed", "x-amzn-errortype: ModelError"))
        with pytest.raises(openai.BadRequestError) as error:
            await asking
        assert error.value.code == "context_length_exceeded"


# Making and checking


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("https://bedrock-runtime.us-east-1.amazonaws.com", "us-east-1"),
        ("https://bedrock-runtime-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("https://bedrock-runtime.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("https://runtime.sagemaker.ap-southeast-2.amazonaws.com", "ap-southeast-2"),
        ("https://vpce-0a.bedrock-runtime.eu-central-1.vpce.amazonaws.com", "eu-central-1"),
        ("https://bedrock-runtime.eu-west-3.api.aws", "eu-west-3"),
        ("https://proxy.internal", None),
    ],
)
def test_the_region_stands_in_the_host(url: str, region: str | None) -> None:
    assert AwsOptions().region_for(url) == region
    assert AwsOptions(region="mx-central-1").region_for(url) == "mx-central-1"


def test_an_engine_without_region_cannot_be_made() -> None:
    with pytest.raises(ValueError, match=r"engine\.aws\.region"):
        make_engine(EngineOptions(kind="sagemaker"), "r", "https://proxy.internal", Outbox())


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "engines.aws.sigv4", None)
    with pytest.raises(ImportError, match=r"headrace\[aws\]"):
        signer_for(AwsOptions(region=REGION), "https://h", "bedrock")


def findings(site: str = "cloud", **engine: Any) -> list[Finding]:
    tree = {"engine": {"kind": "bedrock"} | engine, "urls": ["https://proxy.internal"], "site": site}
    return list(aws_engine(Pool.model_validate(tree), ("pools", "p")))


@pytest.mark.parametrize(
    ("engine", "where"),
    [
        ({}, [("urls", 0)]),
        ({"api_key": "k"}, []),
        ({"kind": "sagemaker", "api_key": "k"}, [("engine", "api_key"), ("urls", 0)]),
        ({"kind": "vllm", "aws": {"region": REGION}}, [("engine", "aws")]),
        ({"kind": "vllm"}, []),
        ({"aws": {"region": REGION}}, []),
        ({"aws": {"region": REGION, "profile": "p"}}, []),
        ({"aws": {"region": REGION, "access_key_id": "a"}}, [("engine", "aws")]),
        ({"aws": {"region": REGION, "session_token": "a"}}, [("engine", "aws")]),
        (
            {"aws": {"region": REGION, "profile": "p", "access_key_id": "a", "secret_access_key": "b"}},
            [("engine", "aws", "profile")],
        ),
    ],
)
def test_settings_that_contradict_each_other_are_found(engine: Json, where: list[tuple[str | int, ...]]) -> None:
    assert [found.path[2:] for found in findings(**engine)] == where


def test_a_cloud_that_is_said_to_stand_on_premise_is_warned_of() -> None:
    (found,) = findings("on-premise", api_key="k")
    assert found.severity == "warning" and "site: cloud" in found.hint


def test_the_extra_is_missed_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (found,) = findings(aws={"region": REGION})
    assert "botocore" in found.message and "headrace[aws]" in found.hint


@pytest.mark.parametrize(("status", "healthy"), [("403 Forbidden", True), ("503 x", False)])
async def test_an_endpoint_that_answers_at_all_is_healthy(status: str, healthy: bool) -> None:
    async def script(peer: Any) -> None:
        assert (await peer.request()).startswith(b"GET / HTTP/1.1")
        await peer.send(whole(b"{}", status))
        await peer.closed()

    async with engine_server(script) as url:
        engine = make_engine(EngineOptions.model_validate(aws("bedrock")), "r", url, Outbox())
        assert await engine.healthy() is healthy
        await engine.aclose()
    assert not await engine.healthy()


async def test_credentials_that_do_not_come_are_not_waited_for_any_longer_than_a_connection() -> None:
    class Slow:
        async def headers(self, *_: object) -> dict[str, str]:
            await asyncio.Event().wait()
            return {}

    engine = AdapterEngine(Endpoint("r", "http://127.0.0.1:9"), BedrockTranslator(), Slow())
    body = json.dumps({"model": BEDROCK, "messages": ASKED}).encode()
    with pytest.raises(EngineTimeout, match=r"no credentials within connect timeout of 0\.05 s") as error:
        await engine.send(EngineRequest(Operation.CHAT, body), Timeouts(connect_s=0.05))
    assert not error.value.sent
