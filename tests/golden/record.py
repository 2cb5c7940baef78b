"""Record golden transcripts from a running engine: `python -m tests.golden.record --help`."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from tests.golden.loader import Case, Meta, save
from tests.golden.scenarios import Scenario, scenarios

LINGER_S = 0.3
"""How long a complete answer is watched for the engine closing the connection."""

ANSWER_S = 300.0
UNDER_WAY_PIECES = 4
"""Reads after which a stream has given its first tokens."""


def main() -> None:
    args = _arguments()
    for scenario in scenarios(args.engine, args.group):
        if args.only and scenario.name not in args.only:
            continue
        kill = args.kill if scenario.kills else None
        case = record(scenario, args.url, args.engine, args.version, _killer(kill))
        save(case)
        print(f"{case.status} {len(case.raw):6} bytes {len(case.meta.pieces):3} pieces  {scenario.name}", flush=True)


def record(scenario: Scenario, url: str, engine: str, version: str, on_piece: Callable[[int], None]) -> Case:
    """Send the request of `scenario` (and its crowd) to the engine at `url`, and keep every byte of the answer.

    Raises:
        TimeoutError: the answer is not complete after ANSWER_S.
        ConnectionError: the engine closed the connection before the answer was complete.
    """
    with _crowd(scenario, url) if scenario.crowd else contextlib.nullcontext():
        raw, pieces, closed = _ask(scenario, url, on_piece)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    method = "POST" if scenario.body else "GET"
    meta = Meta(engine, version, method, scenario.path, today, closed, pieces)
    return Case(scenario.name, meta, scenario.body, raw)


@contextlib.contextmanager
def _crowd(scenario: Scenario, url: str) -> Iterator[None]:
    """The same request under way beside the recorded one: its first tokens are there."""
    under_way = threading.Event()

    def on_piece(count: int) -> None:
        if count == UNDER_WAY_PIECES:
            under_way.set()

    thread = threading.Thread(target=_ask, args=(scenario, url, on_piece))
    thread.start()
    under_way.wait(ANSWER_S)
    yield
    thread.join()


def _ask(scenario: Scenario, url: str, on_piece: Callable[[int], None]) -> tuple[bytes, list[tuple[int, float]], bool]:
    address = urlsplit(url)
    raw, pieces = b"", list[tuple[int, float]]()
    with socket.create_connection((address.hostname, address.port), timeout=ANSWER_S) as connection:
        connection.sendall(_request(scenario))
        sent = time.monotonic()
        while not _complete(raw):
            if not (data := connection.recv(1 << 16)):
                raise ConnectionError(f"{scenario.name}: the engine closed the connection after {len(raw)} bytes")
            raw += data
            pieces.append((len(raw), round(time.monotonic() - sent, 6)))
            on_piece(len(pieces))
        return raw, pieces, _closes(connection)


def _request(scenario: Scenario) -> bytes:
    head = f"{'POST' if scenario.body else 'GET'} {scenario.path} HTTP/1.1\r\nHost: engine\r\nAccept: */*\r\n"
    if scenario.body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(scenario.body)}\r\n"
    return head.encode() + b"\r\n" + scenario.body


def _complete(raw: bytes) -> bool:
    if b"\r\n\r\n" not in raw:
        return False
    try:
        return Case("", _NO_META, b"", raw).body is not None
    except ValueError:
        return False


def _closes(connection: socket.socket) -> bool:
    connection.settimeout(LINGER_S)
    with contextlib.suppress(TimeoutError):
        return connection.recv(1) == b""
    return False


def _killer(pid: int | None) -> Callable[[int], None]:
    def on_piece(count: int) -> None:
        if pid and count == UNDER_WAY_PIECES:
            os.kill(pid, signal.SIGKILL)

    return on_piece


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Record golden transcripts from a running engine.")
    parser.add_argument("--engine", required=True, choices=["vllm", "llamacpp"])
    parser.add_argument("--version", required=True, help="of the engine; names the folder")
    parser.add_argument("--url", required=True, help="base URL without /v1, such as http://127.0.0.1:8000")
    parser.add_argument("--group", default="generate", choices=["generate", "embed", "fault"])
    parser.add_argument("--kill", type=int, metavar="PID", help="fault: end this process while a stream runs")
    parser.add_argument("only", nargs="*", help="names of recordings to renew; none: all of the group")
    return parser.parse_args()


_NO_META = Meta("", "", "", "", "", False, [])

if __name__ == "__main__":
    main()
