"""A client that notes what it got, byte for byte: each request on a connection of its own, read up to its end."""

from __future__ import annotations

import asyncio
import enum
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import httptools

from tests.e2e.chaos.replica import now_s
from tests.harness import CHAT, Json, chat, events_in, request_bytes

PATIENCE_S = 60.0
NEVER = math.nan
WORDS = " ".join(f"word{number}" for number in range(14))


class Fate(enum.StrEnum):
    """What became of a request."""

    ANSWERED = "answered"
    BROKEN_OFF = "broken off"
    """After its first byte, and the client was told or could tell."""
    LOST = "lost"
    """Before its first byte."""
    WRONG = "wrong"
    """Answered twice, or with what belongs to another, or with less than the whole as if it were the whole."""


@dataclass(slots=True)
class Asked:
    """One request and what came of it. Instants are monotonic seconds.

    attempts: as the gateway says in its answer; 0: it does not.
    first_s:  first byte of the answer's content.
    """

    request_id: str
    stream: bool
    sent_s: float = NEVER
    first_s: float = NEVER
    end_s: float = NEVER
    status: int = 0
    attempts: int = 0
    body: bytes = b""
    whole: bool = False
    """The message was complete as HTTP has it."""
    surplus: bytes = b""
    """What came after it."""
    fate: Fate = Fate.LOST
    why: str = ""

    @property
    def text(self) -> str:
        """What the engine is asked to say, and nobody else is."""
        return f"{self.request_id} {WORDS} end-of-{self.request_id}"


@dataclass
class _Reading:
    """Takes one answer apart. What httptools calls has its names."""

    asked: Asked
    chunks: list[bytes] = field(default_factory=list)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-headrace-attempts":
            self.asked.attempts = int(value)

    def on_body(self, body: bytes) -> None:
        if not self.chunks or math.isnan(self.asked.first_s):
            self.asked.first_s = now_s()
        self.chunks.append(body)

    def on_message_complete(self) -> None:
        self.asked.whole = True


async def ask(address: tuple[str, int], key: str, asked: Asked) -> Asked:
    """Send the request, read until the gateway closes, and judge what came."""
    body = chat("Say it.", stream=asked.stream, fake={"text": asked.text})
    head = {"authorization": f"Bearer {key}", "x-request-id": asked.request_id, "connection": "close"}
    asked.sent_s = now_s()
    reading = _Reading(asked)
    try:
        async with asyncio.timeout(PATIENCE_S):
            await _exchange(address, request_bytes("POST", CHAT, body, **head), reading)
    except TimeoutError:
        asked.why = f"no end within {PATIENCE_S:g} s"
    except (OSError, httptools.HttpParserError) as error:
        asked.why = f"{type(error).__name__}: {error}"
    asked.end_s = now_s()
    asked.body = b"".join(reading.chunks)
    judge(asked)
    return asked


async def _exchange(address: tuple[str, int], request: bytes, reading: _Reading) -> None:
    asked = reading.asked
    reader, writer = await asyncio.open_connection(*address)
    parser = httptools.HttpResponseParser(reading)
    try:
        writer.write(request)
        while data := await reader.read(1 << 16):
            if asked.whole:
                asked.surplus += data
                continue
            parser.feed_data(data)
            asked.status = parser.get_status_code()
    finally:
        writer.transport.abort()


def judge(asked: Asked) -> None:
    """Say what became of it, from what came."""
    asked.fate, why = _fate_of_stream(asked) if asked.stream else _fate_of_whole(asked)
    if asked.surplus:
        asked.fate, why = Fate.WRONG, f"bytes after the answer: {asked.surplus[:80]!r}"
    asked.why = ", ".join(filter(None, (asked.why, why)))


def _fate_of_whole(asked: Asked) -> tuple[Fate, str]:
    if asked.status != 200 or not asked.whole:
        return Fate.LOST, f"status {asked.status}: {_code_in(asked.body)}"
    try:
        (choice,) = json.loads(asked.body)["choices"]
        said = choice["message"]["content"]
    except (ValueError, KeyError, TypeError) as error:
        return Fate.WRONG, f"no answer: {error}: {asked.body[:200]!r}"
    return (Fate.ANSWERED, "") if said == asked.text else (Fate.WRONG, f"said {said!r}")


def _fate_of_stream(asked: Asked) -> tuple[Fate, str]:
    if asked.status != 200:
        return Fate.LOST, f"status {asked.status}: {_code_in(asked.body)}"
    events = events_in(asked.body)
    said, error, begun = _said(events)
    if error:
        return (Fate.BROKEN_OFF if begun else Fate.LOST), error
    if said == asked.text and asked.whole and _ends_well(events):
        return Fate.ANSWERED, ""
    if not asked.whole and asked.text.startswith(said) and said:
        return Fate.BROKEN_OFF, "cut"
    if not events:
        return Fate.LOST, "no event"
    return Fate.WRONG, f"ended in good order with {events[-1][:80]!r} after {said!r}"


def _ends_well(events: Sequence[str]) -> bool:
    """With one `[DONE]`, or, from an engine that leaves it out, with a reason why the answer ended."""
    done = events.count("[DONE]")
    return (done == 1 and events[-1] == "[DONE]") or (done == 0 and any('"finish_reason":"stop"' in e for e in events))


def _said(events: Sequence[str]) -> tuple[str, str, bool]:
    """The text of a stream, the code of the error that ended it, and whether anything came before that."""
    said = ""
    for number, event in enumerate(events):
        if event == "[DONE]":
            continue
        try:
            chunk: Json = json.loads(event)
        except ValueError:
            return said, "malformed event", True
        if "error" in chunk:
            return said, str(chunk["error"].get("code")), number > 0
        for choice in chunk.get("choices") or ():
            said += (choice.get("delta") or {}).get("content") or ""
    return said, "", bool(events)


def _code_in(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return repr(body[:80])
