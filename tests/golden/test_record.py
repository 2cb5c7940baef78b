"""The recorder keeps what came, as it came."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.golden.record import record
from tests.golden.scenarios import Scenario, scenarios

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
ASKED = Scenario("short-stream", "/v1/chat/completions", b'{"stream":true}')


@contextmanager
def engine(*answer: bytes) -> Iterator[str]:
    """A server that gives its one connection this answer, a send for each piece, and then closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                for piece in answer:
                    connection.sendall(piece)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def test_a_recording_holds_every_byte_and_where_each_read_ended() -> None:
    pieces = (HEAD, b"e\r\ndata: [DONE]\n\n\r\n", b"0\r\n\r\n")
    counts: list[int] = []
    with engine(*pieces) as url:
        case = record(ASKED, url, "vllm", "0", counts.append)
    assert case.raw == b"".join(pieces)
    assert case.meta.pieces[-1][0] == len(case.raw)
    assert [case.meta.method, case.meta.closed, case.body] == ["POST", True, b"data: [DONE]\n\n"]
    assert counts == list(range(1, len(case.meta.pieces) + 1))


def test_an_answer_that_breaks_off_is_not_a_recording() -> None:
    with engine(HEAD, b"e\r\ndata:") as url, pytest.raises(ConnectionError, match="short-stream"):
        record(ASKED, url, "vllm", "0", lambda _: None)


@pytest.mark.parametrize("name", ["vllm", "llamacpp"])
def test_the_names_of_recordings_are_unique(name: str) -> None:
    names = [each.name for group in ("generate", "embed", "fault") for each in scenarios(name, group)]
    assert len(names) == len(set(names))
