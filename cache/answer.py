"""A whole answer as it is kept, and how it is made of what an engine sent.

Only what ended well is kept: anything else is refused, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Final, Literal, TypeAlias

import msgspec

from cache.message import Message
from cache.shapes import (
    MALFORMED,
    NOTHING,
    NULL,
    PIECE,
    SSE_DATA,
    TEXTS,
    USAGE,
    Fields,
    Layout,
    decode_fields,
    decode_list,
    decode_text,
    encode,
    lasting,
    layout_of,
    shape_of,
    take_piece,
    to_object,
)

Refused: TypeAlias = Literal["truncated", "filtered", "incomplete", "n", "error", "empty", "unreadable"]
"""Why an answer is not kept: it was cut off at its length, filtered, broke off before its end, is one of several, an
error, says nothing, or is of no known form."""

MAX_SHAPES: Final = 200
STEP_BASE: Final = 32
"""The first byte of a step is this and the number of its shape: never an LF, which stands between steps."""
_ENDED: Final = frozenset({"stop", "tool_calls", "function_call", "eos_token", "stop_sequence", "end_turn"})
_TRUNCATED: Final = frozenset({"length", "max_tokens", "model_length", "max_output_tokens"})
_FILTERED: Final = frozenset({"content_filter", "safety", "recitation", "guardrail_intervened"})
_ABSENT: Final = msgspec.Raw(NULL)
_BOM: Final = b"\xef\xbb\xbf"
_LINE_END: Final = re.compile(rb"\r\n?")
_GROWS: Final = re.compile(
    rb'"delta":\{"(?P<field>content|reasoning_content|reasoning|refusal)":\x04\}|"(?P<text>text)":\x04'
    rb'|"delta":\{(?:"content":null,)?"tool_calls":\[\{"index":(?P<call>\d{1,4}),"function":\{"arguments":\x04\}\}\]\}'
)
"""Of most events: what of the message gets longer, and that nothing else does."""
_ENTRY_BYTES: Final = 500
"""What the objects of an answer take besides their bytes."""
_SHAPE_BYTES: Final = 41


class Tokens(msgspec.Struct, frozen=True):
    """What a call used, as counted by whoever ran it. For streams that say nothing of it themselves."""

    prompt: int = 0
    completion: int = 0


NOT_COUNTED: Final = Tokens()


class Answer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What an engine answered, in the form in which it did, but for what belongs to that one call.

    shapes: of a whole answer its one body, as it came: it is taken apart when it is told again. Of a stream those of
            its events; see `cache.shapes`.
    steps:  of a stream, its events, separated by LF: the number of the shape as one byte, and the piece that fills it.
    """

    operation: str
    """chat or completions."""
    streamed: bool
    model: str
    """As its client saw it."""
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    usage: bytes
    """Of a stream: a JSON object, with the whole prompt marked as cached."""
    shapes: tuple[bytes, ...]
    steps: bytes = b""
    usage_shape: bytes = b""
    """Of the event at the end of a stream that has only usage; b"": it had none."""
    gap_s: float = 0.0
    """Between two events of the stream, on average; 0.0: not known."""

    @property
    def size_bytes(self) -> int:
        """Memory that it takes, roughly."""
        shapes = sum([len(shape) + _SHAPE_BYTES for shape in self.shapes])
        return _ENTRY_BYTES + len(self.usage) + len(self.steps) + len(self.usage_shape) + shapes


def assemble(
    operation: str, body: bytes, stream: bool, *, counted: Tokens | None = None, gap_s: float = 0.0
) -> Answer | Refused:
    """The answer in `body`: JSON, or all events of a stream. What it is not kept for, if it is not.

    operation: chat or completions; the path will do.
    counted:   if the answer says nothing of usage.
    gap_s:     see `Answer`.
    """
    kind = "chat" if operation.startswith("chat") else "completions"
    try:
        str(body, "utf-8")
        if not stream:
            return _read_whole(kind, body, counted or NOT_COUNTED, gap_s)
        reader = _Reader(kind)
        return reader.read(body) or reader.answer(counted or NOT_COUNTED, gap_s)
    except (*MALFORMED, KeyError):
        return "unreadable"


def message_of(answer: Answer) -> Message:
    """What it says."""
    message = Message()
    if not answer.streamed:
        for choice in _choices(answer.shapes[0]):
            _add(message, choice, "message")
        return message
    filled = [NOTHING.fill(shape) for shape in answer.shapes]
    grows = [_GROWS.search(shape) for shape in filled]
    for number, steps in groupby(answer.steps.split(b"\n"), itemgetter(0)):
        growing = grows[number - STEP_BASE]
        if growing is not None:
            said = "".join([decode_text(step[1:]) for step in steps])
            message.grow(growing["text"] or growing["field"], growing["call"], said)
            continue
        for step in steps:
            for choice in _choices(filled[number - STEP_BASE].replace(PIECE, step[1:])):
                _add(message, choice, "delta")
    return message


def _choices(body: bytes) -> list[Fields]:
    return decode_list(decode_fields(body)["choices"])


def _add(message: Message, choice: Fields, key: str) -> None:
    said = choice.get(key)
    if said is not None and bytes(said) != NULL:
        message.take(decode_fields(said))
    elif "text" in choice:
        message.take({"text": choice["text"]})


def text_of(answer: Answer) -> str:
    """What it says, to be compared with another: content, refusal and tool calls, and no reasoning."""
    return message_of(answer).text()


def bodies_of(answer: Answer) -> Iterator[Fields]:
    """Its JSON bodies without what they say, each kind once."""
    if not answer.streamed:
        yield lasting(decode_fields(answer.shapes[0]))
        return
    for shape in answer.shapes:
        yield decode_fields(NOTHING.fill(shape).replace(PIECE, b'""'))


class _Said(msgspec.Struct):
    content: msgspec.Raw = _ABSENT
    tool_calls: msgspec.Raw = _ABSENT
    function_call: msgspec.Raw = _ABSENT


class _Choice(msgspec.Struct):
    message: _Said | None = None
    text: msgspec.Raw = _ABSENT
    finish_reason: str | None = None


class _Used(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: dict[str, msgspec.Raw] | None = None


class _Whole(msgspec.Struct):
    """What has to be known of a whole answer in order to keep it."""

    choices: list[_Choice] | None = None
    object: msgspec.Raw = _ABSENT
    error: msgspec.Raw = _ABSENT
    model: str | None = None
    usage: _Used | None = None


_decode_whole: Final = msgspec.json.Decoder(_Whole).decode


def _read_whole(operation: str, body: bytes, counted: Tokens, gap_s: float) -> Answer | Refused:
    whole = _decode_whole(body)
    if _is_error(whole.error, whole.object):
        return "error"
    choices = whole.choices
    if choices is None or len(choices) != 1:
        return "n" if choices else "unreadable"
    choice, used = choices[0], whole.usage
    reason = choice.finish_reason or ""
    refused = _judge(reason)
    if refused is not None:
        return refused
    prompt, completion = counted.prompt, counted.completion
    if used is not None:
        prompt, completion = max(0, used.prompt_tokens or 0), max(0, used.completion_tokens or 0)
    model = whole.model or ""
    answer = Answer(operation, False, model, reason, prompt, completion, b"", (body,), gap_s=gap_s)
    return answer if _is_plain(choice) or message_of(answer).says_something else "empty"


def _is_plain(choice: _Choice) -> bool:
    """Whether it is a text, and nothing else."""
    said = choice.message
    if said is not None and (said.tool_calls is not _ABSENT or said.function_call is not _ABSENT):
        return False
    text = bytes(choice.text if said is None else said.content)
    return text.startswith(b'"') and text != b'""'


@dataclass(slots=True)
class _Reader:
    """One stream as it is read."""

    operation: str
    model: str = ""
    finish_reason: str = ""
    usage: Fields | None = None
    usage_shape: bytes = b""
    shapes: dict[bytes, int] = field(default_factory=dict)
    steps: list[bytes] = field(default_factory=list)
    done: bool = False
    _layouts: list[Layout] = field(default_factory=list)
    _says: bool = False
    """Whether it says something, as far as is known: some text is not empty."""

    def read(self, body: bytes) -> Refused | None:
        known: Layout | None = None
        for event in _events(body):
            # Most are laid out as the one before, which is read ten times as fast.
            if known is not None and (piece := known.piece(event)) is not None and not self.done:
                self.steps.append(known.step + piece)
                continue
            data = _data(event)
            if not data:
                continue
            if self.done:
                return "unreadable"
            if data == b"[DONE]":
                self.done = True
                continue
            known = self._known(event)
            if known is None and (refused := self._read_event(data)) is not None:
                return refused
        return _judge(self.finish_reason) if self.done else "incomplete"

    def _known(self, event: bytes) -> Layout | None:
        """How it is laid out, if one before it was."""
        for layout in self._layouts:
            piece = layout.piece(event)
            if piece is not None:
                self.steps.append(layout.step + piece)
                return layout
        return None

    def _read_event(self, data: bytes) -> Refused | None:
        fields = decode_fields(data)
        if _is_error(fields.get("error", NULL), fields.get("object", NULL)):
            return "error"
        choices = decode_list(fields["choices"])
        if len(choices) > 1 or (choices and bytes(choices[0].get("index", b"0")) != b"0"):
            return "n"
        self._note(fields)
        if not choices:
            self._read_bare(fields)
            return None
        self._end(choices[0])
        shape, piece, name = take_piece(choices[0])
        told = bytes(fields.get("usage", NULL)) != NULL
        if not self.finish_reason and told:
            del fields["usage"]  # a running count
        elif not told and "usage" in fields:
            fields["usage"] = msgspec.Raw(NULL)
        step = self._append({**fields, "choices": msgspec.Raw(b"[%b]" % shape)}, piece, null_usage=not told)
        if step is None:
            return "unreadable"
        self._says = self._says or (name in TEXTS and len(piece) > len('""'))
        if not self.finish_reason and (layout := layout_of(data, name, piece, step)) is not None:
            self._layouts = [layout, *self._layouts[:3]]
        return None

    def _read_bare(self, fields: Fields) -> None:
        if bytes(fields.get("usage", NULL)) != NULL:
            self.usage_shape = shape_of(fields)
        else:
            self._append(fields, b"", null_usage=True)

    def _append(self, fields: Fields, piece: bytes, *, null_usage: bool) -> bytes | None:
        """The new step without its piece; None: there are too many shapes."""
        shape = shape_of(fields).replace(b"\n", b" ").replace(b"\r", b" ")
        if null_usage:
            shape = shape.replace(USAGE, NULL)
        number = self.shapes.setdefault(shape, len(self.shapes))
        if number >= MAX_SHAPES:
            return None
        step = bytes([STEP_BASE + number])
        self.steps.append(step + piece)
        return step

    def _note(self, fields: Fields) -> None:
        if not self.model and bytes(fields.get("model", NULL)) != NULL:
            self.model = decode_text(fields["model"])
        usage = fields.get("usage")
        if usage is not None and bytes(usage) != NULL:
            self.usage = decode_fields(usage)

    def _end(self, choice: Fields) -> None:
        reason = choice.get("finish_reason")
        if reason is not None and bytes(reason) != NULL:
            self.finish_reason = decode_text(reason)

    def answer(self, counted: Tokens, gap_s: float) -> Answer | Refused:
        prompt, completion, usage = mark(self.usage, counted)
        shapes = tuple(self.shapes)
        if self.usage_shape:  # the last count on the way was not the end
            shapes = tuple([shape.replace(b',"usage":' + USAGE, b"") for shape in shapes])
        answer = Answer(
            self.operation,
            True,
            self.model,
            self.finish_reason,
            prompt,
            completion,
            usage,
            shapes,
            b"\n".join(self.steps),
            self.usage_shape,
            gap_s,
        )
        says = self._says or message_of(answer).says_something
        return answer if says else "empty"


def _is_error(error: bytes | msgspec.Raw, kind: bytes | msgspec.Raw) -> bool:
    """`{"error": …}`, or the flat `{"object": "error", …}` of older vLLM and SGLang."""
    return bytes(error) != NULL or bytes(kind) == b'"error"'


def _judge(finish_reason: str) -> Refused | None:
    reason = finish_reason.lower()
    if reason in _ENDED:
        return None
    if reason in _TRUNCATED:
        return "truncated"
    return "filtered" if reason in _FILTERED else "incomplete"


def _events(body: bytes) -> list[bytes]:
    """The last one may lack its blank line."""
    if b"\r" in body:
        body = _LINE_END.sub(b"\n", body)
    return body.removeprefix(_BOM).split(b"\n\n")


def _data(event: bytes) -> bytes:
    if event.startswith(SSE_DATA) and b"\n" not in event:
        return event[len(SSE_DATA) :]
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)


def mark(told: Fields | None, counted: Tokens) -> tuple[int, int, bytes]:
    """Tokens of prompt and completion, and the usage to tell of, in which the whole prompt was cached.

    Raises:
        msgspec.DecodeError: the engine's has no known shape.
    """
    if told is None:
        total = counted.prompt + counted.completion
        told = decode_fields(
            b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}'
            % (counted.prompt, counted.completion, total)
        )
    prompt, completion = _count(told, "prompt_tokens"), _count(told, "completion_tokens")
    raw = told.get("prompt_tokens_details")
    details = decode_fields(raw) if raw is not None and bytes(raw) != NULL else {}
    details["cached_tokens"] = msgspec.Raw(encode(prompt))
    told["prompt_tokens_details"] = msgspec.Raw(to_object(details.items()))
    return prompt, completion, to_object(told.items())


def _count(usage: Fields, name: str) -> int:
    raw = usage.get(name)
    return max(0, msgspec.json.decode(raw, type=int | None) or 0) if raw is not None else 0
