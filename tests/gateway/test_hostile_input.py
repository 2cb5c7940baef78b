"""What strangers send in place of names, bodies and paths: a clear refusal or an ordinary answer, never a fault of
ours, and nothing of it comes back as anything but text."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from engines.fake import FakeEngine
from tests.harness import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    Json,
    Server,
    Wire,
    config_of,
    engine_running,
    request_bytes,
    serving,
)
from tests.harness.wire import Answer

SQL = "x'; DROP TABLE keys; --"
HEADER = "x\r\nset-cookie: stolen=1\r\n\r\nHTTP/1.1 200 OK"
HTML = "<script>alert(1)</script>"
TEMPLATE = "{{7*7}}${jndi:ldap://x}%s{0}"
PATHS = "../../../../etc/passwd\x00.json"
TERMINAL = "\x1b[2J\x1b]0;owned\x07\x9b31m"
RIGHT_TO_LEFT = "\u202em"
ZERO_WIDTH = "m\u200b"
FULL_WIDTH = "\uff4d"
"""NFKC makes an `m` of it."""
COMBINED = "m\u0301"
LINES = "a\u2028b\u0085c"
TAGS = "m\U000e0041"
LONG = "A" * 100_000
TEXTS = [
    SQL,
    HEADER,
    HTML,
    TEMPLATE,
    PATHS,
    TERMINAL,
    RIGHT_TO_LEFT,
    ZERO_WIDTH,
    FULL_WIDTH,
    COMBINED,
    LINES,
    TAGS,
    LONG,
    "",
]

KEYS: list[Json] = [
    {"name": "limited", "key": "key-of-limited", "tenant": "acme", "may_name_flow": True},
    {"name": "free", "key": "key-of-free", "admin": True},
]
LIMITS = {"tokens_per_minute": 10**12, "input_tokens": 10**6, "output_tokens": 10**6, "usd_per_day": 1000}
DEEP = 100_000
_TOLD = re.compile(rb"[\x00-\x1f\x7f]")


def config(*engines: FakeEngine) -> Json:
    """Everything that looks into a request is on."""
    made = config_of(*engines, keys=KEYS, cache={"enabled": True, "store": "memory"}, pool={"max_in_flight": 8})
    variant = made["deployments"]["m"]["variants"]["v"]
    made["deployments"]["m"]["variants"]["v"] = variant | {
        "capabilities": ["tools", "vision"],
        "max_context_tokens": 10**6,
    }
    return made | {"tenants": {"acme": {"limits": LIMITS}}}


@asynccontextmanager
async def attacked() -> AsyncIterator[Server]:
    """Afterwards the log has one line for each request, and the engines have seen no line that was smuggled in."""
    async with (
        engine_running(output_tokens=1) as one,
        engine_running(output_tokens=1) as two,
        serving(config(one, two)) as server,
    ):
        yield server
        for request in (*one.requests, *two.requests):
            names = {name.lower() for name, _ in request.headers}
            assert not names & {"set-cookie", "authorization", "x-injected"}, request.headers
        for line in server.log.read_bytes().split(b"\n"):
            if line:
                assert not _TOLD.search(line), line
                assert isinstance(json.loads(line), dict)


def fault_of(answer: Answer, sent: object) -> str | None:
    """What is wrong with an answer."""
    what = f"{str(sent)[:300]!r} got {answer.status} {answer.body[:300]!r}"
    if answer.status >= 500 or answer.status < 200:
        return f"fault: {what}"
    names = [name for name, _ in answer.head.headers]
    if "set-cookie" in names or "x-injected" in names or len(set(names)) != len(names):
        return f"headers {names}: {what}"
    if answer.status == 200:
        return None
    if not answer.body:
        return None if isinstance(sent, bytes) and sent.startswith(b"HEAD") else f"no reason given: {what}"
    if answer.head.get("content-type") != "application/json":
        return f"not JSON: {what}"
    if _TOLD.search(answer.body) or len(answer.body) > 4000:
        return f"unescaped or endless: {what}"
    error = json.loads(answer.body).get("error")
    if not (isinstance(error, dict) and error.keys() == {"message", "type", "param", "code"} and error["code"]):
        return f"no error: {what}"
    return None if all(one.isprintable() for one in error["message"]) else f"unprintable: {what}"


async def each(server: Server, requests: Iterable[bytes]) -> dict[bytes, int]:
    """What became of requests on connections of their own."""
    statuses, faults = {}, []
    for request in requests:
        async with server.connected() as wire:
            answer = await answer_of(wire, request)
        statuses[request] = answer.status
        fault = fault_of(answer, request)
        if fault is not None:
            faults.append(fault)
    assert not faults, "\n".join(faults)
    return statuses


async def answer_of(wire: Wire, request: bytes) -> Answer:
    await wire.send(request)
    return await wire.answer(bodiless=request.startswith(b"HEAD"))


BOTH = pytest.mark.parametrize("key", ["key-of-limited", "key-of-free"])


def post(path: str, body: object, key: str = "key-of-free", **headers: str) -> bytes:
    return request_bytes("POST", path, body, authorization=f"Bearer {key}", **headers)


def placed(text: str) -> Iterator[tuple[str, Json]]:
    """Bodies that have the text wherever a name, or a word of OpenAI's, may stand."""
    words: Json = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    for field in ("user", "prompt_cache_key", "cache_salt", "safety_identifier", "service_tier", "tool_choice"):
        yield CHAT, words | {field: text}
    for field in ("stream", "n", "max_tokens", "max_completion_tokens", "seed", "stop", "response_format"):
        yield CHAT, words | {field: text}
    yield CHAT, words | {text: text}
    yield CHAT, words | {"messages": [{"role": text, "content": text, "name": text, "tool_call_id": text}]}
    yield CHAT, words | {"messages": [{"role": "user", "content": [{"type": text, text: text}, text]}]}
    yield CHAT, words | {"tools": [{"type": "function", "function": {"name": text, "parameters": {text: text}}}]}
    yield CHAT, words | {"stream_options": {text: text}, "metadata": {text: text}}
    yield COMPLETIONS, {"model": "m", "prompt": text, "suffix": text}
    yield COMPLETIONS, {"model": "m", "prompt": [text, text]}
    yield EMBEDDINGS, {"model": "m", "input": [text, ""]}
    yield "/tokenize", {"model": "m", "prompt": text}
    yield "/admin/explain", words | {"user": text}


@BOTH
@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:12]))
async def test_no_text_in_any_field_is_more_than_text(text: str, key: str) -> None:
    async with attacked() as server:
        await each(server, (post(path, body, key) for path, body in placed(text)))


@BOTH
async def test_a_model_that_only_looks_like_one_is_none(key: str) -> None:
    async with attacked() as server:
        statuses = await each(server, (post(CHAT, {"model": text, "messages": []}, key) for text in TEXTS))
        assert set(statuses.values()) == {404, 400}
        assert list(statuses.values()).count(400) == 1, "the empty one"
        assert (await server.get("/v1/models/m", authorization=f"Bearer {key}")).status_code == 200


@BOTH
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, EMBEDDINGS, "/tokenize", "/detokenize", "/admin/explain"])
async def test_a_body_that_is_no_sound_json_is_refused_or_passed_on_unread(path: str, key: str) -> None:
    nested = b"[" * DEEP + b"]" * DEEP
    objects = b'{"a":' * DEEP + b"1" + b"}" * DEEP
    bodies = [
        b"", b"null", b"[]", b'"m"', b"1", b"{", b"\xff\xfe", b"\xef\xbb\xbf{}", '{"model":"m"}'.encode("utf-16"),
        nested, objects, b'{"model":' + nested + b"}", b'{"model":"m","x":' + objects + b"}",
        b'{"model":"m","messages":' + nested + b',"prompt":' + nested + b',"input":' + nested + b"}",
        b'{"model":"m","messages":[{"role":"user","content":' + nested + b"}]}",
        b'{"model":"m","messages":[{"role":"user","content":[{"type":' + objects + b"}]}]}",
        b'{"model":"m","tools":' + objects + b',"response_format":' + objects + b"}",
        b'{"model":"m","stream":true,"stream_options":' + objects + b"}",
        b'{"model":"m","n":' + b"9" * 5000 + b',"max_tokens":' + b"9" * 5000 + b"}",
        b'{"model":"m","n":1e400,"max_tokens":-1e400,"seed":NaN,"top_p":Infinity}',
        b'{"model":"m","prompt":[1e400,-1,99999999999999999999],"input":[[]],"tokens":[-1]}',
        b'{"model":"\\ud800","messages":[]}', b'{"model":"m","messages":[{"role":"\\udfff\\ud800"}]}',
        b'{"model":"m","user":"\\ud83d","cache_salt":"\\ud83d"}', b'{"model":"m\\u0000","messages":[]}',
        b'{"model":"x","model":"m","MODEL":"evil","messages":[{"role":"user","content":"x"}]}',
        b'{"\\u006dodel":"m","messages":[{"role":"user","content":"x"}]}', b'{"model":"m"}garbage',
        b'{"model":"m",' + b",".join(b'"k%d":1' % number for number in range(20_000)) + b"}",
    ]  # fmt: skip
    async with attacked() as server:
        await each(server, (post(path, body, key) for body in bodies))


NAMED_IN = (
    "x_request_id", "x_session_id", "traceparent", "tracestate", "x_headrace_priority", "x_headrace_sensitivity",
    "x_gateway_inference_objective", "x_gateway_inference_fairness_id", "x_gateway_destination_endpoint",
    "cache_control", "content_type", "content_encoding", "accept", "origin", "user_agent", "x_forwarded_for",
    "x_api_key", "cookie",
)  # fmt: skip
RAW = [
    SQL.encode(), HTML.encode(), TEMPLATE.encode(), b"../../etc/passwd", RIGHT_TO_LEFT.encode(), ZERO_WIDTH.encode(),
    FULL_WIDTH.encode(), b"\xff\xfe\x80", b"a\tb", b"%0d%0aset-cookie:%20stolen=1", b"'\"`;|&$(id)", b"x" * 60_000, b"",
    b"x\r\nx-injected: 1", b"x\r\n folded: 1", b"x\nx-injected: 1", b"x\rx-injected: 1", b"x\x00y", b"\x1b[2J", b"\x7f",
]  # fmt: skip


@pytest.mark.parametrize("header", NAMED_IN)
async def test_no_value_of_any_header_is_more_than_a_value(header: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    async with attacked() as server:
        for key in ("key-of-limited", "key-of-free"):
            marked = post(CHAT, body, key, **{header: "PLACE"})
            await each(server, (marked.replace(b"PLACE", raw) for raw in RAW))


async def test_no_key_is_found_by_anything_but_itself() -> None:
    async with attacked() as server:
        shown = [raw for raw in RAW if b"\n" not in raw and b"\r" not in raw]
        shown += [
            b"key-of-free\x00",
            b"key-of-free%00",
            "key\u2010of\u2010free".encode(),
            b"KEY-OF-FREE",
            b"*",
            b"key-of-fre_",
        ]
        marked = request_bytes("POST", CHAT, {"model": "m"}, authorization="Bearer PLACE")
        statuses = await each(server, (marked.replace(b"PLACE", raw) for raw in shown))
        assert set(statuses.values()) <= {400, 401, 431}


TARGETS = [
    "/v1/../admin/pools", "/v1/%2e%2e/admin/pools", "/v1/%2e%2e%2fadmin%2fpools", "/v1/..%5cadmin", "//admin/pools",
    "/admin//pools", "/./admin/pools", "/admin/pools/", "/admin/pools;x=1", "/ADMIN/POOLS", "/%61dmin/../admin/pools",
    "/v1/models/../../../etc/passwd", "/v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/v1/models/%00", "/v1/models/m%00",
    "/v1/models/%0d%0aset-cookie:%20stolen=1", "/v1/models/" + HTML.replace(" ", "+"), "/v1/models/%ff%fe",
    "/v1/models/%F0%9F", "/v1/models/%u006d", "/v1/models/%EF%BD%8D", "/v1/models/m%E2%80%8B",
    "/v1/models/" + "a" * 10_000, "http://evil.example:99999/v1/models/x", "HTTP://x@y/v1/models/x", "/v1/models/x#/y",
    "/docs/../../etc/passwd", "/docs/%2e%2e/%2e%2e/etc/passwd", "/static/..%2f..%2fetc/passwd",
    "/metrics/../admin/pools", "http://evil.example/admin/pools", "/v1/chat/completions/../models",
    "/" + "%2f" * 3000, "/" + "../" * 3000, "/?" + "a=1&" * 3000, "/v1/models?x=%00%0d%0a",
]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE"])
async def test_no_crooked_path_leads_where_the_straight_one_does_not(method: str) -> None:
    """With no key: whatever needs one answers 401 at most."""
    async with attacked() as server:
        plain = request_bytes(method, "/v1/models/PLACE", content_length="0")
        sent = [plain.replace(b"/v1/models/PLACE", target.encode()) for target in TARGETS]
        statuses = await each(
            server, [raw.replace(b"host: gateway\r\n", b"host: gateway\r\nconnection: close\r\n") for raw in sent]
        )
        assert not [raw[:60] for raw, status in statuses.items() if status == 200]


@pytest.mark.parametrize(
    "target", ["foo", "evil.example:443", "*", "?", "ftp://x/y", "http://", "https:///x", "\\\\x\\y"]
)
async def test_a_target_that_is_no_path_is_refused(target: str) -> None:
    async with attacked() as server:
        statuses = await each(server, [request_bytes("GET", "PLACE").replace(b"PLACE", target.encode())])
        assert set(statuses.values()) <= {400, 404}


async def test_a_call_by_its_whole_url_is_a_call_and_its_host_means_nothing() -> None:
    async with attacked() as server:
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
        whole = post(CHAT, body).replace(CHAT.encode(), b"http://evil.example" + CHAT.encode())
        assert set((await each(server, [whole])).values()) == {200}


@pytest.mark.parametrize("format_", ["json", "pretty"])
async def test_a_log_line_is_one_line_and_moves_no_cursor(format_: str, tmp_path: Path) -> None:
    async with engine_running() as engine:
        made = config(engine)
        log = tmp_path / "access.log"
        made["telemetry"] = {"access_log": {"format": format_, "path": str(log)}}
        async with serving(made) as server:
            for raw in (b"/v1/models/\x1b[2J", b"/v1/models/%1b%5b2J%0a%0aforged", b"/\xc2\x9b2J", "/\u202ex".encode()):
                async with server.connected() as wire:
                    await answer_of(wire, b"GET " + raw + b" HTTP/1.1\r\nhost: x\r\n\r\n")
            await server.post(CHAT, {"model": TERMINAL, "messages": []}, authorization="Bearer key-of-free")
        written = log.read_bytes()
        assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", written), written
        assert b"\xc2\x9b" not in written
        assert b"\n\nforged" not in written
