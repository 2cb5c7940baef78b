"""A kept answer as an engine would send it: whole, or as a stream. What it was kept as comes out as it came in; the
other form is made of it.

new_id:  of the answer that is told again: a new one each time, as an engine gives.
created: unix seconds.
model:   the name by which the caller knows it; "": the name that the engine gave.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cache.answer import STEP_BASE, Answer, Tokens, bodies_of, mark, message_of
from cache.message import Message, cut
from cache.shapes import (
    CREATED,
    ID,
    MODEL,
    NULL,
    PIECE,
    USAGE,
    Filling,
    decode_fields,
    decode_list,
    encode,
    shape_of,
    to_object,
)

DONE: Final = b"data: [DONE]\n\n"
_WHOLE: Final = {"chat": b'"chat.completion"', "completions": b'"text_completion"'}
_CHUNK: Final = {"chat": b'"chat.completion.chunk"', "completions": b'"text_completion"'}
_OWN: Final = frozenset({"id", "object", "created", "model", "choices", "usage"})
_OF_CHOICE: Final = frozenset({"index", "message", "delta", "text", "logprobs", "finish_reason"})
_Parts = list[tuple[str, bytes]]


def as_json(answer: Answer, new_id: str, created: int, *, model: str = "") -> bytes:
    """The answer as one JSON body."""
    filling = _filling(answer, new_id, created, model)
    return filling.fill(_whole_shape(answer) if answer.streamed else shape_of(decode_fields(answer.shapes[0])))


def as_events(
    answer: Answer, new_id: str, created: int, *, model: str = "", include_usage: bool = False
) -> list[bytes]:
    """The answer as the events of a stream, the last one `[DONE]`.

    include_usage: whether the caller asked for an event that tells of usage. Where an engine tells of it unasked in
                   another event, so does the replay.
    """
    filling = _filling(answer, new_id, created, model)
    if answer.streamed:
        events = _told_again(answer, filling)
        tells = any(USAGE in shape for shape in answer.shapes)
    else:
        events = _made_up(answer, filling)
        tells = False
    if include_usage and not tells:
        events.append(usage_event(answer, new_id, created, model=model))
    events.append(DONE)
    return events


def usage_event(answer: Answer, new_id: str, created: int, *, model: str = "") -> bytes:
    """The event that tells of usage at the end of a stream."""
    shape = answer.usage_shape or _chunk(answer, b"", [("usage", USAGE)])
    return _event(_filling(answer, new_id, created, model).fill(shape))


def _filling(answer: Answer, new_id: str, created: int, model: str) -> Filling:
    return Filling(encode(new_id), b"%d" % created, encode(model or answer.model), answer.usage or _usage(answer))


def _usage(answer: Answer) -> bytes:
    """Of an answer that came whole."""
    told = decode_fields(answer.shapes[0]).get("usage", NULL)
    counted = Tokens(answer.prompt_tokens, answer.completion_tokens)
    return mark(decode_fields(told) if bytes(told) != NULL else None, counted)[2]


def _event(body: bytes) -> bytes:
    return b"data: %b\n\n" % body


def _told_again(answer: Answer, filling: Filling) -> list[bytes]:
    halves = [_event(filling.fill(shape)).partition(PIECE) for shape in answer.shapes]
    events = []
    for step in answer.steps.split(b"\n"):
        head, hole, tail = halves[step[0] - STEP_BASE]
        events.append(b"%b%b%b" % (head, step[1:], tail) if hole else head)
    return events


def _whole_shape(answer: Answer) -> bytes:
    """Of an answer that came as a stream."""
    message, ending = message_of(answer), _ending(answer)
    said: _Parts
    if answer.operation == "chat":
        said = [("message", message.json())]
    else:
        said = [("text", encode(message.texts.get("text", "")))]
    finish = [("finish_reason", encode(answer.finish_reason))]
    choice = to_object([("index", b"0"), *said, ("logprobs", NULL), *finish, *ending])
    top: _Parts = [("object", _WHOLE[answer.operation]), ("choices", b"[%b]" % choice), ("usage", USAGE)]
    return to_object([("id", ID), top[0], ("created", CREATED), ("model", MODEL), *top[1:], *_beside(answer)])


def _made_up(answer: Answer, filling: Filling) -> list[bytes]:
    """Of an answer that came whole."""
    message = message_of(answer)
    deltas = message.deltas() if answer.operation == "chat" else _texts(message)
    key = "delta" if answer.operation == "chat" else "text"
    blank = b"{}" if answer.operation == "chat" else b'""'
    usual = _event(filling.fill(_chunk(answer, _choice(key, PIECE, NULL, []), [])))
    head, _, tail = usual.partition(PIECE)
    events = [b"%b%b%b" % (head, delta, tail) for delta in deltas]
    last = _chunk(answer, _choice(key, blank, encode(answer.finish_reason), _ending(answer)), _beside(answer))
    return [*events, _event(filling.fill(last))]


def _texts(message: Message) -> Iterator[bytes]:
    for piece in cut(message.texts.get("text", "")):
        yield encode(piece)


def _choice(key: str, said: bytes, reason: bytes, more: _Parts) -> bytes:
    return to_object([("index", b"0"), (key, said), ("logprobs", NULL), ("finish_reason", reason), *more])


def _chunk(answer: Answer, choice: bytes, more: _Parts) -> bytes:
    own = [("id", ID), ("object", _CHUNK[answer.operation]), ("created", CREATED), ("model", MODEL)]
    return to_object([*own, ("choices", b"[%b]" % choice), *more])


def _ending(answer: Answer) -> _Parts:
    """What an engine says of its choice besides the usual, such as at which word it stopped."""
    found: dict[str, bytes] = {}
    for choice in [choice for body in bodies_of(answer) for choice in decode_list(body["choices"])]:
        found |= {name: bytes(raw) for name, raw in choice.items() if name not in _OF_CHOICE and bytes(raw) != NULL}
    return list(found.items())


def _beside(answer: Answer) -> _Parts:
    """What it says of the answer besides the usual, such as its fingerprint."""
    found: dict[str, bytes] = {}
    for body in bodies_of(answer):
        found |= {name: bytes(raw) for name, raw in body.items() if name not in _OWN and bytes(raw) != NULL}
    return list(found.items())
