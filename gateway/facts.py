"""What routing is told of a prompt."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.upstream import BYTES_PER_TOKEN
from gateway.wire import Call
from router.prefix import Prefix

NO_PREFIX = Prefix()


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a call's prompt before it is sent.

    prompt_tokens, output_tokens: counted, or estimated; the answer's length is always an expectation.
    prefix:  its KV blocks; empty where nobody can tell.
    session: what keeps the calls of one conversation together; empty: nothing does.
    """

    prompt_tokens: int = 0
    output_tokens: float = 0.0
    prefix: Prefix = NO_PREFIX
    session: str = ""


NOTHING_KNOWN = Facts()


def rough(call: Call, output_tokens: float) -> Facts:
    """From the size of the body alone."""
    return Facts(len(call.body) // BYTES_PER_TOKEN, output_tokens)
