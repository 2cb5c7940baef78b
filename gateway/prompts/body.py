"""What of an OpenAI body an engine caches prefixes of, as cheaply as it can be had: no tokenizer, no template."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping

import msgspec
from xxhash import xxh3_64_digest

from engines.base import Operation
from gateway.prompts.conversation import TEXT_KEYS
from gateway.wire import PlainChat

MEDIA_TOKENS = 600
"""What an image, a sound or a film counts as: the order of magnitude of an image in most vision models."""
MAX_SESSION_CHARS = 256
_SESSION_HEADER = b"x-session-id"
_END = b"\x1e"
_EMPTY = msgspec.Raw(b"")


class _Message(msgspec.Struct):
    role: str
    content: str | list[str | dict[str, msgspec.Raw]] | None = None
    name: msgspec.Raw = _EMPTY
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: msgspec.Raw = _EMPTY
    tool_call_id: msgspec.Raw = _EMPTY


class _Common(msgspec.Struct):
    """Fields that change nothing of the prompt; one of a wrong type is the engine's to refuse."""

    max_tokens: msgspec.Raw = _EMPTY
    max_completion_tokens: msgspec.Raw = _EMPTY
    cache_salt: msgspec.Raw = _EMPTY
    prompt_cache_key: msgspec.Raw = _EMPTY
    user: msgspec.Raw = _EMPTY


class _Chat(_Common):
    messages: list[_Message] = []
    tools: msgspec.Raw = _EMPTY
    documents: msgspec.Raw = _EMPTY


_Text = str | list[str | int | list[int]] | None


class _Completion(_Common):
    prompt: _Text = None


class _Embedding(_Common):
    input: _Text = None
    messages: list[_Message] = []


class Prompt(msgspec.Struct, frozen=True):
    """A request's prompt, and what else of it matters to where it is sent.

    data:              what its keys are made of: token ids if the caller gave those, else its text in UTF-8.
    token_ids:         whether `data` are token ids, uint32 little-endian.
    text_bytes:        size of all its text; several prompts in one request count together.
    id_count:          token ids that the caller gave, of all prompts.
    media:             parts that are no text.
    salt:              `cache_salt`.
    session:           what keeps the requests of one conversation together; empty: nothing does.
    max_output_tokens: what the caller allows; None: no limit given.
    """

    data: bytes = b""
    token_ids: bool = False
    text_bytes: int = 0
    id_count: int = 0
    media: int = 0
    salt: bytes = b""
    session: str = ""
    max_output_tokens: int | None = None


def read_prompt(operation: Operation, body: bytes, headers: Mapping[bytes, bytes]) -> Prompt | None:
    """The prompt in a body; None: it holds none that can be read.

    Of several prompts in one request the first has the keys: they go to one engine, whichever it is.
    """
    reader = _READERS.get(operation)
    if reader is None:
        return None
    try:
        return reader(body, headers)
    except (ValueError, TypeError, OverflowError, RecursionError):  # msgspec's and Unicode's are ValueErrors
        return None


def plain_text_bytes(chat: PlainChat) -> int:
    """`Prompt.text_bytes` of it."""
    size = len(bytes(chat.tools)) + 2 * len(_END)
    for message in chat.messages:
        text = message.content
        size += len(message.role) + 2 * len(_END) + (len(text) if text.isascii() else len(text.encode()))
    return size


def _chat(body: bytes, headers: Mapping[bytes, bytes]) -> Prompt:
    return _of_messages(_decode_chat(body), headers)


def _of_messages(chat: _Chat, headers: Mapping[bytes, bytes]) -> Prompt:
    pieces = [bytes(chat.tools), _END, bytes(chat.documents), _END]
    media = 0
    for message in chat.messages:
        pieces += (message.role.encode(), _END)
        content = message.content
        if isinstance(content, str):
            pieces.append(content.encode())
        elif content is not None:
            media += _parts(content, pieces)
        reasoning = message.reasoning if message.reasoning is not None else message.reasoning_content
        if reasoning is not None:
            pieces += (_END, reasoning.encode())
        if message.tool_calls is not _EMPTY or message.tool_call_id is not _EMPTY or message.name is not _EMPTY:
            pieces += (_END, bytes(message.name), bytes(message.tool_calls), bytes(message.tool_call_id))
        pieces.append(_END)
    data = b"".join(pieces)
    return _prompt(chat, headers, data, text_bytes=len(data), media=media)


def _parts(content: list[str | dict[str, msgspec.Raw]], pieces: list[bytes]) -> int:
    """Adds the parts of a message to `pieces`, and returns how many are no text: of these a digest stands for each."""
    media = 0
    for part in content:
        if isinstance(part, str):
            pieces.append(part.encode())
            continue
        key = TEXT_KEYS.get(_text(part.get("type", _EMPTY)))
        text = part.get(key) if key is not None else None
        if text is not None:
            pieces.append(_text(text).encode())
        else:
            media += key is None
            pieces += (xxh3_64_digest(bytes(value)) for value in part.values())
        pieces.append(_END)
    return media


def _completion(body: bytes, headers: Mapping[bytes, bytes]) -> Prompt | None:
    completion = _decode_completion(body)
    return _of_text(completion, completion.prompt, headers)


def _embedding(body: bytes, headers: Mapping[bytes, bytes]) -> Prompt | None:
    embedding = _decode_embedding(body)
    if embedding.messages:
        return _chat(body, headers)
    return _of_text(embedding, embedding.input, headers)


def _of_text(common: _Common, text: _Text, headers: Mapping[bytes, bytes]) -> Prompt | None:
    if isinstance(text, str):
        data = text.encode()
        return _prompt(common, headers, data, text_bytes=len(data))
    if not text:
        return None
    first = text[0]
    if isinstance(first, int):
        data = id_bytes([one for one in text if isinstance(one, int)])
        return _prompt(common, headers, data, token_ids=True, id_count=len(text))
    text_bytes = sum(len(one.encode()) for one in text if isinstance(one, str))
    id_count = sum(len(one) for one in text if isinstance(one, list))
    if isinstance(first, str):
        return _prompt(common, headers, first.encode(), text_bytes=text_bytes, id_count=id_count)
    return _prompt(common, headers, id_bytes(first), token_ids=True, text_bytes=text_bytes, id_count=id_count)


def _prompt(
    common: _Common,
    headers: Mapping[bytes, bytes],
    data: bytes,
    *,
    token_ids: bool = False,
    text_bytes: int = 0,
    id_count: int = 0,
    media: int = 0,
) -> Prompt:
    return Prompt(
        data=data,
        token_ids=token_ids,
        text_bytes=text_bytes,
        id_count=id_count,
        media=media,
        salt=_text(common.cache_salt).encode(),
        session=_session(common, headers),
        max_output_tokens=_count(common.max_completion_tokens) or _count(common.max_tokens),
    )


def _session(common: _Common, headers: Mapping[bytes, bytes]) -> str:
    """The header says it best; OpenAI's `prompt_cache_key` is meant for it; `user` has fewer conversations than all."""
    header = headers.get(_SESSION_HEADER)
    named = header.decode("latin-1") if header else _text(common.prompt_cache_key) or _text(common.user)
    return named[:MAX_SESSION_CHARS]


def _text(raw: msgspec.Raw) -> str:
    """The string, if it is one."""
    written = bytes(raw)
    return _decode_text(written) if written[:1] == b'"' else ""


def _count(raw: msgspec.Raw) -> int | None:
    """The number of tokens, if it is one."""
    written = bytes(raw)
    return int(written) if written.isdigit() and 0 < len(written) < 10 else None


def id_bytes(ids: list[int]) -> bytes:
    """Token ids as they are hashed.

    Raises:
        OverflowError: one is negative, or takes more than 32 bits.
    """
    packed = array("I", ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


_decode_chat = msgspec.json.Decoder(_Chat).decode
_decode_completion = msgspec.json.Decoder(_Completion).decode
_decode_embedding = msgspec.json.Decoder(_Embedding).decode
_decode_text = msgspec.json.Decoder(str).decode
_READERS = {Operation.CHAT: _chat, Operation.COMPLETIONS: _completion, Operation.EMBEDDINGS: _embedding}
