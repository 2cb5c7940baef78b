"""What of a body OpenAI's models count, as OpenAI documents it: texts to be encoded, and what is added for the form.

https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from engines.base import Operation
from gateway.prompts.body import MEDIA_TOKENS
from gateway.prompts.conversation import TEXT_KEYS
from gateway.wire import Call

PER_MESSAGE = 3
"""Around each message."""
PER_NAME = 1
REPLY = 3
"""Every answer begins with `<|start|>assistant<|message|>`."""
_PLAIN = frozenset({"role", "content", "name", "refusal"})
_EMPTY = (b"", b"null", b"[]", b"{}")


class _Chat(msgspec.Struct):
    messages: list[dict[str, msgspec.Raw]] = []
    tools: msgspec.Raw = msgspec.Raw(b"")
    functions: msgspec.Raw = msgspec.Raw(b"")
    response_format: msgspec.Raw = msgspec.Raw(b"")


_Text = str | list[str | int | list[int]] | None


class _Completion(msgspec.Struct):
    prompt: _Text = None
    suffix: str | None = None


class _Embedding(msgspec.Struct):
    input: _Text = None


@dataclass(slots=True)
class Texts:
    """texts: to be encoded, each by itself. tokens: besides these. estimated: whether nobody documents some of it."""

    texts: list[str] = field(default_factory=list)
    tokens: int = 0
    estimated: bool = False


def texts_of(call: Call) -> Texts | None:
    """None: the body cannot be read."""
    try:
        if call.operation is Operation.CHAT:
            return _of_chat(_decode_chat(call.body))
        if call.operation is Operation.COMPLETIONS:
            completion = _decode_completion(call.body)
            found = _of_text(completion.prompt)
            if completion.suffix:
                found.texts.append(completion.suffix)
            return found
        return _of_text(_decode_embedding(call.body).input)
    except (ValueError, RecursionError):  # msgspec's and Unicode's are ValueErrors
        return None


def _of_chat(chat: _Chat) -> Texts:
    found = Texts(tokens=REPLY)
    for message in chat.messages:
        found.tokens += PER_MESSAGE
        for key, raw in message.items():
            _of_field(key, raw, found)
    for form in (chat.tools, chat.functions, chat.response_format):
        if bytes(form) not in _EMPTY:
            _as_written(form, found)
    return found


def _of_field(key: str, raw: msgspec.Raw, found: Texts) -> None:
    written = bytes(raw)
    if written in _EMPTY:
        return
    if key in _PLAIN and written[:1] == b'"':
        found.texts.append(_decode_text(written))
        found.tokens += PER_NAME if key == "name" else 0
    elif key == "content" and written[:1] == b"[":
        for part in _decode_parts(written):
            _of_part(part, found)
    else:
        _as_written(raw, found)


def _of_part(part: str | dict[str, msgspec.Raw], found: Texts) -> None:
    if isinstance(part, str):
        found.texts.append(part)
        return
    kind = bytes(part.get("type", b'""'))
    key = TEXT_KEYS.get(_decode_text(kind)) if kind[:1] == b'"' else None
    text = bytes(part.get(key, b"")) if key is not None else b""
    if text[:1] == b'"':
        found.texts.append(_decode_text(text))
    else:
        found.tokens += MEDIA_TOKENS
        found.estimated = True


def _as_written(raw: msgspec.Raw, found: Texts) -> None:
    """OpenAI writes it in a form of its own, which is shorter than JSON."""
    found.texts.append(bytes(raw).decode())
    found.estimated = True


def _of_text(text: _Text) -> Texts:
    if isinstance(text, str):
        return Texts([text])
    found = Texts()
    for one in text or ():
        if isinstance(one, str):
            found.texts.append(one)
        else:
            found.tokens += 1 if isinstance(one, int) else len(one)
    return found


_decode_chat = msgspec.json.Decoder(_Chat).decode
_decode_completion = msgspec.json.Decoder(_Completion).decode
_decode_embedding = msgspec.json.Decoder(_Embedding).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_parts = msgspec.json.Decoder(list[str | dict[str, msgspec.Raw]]).decode
