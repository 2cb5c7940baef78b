"""Runs an ASGI application behind the server: everything that is not the token path."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from gateway.http import Request, Sink
from gateway.record import Record

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_FRAMING = (b"content-length", b"transfer-encoding", b"connection", b"date")


class AsgiHandler:
    """Answers through `app`, whose scope has the request's `record`."""

    def __init__(self, app: AsgiApp, scheme: str) -> None:
        self._app = app
        self._scheme = scheme

    async def __call__(self, request: Request, sink: Sink, record: Record, **known: object) -> None:
        """known: more for the scope."""
        path, _, query = request.target.partition(b"?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.0" if request.http_1_0 else "1.1",
            # The sink leaves the body out; that alone tells HEAD from GET.
            "method": "GET" if request.method == b"HEAD" else request.method.decode("ascii"),
            "scheme": self._scheme,
            "path": _unquote(path),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": request.raw_headers,
            "client": (request.client, 0) if request.client else None,
            "server": None,
            "record": record,
            **known,
        }
        answer = _Answer(request.body, sink)
        await self._app(scope, answer.receive, answer.send)


class _Answer:
    """Both directions of one ASGI exchange. Implements `Flow`."""

    def __init__(self, body: bytes, sink: Sink) -> None:
        self._body: bytes | None = body
        self._sink = sink
        self._writable = asyncio.Event()
        self._writable.set()

    def pause(self) -> None:
        self._writable.clear()

    def resume(self) -> None:
        self._writable.set()

    async def receive(self) -> Message:
        body, self._body = self._body, None
        if body is None:
            await asyncio.Event().wait()  # until the client goes, which cancels the task
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start(message)
        elif message["type"] == "http.response.body":
            self._sink.write(message.get("body", b""))
            if not message.get("more_body", False):
                self._sink.bind(None)
                self._sink.end()
            else:
                await self._writable.wait()

    def _start(self, message: Message) -> None:
        length: int | None = None
        lines = bytearray()
        for name, value in message.get("headers", ()):
            if name.lower() == b"content-length":
                length = int(value)
            if name.lower() not in _FRAMING:
                lines += b"%b: %b\r\n" % (name, value)
        self._sink.bind(self)
        self._sink.start(message["status"], bytes(lines), length)


def _unquote(path: bytes) -> str:
    from urllib.parse import unquote_to_bytes

    return unquote_to_bytes(path).decode("utf-8", errors="replace")
