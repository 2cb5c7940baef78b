"""Sinks that are no client's connection."""

from __future__ import annotations

from collections.abc import Callable

from gateway.http import Flow, Sink
from gateway.sse import KEEPALIVE


class Recorder:
    """Passes an answer on and keeps a copy of its body, but for the gateway's own comments. Implements `Sink`."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._pieces: list[bytes] = []
        self.splice = None

    @property
    def extra_lines(self) -> bytes:
        return self._sink.extra_lines

    @extra_lines.setter
    def extra_lines(self, lines: bytes) -> None:
        self._sink.extra_lines = lines

    @property
    def on_lost(self) -> Callable[[], bool] | None:
        return self._sink.on_lost

    @on_lost.setter
    def on_lost(self, asked: Callable[[], bool] | None) -> None:
        self._sink.on_lost = asked

    @property
    def started(self) -> bool:
        return self._sink.started

    @property
    def status(self) -> int:
        return self._sink.status

    @property
    def whole(self) -> bool:
        return self._sink.whole

    @property
    def gone(self) -> str:
        return self._sink.gone

    @property
    def bytes_out(self) -> int:
        return self._sink.bytes_out

    def start(self, status: int, header_lines: bytes, length_bytes: int | None = None) -> None:
        self._sink.start(status, header_lines, length_bytes)

    def write(self, payload: bytes, framed: bytes | None = None) -> None:
        if payload != KEEPALIVE:
            self._pieces.append(payload)
        self._sink.write(payload, framed)

    def end(self) -> None:
        self._sink.end()

    def bind(self, flow: Flow | None) -> None:
        self._sink.bind(flow)

    def body(self) -> bytes:
        return b"".join(self._pieces)
