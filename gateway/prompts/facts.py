"""What routing is told of a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.prompts.keys import TOKEN_BYTES, chain


class PromptFacts(msgspec.Struct, frozen=True):
    """A prompt's length, and the keys that its prefix is looked up by.

    prompt_tokens:     its length; of several prompts in one request the sum.
    estimated:         whether nobody counted all of it.
    keys:              one for each full block of the (first) prompt, see `gateway.prompts.keys`; empty: none are known.
    block_tokens:      tokens to a block of `keys`; an estimate where they are made of bytes.
    exact:             whether `keys` are made of the engine's own token ids, so that its KV events can be compared.
    adapter:           LoRA adapter, part of the keys; empty: none.
    salt:              the caller's `cache_salt`, part of the keys.
    session:           what keeps the requests of one conversation together; empty: nothing does.
    max_output_tokens: what the caller allows for one answer; None: no limit given.
    text_bytes:        the text that `Lengths` may learn from; 0: none, or there is more to the prompt than text.
    """

    prompt_tokens: int
    estimated: bool = True
    keys: Sequence[int] = ()
    block_tokens: float = 0.0
    exact: bool = False
    adapter: str = ""
    salt: bytes = b""
    session: str = ""
    max_output_tokens: int | None = None
    text_bytes: int = 0
    _ids: bytes = b""
    _seed: int = 0
    _others: tuple[tuple[int, Sequence[int]], ...] = ()

    def __repr__(self) -> str:
        return f"<PromptFacts prompt_tokens={self.prompt_tokens} keys={len(self.keys)} exact={self.exact}>"

    def keys_for(self, block_tokens: int) -> Sequence[int]:
        """The keys for an engine with blocks of that many tokens. Those not asked for in `read` are made now.

        Empty where the keys are not exact, or the size makes no sense.
        """
        if not self.exact or block_tokens <= 0:
            return ()
        if block_tokens == self.block_tokens:
            return self.keys
        for size, keys in self._others:
            if size == block_tokens:
                return keys
        return chain(self._ids, block_tokens * TOKEN_BYTES, self._seed)
