"""JSON in is JSON out: what the gateway does not have to change reaches the engine as it was sent (A24)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.exchange import is_error
from tests.harness import CHAT, COMPLETIONS, EMBEDDINGS, MODEL, config_of, engine_running, serving

numbers = st.one_of(
    st.integers(-(10**30), 10**30), st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([0, -0.0, 1e308])
)
texts = st.text(max_size=20) | st.sampled_from(
    ["model", "stream", "[DONE]", "\x00", "\ud83d\ude00", "\u2028", '"', "\\"]
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=25,
)
OURS = ("model", "stream", "stream_options")
fields = st.dictionaries(texts.filter(lambda name: name.lower() not in OURS), values, max_size=6)
options = st.none() | st.fixed_dictionaries({}, optional={"include_usage": st.booleans() | st.none(), "x": values})
spaces = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\r\n")])


def sent(body: dict[str, Any], separators: tuple[str, str], ascii_only: bool) -> bytes:
    return json.dumps(body, separators=separators, ensure_ascii=ascii_only).encode("utf-8", "replace")


class Talk:
    """One client and what its engine, which serves under a name of its own, got last."""

    def __init__(self, client: httpx.AsyncClient, loop: asyncio.AbstractEventLoop, engine: Any) -> None:
        self._client, self._loop, self._engine = client, loop, engine

    def post(self, path: str, body: bytes) -> tuple[httpx.Response, list[bytes]]:
        return asyncio.run_coroutine_threadsafe(self._post(path, body), self._loop).result(20)

    async def _post(self, path: str, body: bytes) -> tuple[httpx.Response, list[bytes]]:
        self._engine.state.log.clear()
        answer = await self._client.post(path, content=body)
        return answer, [request.body for request in self._engine.requests]


def check(talk: Talk, path: str, body: dict[str, Any], raw: bytes, engine_model: str) -> None:
    """The engine gets `body` but for its own name of the model and, in a stream, usage asked for."""
    answer, bodies = talk.post(path, raw)
    assert answer.status_code < 500, answer.text
    assert answer.status_code < 400 or is_error(answer.content)
    expected = body | {"model": engine_model}
    streams = body.get("stream") and path != EMBEDDINGS
    if streams and not (body.get("stream_options") or {}).get("include_usage"):
        expected["stream_options"] = (body.get("stream_options") or {}) | {"include_usage": True}
    (got,) = bodies
    assert repr(json.loads(got)) == repr({name: expected[name] for name in json.loads(got)})
    assert set(json.loads(got)) == set(expected)
    one_model = b"\\u" not in raw and raw.lower().count(b'"model"') == 1
    if engine_model == MODEL and expected == body and one_model:
        assert got == raw


@pytest.mark.parametrize("engine_model", [MODEL, "org/its own näme"])
async def test_a24_json_in_is_json_out_but_for_the_documented_fields(engine_model: str) -> None:
    async with (
        engine_running(models=(engine_model,), output_tokens=1) as engine,
        serving(config_of(engine, model=engine_model)) as server,
        server.client() as client,
    ):
        talk = Talk(client, asyncio.get_running_loop(), engine)

        @settings(max_examples=250, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(fields, st.sampled_from([CHAT, COMPLETIONS, EMBEDDINGS]), st.sampled_from([None, False, True]), options,
               spaces, st.booleans())  # fmt: skip
        def run(
            more: dict[str, Any], path: str, stream: bool | None, given_options: Any, gaps: tuple[str, str], plain: bool
        ) -> None:
            needed: dict[str, dict[str, Any]] = {
                CHAT: {"messages": [{"role": "user", "content": "x"}]},
                COMPLETIONS: {"prompt": "x"},
            }
            body: dict[str, Any] = more | needed.get(path, {"input": "x"}) | {"model": MODEL, "stream": stream}
            if given_options is not None:
                body["stream_options"] = given_options
            raw = sent(body, gaps, plain)
            check(talk, path, json.loads(raw), raw, engine_model)

        await asyncio.to_thread(run)


@pytest.mark.parametrize(
    "value",
    [
        "[" * 200 + "]" * 200,
        '{"a":' * 200 + "1" + "}" * 200,
        json.dumps("x" * 2_000_000),
        "[" + ",".join(["0.1"] * 200_000) + "]",
        "123456789012345678901234567890.000000000000000000001",
        "1E-400",
        '"\\u0000\\/\\u00e9"',
        '{"a":1,"a":2}',
        "-0",
    ],
    ids=["deep lists", "deep objects", "long text", "many numbers", "long number", "small number",
         "escapes", "a key twice", "minus nought"],
)  # fmt: skip
@pytest.mark.parametrize("engine_model", [MODEL, "other"])
async def test_a24_odd_values_pass_byte_for_byte(value: str, engine_model: str) -> None:
    raw = f'{{"model": "m", "input": "x", "odd": {value}}}'.encode()
    async with (
        engine_running(models=(engine_model,)) as engine,
        serving(config_of(engine, model=engine_model)) as server,
    ):
        answer = await server.post(EMBEDDINGS, raw)
        assert answer.status_code in (200, 400), answer.text
        (request,) = engine.requests
        assert value.encode() in request.body


@pytest.mark.parametrize("depth", [1_000, 100_000, 1_000_000])
async def test_json_nested_without_end_is_passed_or_refused_and_never_a_fault(depth: int) -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        for opened in ('{"a":', "["):
            raw = f'{{"model":"m","input":"x","odd":{opened * depth}'.encode()
            answer = await server.post(EMBEDDINGS, raw)
            assert answer.status_code == 400
            assert is_error(answer.content)
        assert not engine.requests


async def test_half_a_surrogate_pair_is_no_text_and_is_refused() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        answer = await server.post(EMBEDDINGS, b'{"model": "m", "input": "x", "odd": "\\ud800"}')
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "invalid_json"
        assert not engine.requests
