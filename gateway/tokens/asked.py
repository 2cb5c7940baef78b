"""How long an answer a body asks for."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from engines.base import Operation
from gateway.wire import Call, PlainChat

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
    chat = call.plain
    if chat is not None:
        return _of_plain(chat)
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
    for name, raw in fields.items():
        known = name.casefold()  # as Go has it: the Kelvin sign is a k, and a long s an s
        if known not in _COUNTED:
            continue
        written = bytes(raw)
        if written == b"null":
            continue
        if not written.isdigit():
            odd = odd if known in _OF_SEVERAL else name
            continue
        number = min(int(written), MOST) if len(written) < 15 else MOST
        if known in _OF_SEVERAL:
            choices = max(choices, number)
            continue
        standard = standard or name in STANDARD
        if tokens is None or number > tokens:
            tokens, field = number, name
    prompts = _prompts(fields.get("prompt")) if call.operation is Operation.COMPLETIONS else 1
    return Asked(tokens, field, standard, choices * prompts, odd)


def _of_plain(chat: PlainChat) -> Asked:
    tokens, field = chat.max_tokens, STANDARD[1]
    other = chat.max_completion_tokens
    if other is not None and (tokens is None or other > tokens):
        tokens, field = other, STANDARD[0]
    if tokens is None:
        return NOTHING_ASKED if chat.n is None else Asked(answers=chat.n)
    return Asked(tokens, field, True, chat.n or 1)


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
