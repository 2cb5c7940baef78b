"""The recorder: passes everything on, and remembers what the answer was."""

from __future__ import annotations

from collections.abc import Callable

from gateway.http import Flow
from gateway.http.recorder import Recorder
from gateway.sse import KEEPALIVE


class Client:
    """Implements `Sink`, and keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.started = self.whole = False
        self.status = 0
        self.gone = ""
        self.extra_lines = b""
        self.on_lost: Callable[[], bool] | None = None
        self.bytes_out = 0
        self.splice: Callable[[bytes], None] | None = self.told.append

    def start(self, status: int, header_lines: bytes, length_bytes: int | None = None) -> None:
        self.started = True
        self.told.append((status, header_lines, length_bytes))

    def write(self, payload: bytes, framed: bytes | None = None) -> None:
        self.bytes_out += len(payload)
        self.told.append((payload, framed))

    def end(self) -> None:
        self.told.append("end")

    def bind(self, flow: Flow | None) -> None:
        self.told.append(flow)


def test_everything_passes_and_the_gateways_own_comments_are_not_remembered() -> None:
    client = Client()
    recorder = Recorder(client)
    assert not recorder.started
    recorder.start(200, b"a: b\r\n", 7)
    assert recorder.started
    comment_first = b": an engine's comment\n\ndata: x\n\n"
    recorder.write(KEEPALIVE)
    recorder.write(comment_first, b"framed")
    recorder.write(KEEPALIVE)
    recorder.write(b"data: y\n\n")
    recorder.bind(None)
    recorder.end()
    assert recorder.body() == comment_first + b"data: y\n\n"
    assert recorder.bytes_out == client.bytes_out
    assert client.told == [
        (200, b"a: b\r\n", 7),
        (KEEPALIVE, None),
        (comment_first, b"framed"),
        (KEEPALIVE, None),
        (b"data: y\n\n", None),
        None,
        "end",
    ]


def test_chunks_are_not_spliced_past_a_recorder() -> None:
    assert Recorder(Client()).splice is None
