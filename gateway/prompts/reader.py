"""Reads prompts for routing: at once where that is cheap, else in a thread, within a time limit."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from gateway.prompts.body import MEDIA_TOKENS, Prompt, plain_text_bytes, read_prompt
from gateway.prompts.facts import PromptFacts
from gateway.prompts.keys import TOKEN_BYTES, KeyMemo, first_seed
from gateway.prompts.lengths import Lengths
from gateway.prompts.reading import Reading
from gateway.prompts.thread import KEY_MEMO_BYTES, PromptThread
from gateway.wire import Call

if TYPE_CHECKING:
    from gateway.prompts.tokenizer import ChatTokenizer

logger = logging.getLogger(__name__)

BLOCK_BYTES = 256
"""Without token ids: bytes to a block."""
INLINE_BYTES = 256 * 1024
"""A body up to this size is read on the event loop if there is no tokenizer: well under half a millisecond."""
INLINE_TOKENIZED_BYTES = 64 * 1024
"""A body up to this size is rendered on the event loop, and tokenized there if few of its characters are new."""
INLINE_OBJECTS = 256
"""If it has no more JSON objects than this, messages and their parts: each costs a few microseconds to render."""
INLINE_CHARS = 4096
"""So many: half a millisecond. A thread that has to fight engines for a core can take a tenth of a second to begin."""
MAX_TOKENIZED_BYTES = 1024 * 1024
"""A larger body is keyed by its bytes: its rendering alone would take too long."""
_WORK_SHARE = 0.75
"""After this share of the limit the thread begins no more work: what it has by then arrives in time."""
DEFAULT_BLOCK_TOKENS = (16,)


class PromptReader:
    """Reads the prompts of one variant.

    thread:    where that takes long.
    lengths:   of the deployment.
    adapter:   LoRA adapter of the variant, by the engine's name for it; empty: none.
    tokenizer: the model's own; None: prompts are keyed by their bytes.
    asked_for: whether the operator named it, and is to be warned if it cannot be had.
    name:      of the variant, for logs.
    """

    def __init__(
        self,
        thread: PromptThread,
        lengths: Lengths,
        *,
        adapter: str = "",
        tokenizer: Future[ChatTokenizer] | None = None,
        asked_for: bool = True,
        name: str = "",
    ) -> None:
        self._thread = thread
        self._lengths = lengths
        self._adapter = adapter
        self._name = name
        self._asked_for = asked_for
        self._memo = KeyMemo(KEY_MEMO_BYTES)
        self._tokenizer: ChatTokenizer | None = None
        if tokenizer is not None:
            tokenizer.add_done_callback(self._loaded)

    def __repr__(self) -> str:
        return f"<PromptReader {self._name!r} tokenizer={self._tokenizer!r} {self._lengths!r}>"

    def read(
        self, call: Call, headers: Mapping[bytes, bytes], block_tokens: Sequence[int] = DEFAULT_BLOCK_TOKENS
    ) -> PromptFacts | Awaitable[PromptFacts]:
        """What there is to know. Never raises: what cannot be read has no keys. A call is read once, however often
        this is asked.

        Args:
            call: the request.
            headers: the client's, names in lower case.
            block_tokens: sizes of the engines' KV blocks, the first for `PromptFacts.keys`; senseless ones are 16.

        Returns:
            The facts, at once where little is to be done; else within the thread's limit.
        """
        if not block_tokens or min(block_tokens) <= 0:
            block_tokens = DEFAULT_BLOCK_TOKENS
        known = call.reading
        if known is not None and known.by is self and known.block_tokens == block_tokens:
            return known.facts
        facts = self._read(call, headers, block_tokens)
        if isinstance(facts, PromptFacts):
            call.reading = Reading(self, block_tokens, facts)
            return facts
        return self._kept(facts, call, block_tokens)

    def measure(self, call: Call, headers: Mapping[bytes, bytes]) -> PromptFacts | Awaitable[PromptFacts]:
        """As `read`, for who asks for lengths alone: where keys would cost more, there are none."""
        known = call.reading
        if known is not None and known.by is self:
            return known.facts
        if self._tokenizer is None and len(call.body) <= INLINE_BYTES:
            chat = call.plain
            if chat is not None:
                size = plain_text_bytes(chat)
                limit = chat.max_completion_tokens or chat.max_tokens
                facts = PromptFacts(self._lengths.prompt_tokens(size), text_bytes=size, max_output_tokens=limit)
                call.reading = Reading(self, (), facts)
                return facts
        return self.read(call, headers)

    async def _kept(self, reading: Awaitable[PromptFacts], call: Call, block_tokens: Sequence[int]) -> PromptFacts:
        facts = await reading
        call.reading = Reading(self, block_tokens, facts)
        return facts

    def _read(
        self, call: Call, headers: Mapping[bytes, bytes], block_tokens: Sequence[int]
    ) -> PromptFacts | Awaitable[PromptFacts]:
        tokenizer = self._tokenizer if len(call.body) <= MAX_TOKENIZED_BYTES else None
        if tokenizer is None and len(call.body) <= INLINE_BYTES:
            return self._by_bytes(call, headers, block_tokens, self._memo)
        if tokenizer is not None and _is_small(call.body):
            try:
                facts = self._thread.at_once(
                    lambda: self._tokenized(tokenizer, call, headers, block_tokens, INLINE_CHARS)
                )
            except Exception:
                return self._unreadable(call, headers, block_tokens)
            if facts is not None:
                return facts
        return self._elsewhere(tokenizer, call, headers, block_tokens)

    def learn(
        self, facts: PromptFacts, *, prompt_tokens: int | None, output_tokens: int | None, cut: bool = False
    ) -> None:
        """What the engine counted in the end. cut: the answer was ended by its limit."""
        if prompt_tokens is not None:
            self._lengths.learn_prompt(facts.text_bytes, prompt_tokens)
        if output_tokens is not None:
            self._lengths.learn_output(output_tokens, cut=cut)

    def output_tokens(self, facts: PromptFacts) -> float:
        """Expected length of the answer."""
        return self._lengths.output_tokens(facts.max_output_tokens)

    @property
    def long_answer_tokens(self) -> int:
        """Few answers are longer."""
        return self._lengths.long_answer_tokens

    def _loaded(self, loading: Future[ChatTokenizer]) -> None:
        if loading.cancelled():
            return
        error = loading.exception()
        if error is None:
            self._tokenizer = loading.result()
            return
        from gateway.prompts.tokenizer import NoTokenizer

        why = str(error) if isinstance(error, NoTokenizer) else repr(error)
        level = logging.WARNING if self._asked_for else logging.INFO
        logger.log(level, "%s: its prompts are keyed by their bytes: %s (setting `tokenizer`)", self._name, why)

    async def _elsewhere(
        self,
        tokenizer: ChatTokenizer | None,
        call: Call,
        headers: Mapping[bytes, bytes],
        block_tokens: Sequence[int],
    ) -> PromptFacts:
        thread = self._thread
        until_s = time.monotonic() + thread.patience_s
        job = thread.submit(lambda: self._in_thread(tokenizer, call, headers, block_tokens, until_s))
        if job is None:
            return self._late(call, headers, block_tokens)
        thread.pending += 1
        try:
            async with asyncio.timeout(thread.patience_s):
                return await asyncio.wrap_future(job)
        except TimeoutError:
            return self._late(call, headers, block_tokens)
        except Exception:
            return self._unreadable(call, headers, block_tokens)
        finally:
            thread.pending -= 1

    def _unreadable(self, call: Call, headers: Mapping[bytes, bytes], block_tokens: Sequence[int]) -> PromptFacts:
        logger.exception("%s: a prompt could not be read", self._name)
        return self._late(call, headers, block_tokens)

    def _late(self, call: Call, headers: Mapping[bytes, bytes], block_tokens: Sequence[int]) -> PromptFacts:
        if len(call.body) <= INLINE_BYTES:
            return self._by_bytes(call, headers, block_tokens, self._memo)
        return self._unread(call)

    def _in_thread(
        self,
        tokenizer: ChatTokenizer | None,
        call: Call,
        headers: Mapping[bytes, bytes],
        block_tokens: Sequence[int],
        until_s: float,
    ) -> PromptFacts:
        if time.monotonic() >= until_s:
            return self._unread(call)  # nobody waits for it any more
        if tokenizer is None:
            return self._by_bytes(call, headers, block_tokens, self._thread.memo)
        facts = self._tokenized(tokenizer, call, headers, block_tokens)
        assert facts is not None
        return facts

    def _tokenized(
        self,
        tokenizer: ChatTokenizer,
        call: Call,
        headers: Mapping[bytes, bytes],
        block_tokens: Sequence[int],
        most_chars: int | None = None,
    ) -> PromptFacts | None:
        """None: more than `most_chars` would have to be tokenized for it."""
        memo = self._thread.memo
        prompt = read_prompt(call.operation, call.body, headers)
        if prompt is None or prompt.token_ids or prompt.media:
            return self._by_bytes(call, headers, block_tokens, memo)
        deadline_s = time.thread_time() + self._thread.limit_s * _WORK_SHARE
        encoded = tokenizer.encode(call.operation, call.body, deadline_s, most_chars)
        if encoded is None:
            return self._by_bytes(call, headers, block_tokens, memo)
        if encoded.rest_chars and most_chars is not None:
            return None
        others = self._lengths.prompt_tokens(encoded.rest_chars + prompt.text_bytes - len(prompt.data))
        others += prompt.id_count
        return self._facts(prompt, encoded.ids, others, block_tokens, memo)

    def _by_bytes(
        self, call: Call, headers: Mapping[bytes, bytes], block_tokens: Sequence[int], memo: KeyMemo
    ) -> PromptFacts:
        prompt = read_prompt(call.operation, call.body, headers)
        if prompt is None:
            return self._unread(call)
        estimate = self._lengths.prompt_tokens(prompt.text_bytes) + prompt.media * MEDIA_TOKENS
        if prompt.token_ids:
            others = prompt.id_count - len(prompt.data) // TOKEN_BYTES + estimate
            return self._facts(prompt, prompt.data, others, block_tokens, memo)
        return PromptFacts(
            prompt_tokens=estimate + prompt.id_count,
            keys=memo.chain(prompt.data, BLOCK_BYTES, first_seed(self._adapter, prompt.salt)),
            block_tokens=BLOCK_BYTES / self._lengths.bytes_per_token,
            adapter=self._adapter,
            salt=prompt.salt,
            session=prompt.session,
            max_output_tokens=prompt.max_output_tokens,
            text_bytes=0 if prompt.media or prompt.id_count else prompt.text_bytes,
        )

    def _facts(
        self, prompt: Prompt, ids: bytes, other_tokens: int, block_tokens: Sequence[int], memo: KeyMemo
    ) -> PromptFacts:
        """Of a prompt whose token ids are known. other_tokens: what is not among them."""
        seed = first_seed(self._adapter, prompt.salt)
        keys = [(size, memo.chain(ids, size * TOKEN_BYTES, seed)) for size in block_tokens]
        return PromptFacts(
            prompt_tokens=len(ids) // TOKEN_BYTES + other_tokens,
            estimated=other_tokens > 0,
            keys=keys[0][1],
            block_tokens=float(keys[0][0]),
            exact=True,
            adapter=self._adapter,
            salt=prompt.salt,
            session=prompt.session,
            max_output_tokens=prompt.max_output_tokens,
            text_bytes=prompt.text_bytes if not prompt.id_count else 0,
            _ids=ids,
            _seed=seed,
            _others=tuple(keys[1:]),
        )

    def _unread(self, call: Call) -> PromptFacts:
        return PromptFacts(prompt_tokens=self._lengths.prompt_tokens(len(call.body)), adapter=self._adapter)


def _is_small(body: bytes) -> bool:
    return len(body) <= INLINE_TOKENIZED_BYTES and body.count(b"{") <= INLINE_OBJECTS
