"""How long an answer a body asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from engines.base import Operation
from gateway.wire import Call

MOST = 10**13
"""A larger number is taken for this one: no limit is as large, and every store can count it."""
STANDARD = ("max_completion_tokens", "max_tokens")
"""OpenAI's names for the length of an answer."""
NAMES = frozenset(
    (*STANDARD, "max_gen_len", "max_length", "max_new_tokens", "max_output_tokens", "n_predict", "num_predict")
)
"""And what else engines take for it, in lower case: some read keys in any case."""
_OF_SEVERAL = frozenset({"n", "best_of"})
_COUNTED = NAMES | _OF_SEVERAL
_SAYING_NOTHING = frozenset(
    {"messages", "model", "prompt", "stream", "stream_options", "temperature", "tool_choice", "tools", "top_p", "user"}
)
"""Names of most bodies, none of which need be looked at."""
_ANSWERED = (Operation.CHAT, Operation.COMPLETIONS)

_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Asked(NamedTuple):
    """What of answers a body asks for.

    tokens:   of one answer, the largest number given; None: none is given.
    field:    which field says so. standard: whether one of OpenAI's own does.
    answers:  how many the engine makes: choices, of every prompt.
    odd:      a field about length that is no number; engines differ in what they make of it. Empty: there is none.
    """

    tokens: int | None = None
    field: str = ""
    standard: bool = False
    answers: int = 1
    odd: str = ""


NOTHING_ASKED = Asked()
NO_ANSWERS = Asked(tokens=0, answers=0)
"""Of a call that has no answer made of tokens."""


def asked(call: Call) -> Asked:
    """What the call's body says. One that cannot be read says nothing: it is the engine's to refuse."""
    if call.operation not in _ANSWERED:
        return NO_ANSWERS
    try:
        fields = call.fields
    except (ValueError, RecursionError):  # msgspec's and Unicode's are ValueErrors
        return NOTHING_ASKED
    tokens: int | None = None
    field = odd = ""
    standard = False
    choices = 1
    for name in _told(fields):
        written = bytes(fields[name])
        if written == b"null":
            continue
        several = name.casefold() in _OF_SEVERAL
        if not written.isdigit():
            odd = odd if several else name
            continue
        number = min(int(written), MOST) if len(written) < 15 else MOST
        if several:
            choices = max(choices, number)
            continue
        standard = standard or name in STANDARD
        if tokens is None or number > tokens:
            tokens, field = number, name
    prompts = _prompts(fields.get("prompt")) if call.operation is Operation.COMPLETIONS else 1
    return Asked(tokens, field, standard, choices * prompts, odd)


def _told(fields: Mapping[str, msgspec.Raw]) -> list[str]:
    """Names of those that say something of it, however they are written."""
    names = fields.keys()
    if names <= _SAYING_NOTHING:
        return []
    # By Unicode's rules, as Go has it: the Kelvin sign is a k, and a long s an s.
    return [name for name in names if name not in _SAYING_NOTHING and name.casefold() in _COUNTED]


def _prompts(prompt: msgspec.Raw | None) -> int:
    """Prompts in one request; a list of token ids is one."""
    written = b"" if prompt is None else bytes(prompt)
    if not written.startswith(b"["):
        return 1
    try:
        prompts = _decode_list(written)
    except (ValueError, RecursionError):
        return 1
    several = bool(prompts) and bytes(prompts[0])[:1] in (b'"', b"[")
    return len(prompts) if several else 1
