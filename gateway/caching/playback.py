"""Kept answers on their way to a client, at once or as slowly as they came. Nothing but memory is held meanwhile: a
client that hangs up costs nothing."""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

import msgspec

from cache.answer import Answer
from cache.replay import as_events, as_json
from gateway.clock import Clock, wall_time_s
from gateway.http import Sink
from gateway.relay import JSON_HEADERS, SSE_HEADERS

USUAL_GAP_S: Final = 0.02
"""Between the events of an answer whose own gap is not known: 50 tokens a second."""
_ID_STARTS: Final = {"chat": "chatcmpl-", "completions": "cmpl-"}


class Asked(msgspec.Struct, frozen=True):
    """In which form a caller wants its answer.

    model: the name by which it knows the model; "": that which the engine gave.
    lines: header lines, ready, besides those of the content; see `controls.answer_lines`.
    """

    stream: bool
    wants_usage: bool = False
    model: str = ""
    lines: bytes = b""


def play(answer: Answer, sink: Sink, asked: Asked) -> None:
    """Send all of it."""
    if asked.stream:
        start_events(sink, asked)
        sink.write(b"".join(_events(answer, asked)))
    else:
        body = as_json(answer, _new_id(answer), int(wall_time_s()), model=asked.model)
        sink.start(200, JSON_HEADERS + asked.lines, len(body))
        sink.write(body)
    sink.end()


async def play_slowly(answer: Answer, sink: Sink, asked: Asked, clock: Clock, gap_s: float | None = None) -> None:
    """Send a stream event by event, no faster than the client reads. What is no stream is sent at once.

    gap_s: between two events; None: as it came.
    """
    if not asked.stream:
        play(answer, sink, asked)
        return
    gap_s = gap_s if gap_s is not None else answer.gap_s or USUAL_GAP_S
    gate = _Gate()
    sink.bind(gate)
    try:
        start_events(sink, asked)
        began_s = clock.monotonic()
        *events, done = _events(answer, asked)
        for place, event in enumerate(events):
            # By the clock and not by sleeps alone, which are longer than they are told.
            wait_s = began_s + place * gap_s - clock.monotonic()
            if wait_s > 0:
                await clock.sleep(wait_s)
            await gate.opened.wait()
            sink.write(event)
        sink.write(done)
        sink.end()
    finally:
        sink.bind(None)


def start_events(sink: Sink, asked: Asked) -> None:
    """Send the head of a stream, unless it is out."""
    if not sink.started:
        sink.start(200, SSE_HEADERS + asked.lines)


def _events(answer: Answer, asked: Asked) -> list[bytes]:
    created = int(wall_time_s())
    return as_events(answer, _new_id(answer), created, model=asked.model, include_usage=asked.wants_usage)


def _new_id(answer: Answer) -> str:
    return _ID_STARTS[answer.operation] + secrets.token_hex(12)


class _Gate:
    """Open while the client keeps up. Implements `Flow`."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.opened.set()

    def pause(self) -> None:
        self.opened.clear()

    def resume(self) -> None:
        self.opened.set()
