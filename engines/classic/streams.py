"""Streamed answers of model servers as OpenAI's events: bytes in, bytes out."""

from __future__ import annotations

import codecs
from collections.abc import Callable

import msgspec

from engines.adapter import error_body, event
from engines.base import EngineDied, EngineProtocolError
from engines.classic.answers import Answer
from engines.classic.forms import NO_JSON, decoded, error_in, first_text
from engines.classic.paths import JsonPath, NotThere
from engines.classic.refusals import message_in
from engines.sse import EventSplitter

MAX_HELD_BYTES = 64 * 1024 * 1024
_JSON_BEGINS = b'{["'
_DONE = b"[DONE]"


class WholeReader:
    """An answer that comes whole: it is one event."""

    def __init__(self, answer: Answer, text_of: Callable[[bytes], str]) -> None:
        self._answer = answer
        self._text_of = text_of
        self._held = bytearray()

    def feed(self, payload: bytes) -> bytes:
        if len(self._held) + len(payload) > MAX_HELD_BYTES:
            raise EngineProtocolError(f"the answer is larger than {MAX_HELD_BYTES} bytes")
        self._held += payload
        return b""

    def finish(self) -> bytes:
        try:
            return self._answer.piece(self._text_of(bytes(self._held))) + self._answer.end()
        except NotThere as error:
            return failure(f"{error}")


class TextReader:
    """An answer that streams as its own text, in UTF-8, cut anywhere."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, payload: bytes) -> bytes:
        return self._answer.piece(self._decoder.decode(payload))

    def finish(self) -> bytes:
        return self._answer.piece(self._decoder.decode(b"", final=True)) + self._answer.end()


class EitherReader:
    """Text, unless the first character is one with which JSON begins."""

    def __init__(self, whole: WholeReader, text: TextReader) -> None:
        self._whole = whole
        self._text = text
        self._reader: WholeReader | TextReader | None = None

    def feed(self, payload: bytes) -> bytes:
        if self._reader is None:
            first = payload.lstrip()[:1]
            # White space before either of them says nothing; JSON does not need it, and a text begins without.
            if first:
                self._reader = self._whole if first in _JSON_BEGINS else self._text
            else:
                return b""
        return self._reader.feed(payload)

    def finish(self) -> bytes:
        return (self._reader or self._text).finish()


class EventReader:
    """An answer that streams as server-sent events: JSON objects, or texts where the path is empty.

    An event without the path says nothing, as the last one of some servers does; but one event must have had it.
    """

    def __init__(self, answer: Answer, paths: tuple[JsonPath, ...]) -> None:
        self._answer = answer
        self._paths = paths
        self._raw = all(not path.steps for path in paths)
        self._splitter = EventSplitter()
        self._over = False
        self._found = False
        self._missing = ""

    def feed(self, payload: bytes) -> bytes:
        return b"".join([self._take(data) for data in self._splitter.feed(payload)])

    def finish(self) -> bytes:
        last = self.feed(b"\n\n")  # some servers leave out the blank line at the end
        if self._over:
            return last
        if not self._found:
            if self._missing:
                return failure(self._missing)
            raise EngineDied("the stream ended without an event")
        return last + self._answer.end()

    def _take(self, data: bytes) -> bytes:
        if self._over or data == _DONE:
            return b""
        if self._raw:
            self._found = True
            return self._answer.piece(data.decode(errors="replace"))
        document = decoded(data)
        if document is NO_JSON:
            raise EngineProtocolError("an event of the stream is no JSON")
        if error_in(document):
            self._over = True
            return failure(message_in(data) or "The server reports an error.")
        try:
            text = first_text(self._paths, document)
        except NotThere as error:
            self._missing = self._missing or f"{error}"
            return b""
        self._found = True
        return self._answer.piece(text)


def failure(message: str) -> bytes:
    """The error that ends a stream."""
    return event(msgspec.Raw(error_body(message, kind="upstream_error")))
