"""Bytes to the gateway, and what came of them, read without trust."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from engines.fake import FakeEngine
from tests.fuzz.reader import End, Message, requests_in
from tests.harness import Server, Wire

BOUND_S = 8.0
"""A connection that has neither answered nor closed after this long hangs."""
CALLS = {
    prefix + path: path if path in ("/tokenize", "/detokenize") else "/v1" + path
    for prefix in ("", "/v1")
    for path in ("/chat/completions", "/completions", "/embeddings", "/tokenize", "/detokenize")
}
"""The paths of model calls, and where the engine gets them."""
TIMEOUTS = {"header_timeout_s": 1.0, "body_timeout_s": 1.0}

_HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Za-z' -]*\r\n((?:[a-z0-9-]+: [^\r\n\0]*\r\n)*)\r\n")
_ORIGIN = re.compile(r"(?i)https?://[^/?#]+")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Outcome:
    """closed: the gateway ended the connection. rest: what came after whole answers."""

    sent: bytes
    answers: list[Answer] = field(default_factory=list)
    rest: bytes = b""
    closed: bool = False
    hung: bool = False

    @property
    def statuses(self) -> list[int]:
        return [answer.status for answer in self.answers]


def answers_in(data: bytes, methods: Sequence[bytes] = (), *, closed: bool = False) -> tuple[list[Answer], bytes]:
    """The whole answers to requests with these methods, interim ones left out, and the rest.

    What is no request may all the same begin with HEAD, and its answer, the last one, be without a body.
    """
    answers: list[Answer] = []
    while (match := _HEAD.match(data)) is not None:
        headers = dict(line.split(": ", 1) for line in match[2].decode("latin-1").split("\r\n") if line)
        after = data[match.end() :]
        status = int(match[1])
        if status >= 200:
            head_only = len(answers) < len(methods) and methods[len(answers)] == b"HEAD"
            head_only = head_only or (closed and not after and len(answers) == len(methods))
            found = (b"", after) if head_only else _body(headers, after)
            if found is None:
                break
            body, after = found
            answers.append(Answer(status, headers, body))
        data = after
    return answers, data


def _body(headers: dict[str, str], data: bytes) -> tuple[bytes, bytes] | None:
    if "content-length" in headers:
        length = int(headers["content-length"])
        return (data[:length], data[length:]) if len(data) >= length else None
    if "transfer-encoding" not in headers:
        assert headers["connection"] == "close"
        return data, b""
    body = b""
    while (line := re.match(rb"([0-9a-f]+)\r\n", data)) is not None:
        size = int(line[1], 16)
        piece, data = data[line.end() : line.end() + size], data[line.end() + size :]
        if not data.startswith(b"\r\n"):
            return None
        body, data = body + piece, data[2:]
        if size == 0:
            return body, data
    return None


async def exchange(server: Server, *pieces: bytes, eof: bool = False) -> Outcome:
    """Send the pieces, read until all is answered or the gateway closes, then hang up.

    eof: end the sending side where the bytes end within a request; otherwise wait for what the gateway makes of it.
    """
    sent = b"".join(pieces)
    messages, end = requests_in(sent)
    outcome = Outcome(sent)
    async with server.connected() as wire:
        try:
            async with asyncio.timeout(BOUND_S):
                await _send(wire, pieces)
                await _read(wire, outcome, messages, end, eof)
        except TimeoutError:
            outcome.hung = True
        except ConnectionError:
            outcome.closed = True
    return outcome


async def _send(wire: Wire, pieces: Sequence[bytes]) -> None:
    for piece in pieces:
        wire.writer.write(piece)
        await wire.writer.drain()
        if len(pieces) > 1:
            await asyncio.sleep(0)


async def _read(wire: Wire, outcome: Outcome, messages: list[Message], end: End, eof: bool) -> None:
    methods = [message.method for message in messages]
    data, ended = b"", False
    while True:
        outcome.answers, outcome.rest = answers_in(data, methods)
        answered = len(outcome.answers) >= len(messages)
        if not ended and answered and (end is End.NOTHING or (eof and end is End.CUT)):
            wire.writer.write_eof()
            ended = True
        piece = await wire.reader.read(65536)
        if not piece:
            outcome.closed = not ended
            outcome.answers, outcome.rest = answers_in(data, methods, closed=True)
            return
        data += piece


# What must hold, whatever was sent


def check(outcome: Outcome) -> None:
    """Raises AssertionError: what was answered is not what was asked, one answer for each request at most."""
    messages, end = requests_in(outcome.sent)
    answers = outcome.answers
    assert not outcome.hung, "neither an answer nor an end"
    assert not outcome.rest or outcome.closed, "more than an answer"
    assert len(answers) <= len(messages) + (end is not End.NOTHING), "more answers than requests"
    for answer in answers:
        assert answer.status < 500, "a fault of our own"
        assert answer.status < 400 or not answer.body or is_error(answer.body), "not the shape of errors"
    refused = [answer.status in (400, 408, 413, 431) for answer in answers[len(messages) :]]
    assert all(refused), "what is no request was served"
    if len(answers) < len(messages) and not any(m.last for m in messages[: len(answers)]):
        assert outcome.closed
        assert answers, "closed without an answer"
        assert answers[-1].status in (400, 408, 413, 431), "a whole request has no answer"


def is_error(body: bytes) -> bool:
    """Whether a body has the shape that every error has."""
    found = json.loads(body)
    if set(found) != {"error"} or set(found["error"]) != {"message", "type", "param", "code"}:
        return False
    message, kind, param, code = (found["error"][name] for name in ("message", "type", "param", "code"))
    texts = all(value is None or isinstance(value, str) for value in (param, code))
    return texts and isinstance(message, str) and isinstance(kind, str) and bool(message) and bool(kind)


def check_engine(seen: Iterable[tuple[str, bytes]], outcomes: Iterable[Outcome]) -> None:
    """Raises AssertionError: the engine got other calls, or other bodies, than whole requests of clients."""
    certain: Counter[str] = Counter()
    possible: Counter[str] = Counter()
    for outcome in outcomes:
        messages, _ = requests_in(outcome.sent)
        for number, message in enumerate(messages):
            path = _ORIGIN.sub("", message.target.decode()).partition("?")[0]
            if message.method == b"POST" and path in CALLS:
                call = _canonical(CALLS[path], message.body)
                possible[call] += 1
                certain[call] += number < len(outcome.answers) and outcome.answers[number].status == 200
    got = Counter(_canonical(path, body) for path, body in seen)
    assert not got - possible, f"at the engine, and sent by nobody: {list((got - possible).elements())[:3]}"
    assert not certain - got, f"answered, and never at the engine: {list((certain - got).elements())[:3]}"


def _canonical(path: str, body: bytes) -> str:
    """A call but for what the gateway may change: the order of keys, other spellings of `model`, usage asked for."""
    try:
        fields = json.loads(body.decode("latin-1"))  # that a body is no UTF-8 the engine may say
    except ValueError:
        return f"{path} {body!r}"
    if isinstance(fields, dict):
        fields = {k: v for k, v in fields.items() if k == "model" or k.lower() != "model"}
        if fields.get("stream"):
            fields["stream_options"] = dict(fields.get("stream_options") or {}, include_usage=True)
    return f"{path} {json.dumps(fields, sort_keys=True)}"


class Seen:
    """Takes what an engine has got out of its log, which holds the last thousand only."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self.calls: list[tuple[str, bytes]] = []

    def take(self) -> None:
        for request in self._engine.requests:
            names = {name for name, _ in request.headers}
            assert names <= ALLOWED, names - ALLOWED
            assert request.method == "POST"
            self.calls.append((request.path, request.body))
        self._engine.state.log.clear()


ALLOWED = {"host", "content-type", "content-length", "x-request-id", "traceparent", "accept", "user-agent"}
"""Header names that an engine may get."""
