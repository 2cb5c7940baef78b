"""A request body in one spelling, and what of it keeps its answer out of the cache.

Two bodies that an engine cannot tell apart have one spelling: without spaces, keys in order, the last value of a key
that repeats, without what says how the answer travels or who is charged, and with one form of the numbers that steer
sampling. Numbers inside messages, tools and schemas keep theirs, since templates write them into the prompt. Text is
never normalised: two spellings of "é" are two prompts."""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Fields: TypeAlias = "dict[str, Json]"

MAX_BODY_BYTES: Final = 256 * 1024
"""A larger body is not read: that would hold up the event loop for longer than half a millisecond."""

LEFT_OUT: Final = frozenset(
    {
        "stream",
        "stream_options",
        "user",
        "metadata",
        "store",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "service_tier",
        "priority",
        "request_id",
    }
)
"""Fields that say how an answer travels, when, to whom or under which name; none changes what it says."""

_LOGPROBS: Final = ("logprobs", "top_logprobs", "prompt_logprobs")
_TELLING: Final = frozenset({"n", "best_of", *_LOGPROBS, "temperature", "audio", "modalities"})
_MALFORMED: Final = (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError)
_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder(order="sorted").encode


def read_fields(body: bytes) -> Fields | None:
    """The fields that matter, none of them null; None: the body is no JSON object, or nested too deeply."""
    try:
        given = _decode(body)
    except _MALFORMED:
        return None
    if type(given) is not dict:
        return None
    fields: Fields = {}
    for name, value in given.items():
        if value is None or name in LEFT_OUT:
            continue
        if type(value) is float and value.is_integer():
            value = int(value)  # noqa: PLW2901
        fields[name] = value
    return fields


def spelled(*values: Json) -> bytes | None:
    """Their only spelling; None: nested too deeply, or a number that has none."""
    try:
        return _encode(values)
    except _MALFORMED:
        return None


def refusal(fields: Fields, max_temperature: float) -> str:
    """Why no answer to it is kept, by fields other than the prompt: "n", "logprobs", "temperature" or "media"."""
    telling = _TELLING.intersection(fields)
    if not telling:
        return ""
    temperature = fields.get("temperature", 0)
    if not isinstance(temperature, int | float) or temperature > max_temperature:
        return "temperature"
    return _refusal(fields) if len(telling) > 1 or "temperature" not in telling else ""


def _refusal(fields: Fields) -> str:
    if fields.get("n", 1) != 1 or fields.get("best_of", 1) != 1:
        return "n"
    if any(fields.get(name, False) is not False for name in _LOGPROBS):
        return "logprobs"
    return "media" if "audio" in fields or fields.get("modalities", ["text"]) != ["text"] else ""
