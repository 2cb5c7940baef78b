"""How long one prompt and one answer may be."""

from __future__ import annotations

from typing import Protocol

import msgspec

from gateway.errors import InvalidRequest
from gateway.limits.cost import Cost
from gateway.tokens.asked import asked
from gateway.wire import Call


class Cap(Protocol):
    """tokens: at most so many. setting, whose: where that is set, and for whom; for messages."""

    @property
    def tokens(self) -> int: ...

    @property
    def setting(self) -> str: ...

    @property
    def whose(self) -> str: ...


def cap_answer(call: Call, cap: Cap | None) -> Call:
    """The call as it may be sent: one that sets no limit to its answer has the cap for one.

    Raises:
        InvalidRequest: it asks for more, or for what engines could read as more.
    """
    if cap is None:
        return call
    wish = asked(call)
    most = f"{cap.whose} may ask for {cap.tokens} tokens of one answer at most (`{cap.setting}`)"
    if wish.odd:
        message = f"`{wish.odd}` must be a whole number of tokens: {most}."
        raise InvalidRequest(message, code="invalid_type", param=wish.odd)
    if wish.tokens is not None and wish.tokens > cap.tokens:
        message = f"`{wish.field}` is {wish.tokens}, and {most}."
        raise InvalidRequest(message, code="output_tokens_limit", param=wish.field)
    if wish.standard or not wish.answers:
        return call
    return msgspec.structs.replace(call, output_cap=cap.tokens)


def check_prompt(cost: Cost, cap: Cap | None) -> None:
    """Refuse a prompt that is too long.

    Raises:
        InvalidRequest: it is.
    """
    if cap is None or cost.prompt_tokens <= cap.tokens:
        return
    about = "about " if cost.estimated else ""
    message = (
        f"The prompt has {about}{cost.prompt_tokens} tokens, and {cap.whose} may send {cap.tokens} in one request "
        f"at most (`{cap.setting}`)."
    )
    raise InvalidRequest(message, code="input_tokens_limit")
