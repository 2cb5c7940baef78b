"""Streams recorded from real engines pass the relay byte for byte, however the network cuts them (A06)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import cast

import msgspec
import pytest

from engines.base import Operation, Timeouts
from engines.connection import Connection
from engines.outbox import Outbox
from gateway.clock import RealClock
from gateway.http import Flow
from gateway.record import Record
from gateway.relay import Relay
from gateway.telemetry import Redactor
from gateway.upstream import Outcome, Rejection
from gateway.wire import Call
from router.load import ReplicaLoad
from tests.golden.loader import DONE, Case, cases, dechunk
from tests.harness import engine_by_hand, request_bytes, serving

STREAMS = [case for case in cases() if case.streams and case.status == 200 and case.meta.path.startswith("/v1/")]
FAILING = [case for case in STREAMS if b'"error"' in case.body]
WHOLE = [case for case in STREAMS if case not in FAILING]


class Sink:
    """Takes an answer as a chunked connection would; every spliced chunk must be one whole chunk."""

    def __init__(self) -> None:
        self.started = self.whole = False
        self.status = 0
        self.gone = ""
        self.extra_lines = b""
        self.on_lost: Callable[[], bool] | None = None
        self.ended = False
        self.bytes_out = 0
        self.pieces: list[bytes] = []
        self.spliced = 0

    def start(self, status: int, header_lines: bytes, length_bytes: int | None = None) -> None:
        assert not self.started
        self.started = True

    def splice(self, chunk: bytes) -> None:
        self.spliced += 1
        (payload,) = dechunk(chunk + b"0\r\n\r\n")
        self.pieces.append(payload)

    def write(self, payload: bytes, framed: bytes | None = None) -> None:
        assert self.started
        if framed is not None:
            assert dechunk(framed + b"0\r\n\r\n") == [payload]
        self.pieces.append(payload)

    def end(self) -> None:
        self.ended = True

    def bind(self, flow: Flow | None) -> None: ...


class Transport:
    """The engine's side of a connection: nothing is sent, closing is noted."""

    closing = False

    def write(self, data: bytes) -> None: ...

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close


async def relayed(case: Case, pieces: list[bytes], *, wants_usage: bool) -> tuple[Sink, Record, Outcome]:
    """What a client gets of `case` when its bytes arrive as `pieces`."""
    loop = asyncio.get_running_loop()
    transport = cast(asyncio.Transport, Transport())
    connection = Connection(loop, Outbox(), lambda connection: None)
    connection.connection_made(transport)
    exchange = connection.start(b"", Timeouts(total_s=None), time.monotonic())
    operation = Operation(case.meta.path.removeprefix("/v1/"))
    call = Call(operation, "m", stream=True, wants_usage=wants_usage, body=b"")
    sink, record = Sink(), Record("r", time.monotonic())
    rest = iter(pieces)
    while not exchange.head.done():
        connection.data_received(next(rest))
    with Relay(call, record, sink, RealClock(), 15.0, Redactor()) as relay:
        delivered = loop.create_task(relay.deliver(exchange, ReplicaLoad("r").begin(1, 0, 1.0, 0.0)))
        await asyncio.sleep(0)
        for piece in rest:
            connection.data_received(piece)
        return sink, record, await delivered


def without_usage(body: bytes) -> bytes:
    """The stream less its events that have usage and no choices, by plain splitting: engines end lines with LF."""
    events = [event + b"\n\n" for event in body.split(b"\n\n")[:-1]]
    return b"".join(event for event in events if not (b'"usage":{' in event and b'"choices":[]' in event))


def cuts(case: Case, step: int) -> Iterator[int]:
    """Where to cut: every position of a short answer, one in `step` of a long one, from a place that the name gives."""
    size = len(case.raw)
    step = 1 if size < 2000 else step
    return iter(range(1 + random.Random(case.id).randrange(step), size, step))


async def pass_at_every(case: Case, step: int, *, wants_usage: bool) -> None:
    expected = case.body if wants_usage else without_usage(case.body)
    for cut in cuts(case, step):
        sink, record, outcome = await relayed(case, [case.raw[:cut], case.raw[cut:]], wants_usage=wants_usage)
        assert b"".join(sink.pieces) == expected, f"cut at {cut}"
        assert sink.ended
        assert outcome is Outcome.FINE
        assert record.usage.completion_tokens > 0
        assert record.error_type == ""


@pytest.mark.parametrize("wants_usage", [True, False], ids=["asked", "unasked"])
@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case.id)
async def test_a_recorded_stream_passes_byte_for_byte_wherever_it_is_cut(case: Case, wants_usage: bool) -> None:
    await pass_at_every(case, 101, wants_usage=wants_usage)


@pytest.mark.e2e
@pytest.mark.timeout(900)
@pytest.mark.parametrize("wants_usage", [True, False], ids=["asked", "unasked"])
@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case.id)
async def test_a_recorded_stream_passes_byte_for_byte_cut_at_every_position(case: Case, wants_usage: bool) -> None:
    await pass_at_every(case, 1, wants_usage=wants_usage)


@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case.id)
async def test_a_recorded_stream_passes_as_it_came_and_byte_by_byte(case: Case) -> None:
    ends = [0, *(end for end, _ in case.meta.pieces)]
    as_it_came = [case.raw[start:end] for start, end in pairwise(ends)]
    for pieces in (as_it_came, [bytes([byte]) for byte in case.raw]):
        sink, _, _ = await relayed(case, pieces, wants_usage=True)
        assert b"".join(sink.pieces) == case.body


async def test_tokens_that_come_one_by_one_are_spliced() -> None:
    case = next(case for case in WHOLE if case.engine == "vllm" and case.name == "chat-unicode-stream")
    chunks = [b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in case.chunks if chunk]
    sink, _, _ = await relayed(case, [case.head, *chunks, b"0\r\n\r\n"], wants_usage=True)
    assert b"".join(sink.pieces) == case.body
    assert sink.spliced >= len(chunks) - 5


@pytest.mark.parametrize("case", FAILING, ids=lambda case: case.id)
async def test_a_recorded_failure_is_never_a_finished_stream(case: Case) -> None:
    try:
        sink, record, outcome = await relayed(case, [case.raw], wants_usage=True)
    except Rejection as rejected:
        assert rejected.error.status >= 400
        return
    body = b"".join(sink.pieces)
    assert DONE not in body
    assert b'data: {"error":' in body
    assert record.error_type
    assert outcome is not Outcome.FINE


@pytest.mark.parametrize("engine", ["vllm", "llamacpp"])
async def test_a_recorded_stream_passes_over_real_sockets(engine: str) -> None:
    chosen = [case for case in WHOLE if case.engine == engine and case.name.endswith("-stream-usage")]
    rng = random.Random(engine)
    async with engine_by_hand() as hand:
        models = {msgspec.json.decode(case.request)["model"] for case in chosen}
        config = {
            "server": {"port": 0},
            "pools": {"p": {"urls": [hand.url]}},
            "deployments": {name: {"variants": {"v": {"pools": ["p"]}}} for name in models},
        }
        async with serving(config) as server:
            for case in chosen:
                async with server.connected() as wire:
                    await wire.send(request_bytes("POST", case.meta.path, case.request))
                    turn = await hand.turn()
                    places = sorted(rng.sample(range(1, len(case.raw)), 5))
                    for start, end in zip([0, *places], [*places, len(case.raw)], strict=True):
                        turn.send(case.raw[start:end])
                        await turn.writer.drain()
                        await asyncio.sleep(0)
                    answer = await wire.answer()
                    assert answer.status == 200
                    assert answer.body == case.body, case.id
