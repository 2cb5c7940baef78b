"""What a call asks: the key of the very same call, the partition of calls that differ in the last user text alone, and
why no answer to it is kept, if so."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b, sha256
from typing import Final, NamedTuple
from unicodedata import normalize

from cache.asked import Question, Rules, Scope
from cache.canonical import MAX_BODY_BYTES, Fields, Json, read_fields, refusal, spelled
from cache.time_bound import is_time_bound

OPERATIONS: Final = ("chat", "completions")
EARLIER_TEXTS: Final = 8
"""So many of the user texts before the last may make a question one about the present."""
_TOOL_ROLES: Final = ("tool", "function")
_MAX_KEY_BYTES: Final = 64


class _Asked(NamedTuple):
    """A prompt from which the last user texts were cut. `others`: user texts of earlier turns."""

    texts: Sequence[str] = ()
    others: Sequence[str] = ()
    refused: str = ""
    semantic_refused: str = ""


def read_question(operation: str, body: bytes, rules: Rules, scope: Scope) -> Question:
    """What a call asks. Never raises on what clients send: what cannot be read is refused."""
    if operation not in OPERATIONS:
        return _refused("operation")
    if len(body) > MAX_BODY_BYTES:
        return _refused("large")
    fields = read_fields(body)
    if fields is None:
        return _refused("unreadable")
    why = refusal(fields, rules.max_temperature)
    if why:
        return _refused(why)
    asked = _cut_chat(fields) if operation == "chat" else _cut_prompt(fields)
    if asked.refused:
        return _refused(asked.refused)
    ttl_s = None
    if _is_time_bound(asked, fields):
        ttl_s = rules.time_bound_ttl_s
        if ttl_s is None:
            return _refused("time_bound")
    return _keyed(operation, fields, asked, rules, scope, ttl_s)


def _keyed(operation: str, fields: Fields, asked: _Asked, rules: Rules, scope: Scope, ttl_s: float | None) -> Question:
    """`fields` hold the prompt without the texts that were cut from it."""
    rest = spelled(
        operation,
        None if scope.shared else scope.tenant,
        scope.deployment,
        scope.model_revision,
        scope.adapter,
        scope.sensitivity,
        scope.output_cap,
        scope.epoch,
        fields,
    )
    texts = asked.texts
    last = spelled(*texts)
    if rest is None or last is None:
        return _refused("unreadable")
    secret = scope.secret
    if len(secret) > _MAX_KEY_BYTES:
        secret = sha256(secret).digest()
    partition = blake2b(rest, digest_size=32, key=secret).digest()
    key = blake2b(partition + last, digest_size=32, key=secret, person=b"whole request").digest()
    text = texts[0] if len(texts) == 1 else "\n".join(texts)
    if not text.isascii():
        text = normalize("NFC", text)
    why = asked.semantic_refused
    if not why and len(text) > rules.max_text_chars:
        why = "long"
    elif not why and (not text or text.isspace()):
        why = "no_user_text"
    return Question(key, b"" if why else partition, text, "", why, ttl_s)


def _refused(why: str) -> Question:
    return Question(refused=why, semantic_refused=why)


def _is_time_bound(asked: _Asked, fields: Fields) -> bool:
    """By what users say, now or in earlier turns ("And in Paris?" goes on about the weather of before). The system
    prompt is not asked: a date in it is part of the key."""
    if "web_search_options" in fields:
        return True
    for text in asked.texts:
        if is_time_bound(text):
            return True
    return bool(asked.others) and any(map(is_time_bound, asked.others[-EARLIER_TEXTS:]))


def _cut_prompt(fields: Fields) -> _Asked:
    prompt = fields.get("prompt")
    if type(prompt) is not str:
        return _Asked(refused="prompt")
    fields["prompt"] = None
    return _Asked([prompt])


def _cut_chat(fields: Fields) -> _Asked:
    messages = fields.get("messages")
    if type(messages) is not list or not messages:
        return _Asked(refused="unreadable")
    users: list[dict[str, Json]] = []
    for message in messages:
        if type(message) is not dict:
            return _Asked(refused="unreadable")
        role = message.get("role")
        if role == "user":
            users.append(message)
    if not users or users[-1] is not messages[-1]:
        return _without_question(messages, users)
    others = [text for message in users[:-1] for text in _texts(message.get("content"))] if len(users) > 1 else []
    return _cut_content(users[-1], others)


def _without_question(messages: list[Json], users: list[dict[str, Json]]) -> _Asked:
    """The last message is no user's: a prefill of the answer, an instruction, or what a tool said."""
    for message in reversed(messages):
        role = message.get("role") if type(message) is dict else None
        if role in _TOOL_ROLES:
            return _Asked(refused="tool_result")
        if role == "user":
            break
    others = [text for message in users for text in _texts(message.get("content"))]
    return _Asked(others=others, semantic_refused="no_user_text")


def _cut_content(message: dict[str, Json], others: list[str]) -> _Asked:
    content = message.get("content")
    if type(content) is str:
        message["content"] = None
        return _Asked([content], others)
    if type(content) is not list:
        return _Asked(refused="unreadable")
    kinds = [part.get("type") if type(part) is dict else None for part in content]
    if "tool_result" in kinds:
        return _Asked(refused="tool_result")
    texts = _texts(content)
    if not texts or len(texts) != len(content) or kinds.count("text") != len(kinds):
        return _Asked(others=others + texts, semantic_refused="media")
    for part in content:
        if type(part) is dict:
            part["text"] = None
    return _Asked(texts, others)


def _texts(content: Json) -> list[str]:
    if type(content) is str:
        return [content]
    if type(content) is not list:
        return []
    found = [part.get("text") for part in content if type(part) is dict]
    return [text for text in found if type(text) is str]
