"""Answers of an OpenAI endpoint as a client sees them: bytes in, tokens and errors noted. No socket, no clock."""

from __future__ import annotations

import msgspec

from loadtest.results import Failure, Outcome

_EMPTY = msgspec.Raw(b"")
_NOTHING = (b"", b"null", b"[]")


class _Usage(msgspec.Struct):
    completion_tokens: int | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: msgspec.Raw = _EMPTY


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None

    @property
    def says_something(self) -> bool:
        if self.text:
            return True
        delta = self.delta
        if delta is None:
            return False
        return bool(delta.content or delta.reasoning_content or delta.reasoning) or (
            bytes(delta.tool_calls) not in _NOTHING
        )


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw = _EMPTY


class _Whole(msgspec.Struct):
    usage: _Usage | None = None
    error: msgspec.Raw = _EMPTY


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_whole = msgspec.json.Decoder(_Whole).decode


class AnswerReader:
    """Notes in an `Outcome` what the body of one answer says."""

    __slots__ = ("_held", "_outcome", "done")

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._held = b""
        self.done = False
        """Whether the stream has said `[DONE]`."""

    def feed(self, data: bytes, now_s: float) -> None:
        """The next bytes of the body, which came at `now_s`."""
        if not self._outcome.streams:
            self._held += data
            return
        if self._held:
            data = self._held + data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        *events, self._held = data.split(b"\n\n")
        for event in events:
            self._event(event, now_s)

    def end(self, now_s: float) -> None:
        """The answer is complete."""
        outcome = self._outcome
        outcome.end_s = now_s
        if outcome.failure:
            return
        if not 200 <= outcome.status < 300:
            outcome.failure = Failure.STATUS
        elif not outcome.streams:
            self._whole()
        elif not self.done:
            outcome.failure = Failure.NO_DONE

    def _event(self, event: bytes, now_s: float) -> None:
        lines = event.split(b"\n") if b"\n" in event else (event,)
        data = b"\n".join(line[5:].lstrip(b" ") for line in lines if line.startswith(b"data:"))
        if data == b"[DONE]":
            self.done = True
        elif data:
            self._chunk(data, now_s)

    def _chunk(self, data: bytes, now_s: float) -> None:
        outcome = self._outcome
        try:
            chunk = _decode_chunk(data)
        except msgspec.DecodeError:
            outcome.failure = Failure.MALFORMED
            return
        if bytes(chunk.error) not in _NOTHING:
            outcome.failure = Failure.ERROR_EVENT
        if chunk.usage is not None and chunk.usage.completion_tokens is not None:
            outcome.tokens = chunk.usage.completion_tokens
        if any(choice.says_something for choice in chunk.choices):
            self._content(now_s)

    def _content(self, now_s: float) -> None:
        outcome = self._outcome
        if outcome.chunks:
            outcome.gaps_s.append(now_s - outcome.last_s)
        else:
            outcome.first_s = now_s
        outcome.chunks += 1
        outcome.last_s = now_s

    def _whole(self) -> None:
        try:
            whole = _decode_whole(self._held)
        except msgspec.DecodeError:
            self._outcome.failure = Failure.MALFORMED
            return
        if bytes(whole.error) not in _NOTHING:
            self._outcome.failure = Failure.MALFORMED
        if whole.usage is not None:
            self._outcome.tokens = whole.usage.completion_tokens
