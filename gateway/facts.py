"""What routing is told of a prompt, for the deployment that is asked."""

from __future__ import annotations

import msgspec

from gateway.prompts import PromptFacts, PromptReader
from gateway.prompts.lengths import PRIOR_OUTPUT_TOKENS
from gateway.record import Usage
from gateway.upstream import BYTES_PER_TOKEN
from gateway.wire import Call
from router.prefix import Prefix

NO_PREFIX = Prefix()


class Facts(msgspec.Struct, frozen=True):
    """What is known of a call's prompt before it is sent.

    prompt_tokens, output_tokens: counted, or estimated; the answer's length is always an expectation.
    prefix:  its KV blocks; empty where nobody can tell.
    session: what keeps the calls of one conversation together; empty: nothing does.
    """

    prompt_tokens: int = 0
    output_tokens: float = 0.0
    prefix: Prefix = NO_PREFIX
    session: str = ""
    read: PromptFacts | None = None
    reader: PromptReader | None = None

    def learn(self, usage: Usage, *, cut: bool) -> None:
        """What the engine counted in the end. cut: the answer was ended by its limit."""
        if self.reader is not None and self.read is not None:
            counted = None if usage.estimated else usage.prompt_tokens
            self.reader.learn(self.read, prompt_tokens=counted, output_tokens=usage.completion_tokens, cut=cut)


NOTHING_KNOWN = Facts()


def rough(call: Call) -> Facts:
    """From the size of the body alone."""
    return Facts(len(call.body) // BYTES_PER_TOKEN, PRIOR_OUTPUT_TOKENS)


def of_prompt(read: PromptFacts, reader: PromptReader) -> Facts:
    prefix = Prefix(read.keys, read.block_tokens) if read.keys else NO_PREFIX
    return Facts(read.prompt_tokens, reader.output_tokens(read), prefix, read.session, read, reader)
