"""Reads prompts for routing: at once where that is cheap, else in a thread, within a time limit."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gateway.prompts.body import MEDIA_TOKENS, Prompt, read_prompt
from gateway.prompts.facts import PromptFacts
from gateway.prompts.keys import TOKEN_BYTES, KeyMemo, first_seed
from gateway.prompts.lengths import Lengths
from gateway.wire import Call

if TYPE_CHECKING:
    from gateway.prompts.tokenizer import ChatTokenizer

logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")

BLOCK_BYTES = 256
"""Without token ids: bytes to a block."""
INLINE_BYTES = 256 * 1024
"""A body up to this size is read on the event loop if there is no tokenizer: well under half a millisecond."""
MAX_TOKENIZED_BYTES = 1024 * 1024
"""A larger body is keyed by its bytes: its rendering alone would take too long."""
MAX_PENDING = 16
"""With so many prompts waiting for the thread, or one that takes too long, the next is keyed by its bytes at once."""
LIMIT_S = 0.020
PATIENCE = 5.0
"""So many times the limit is waited: others may need the cores, as engines on the same machine do."""
_WORK_SHARE = 0.75
"""After this share of the limit the thread begins no more work: what it has by then arrives in time."""
MEMO_BYTES = 64 * 1024 * 1024
KEY_MEMO_BYTES = 8 * 1024 * 1024
DEFAULT_BLOCK_TOKENS = (16,)


class PromptThread:
    """The one thread in which tokenizers run, and what they share. Whoever builds it closes it.

    limit_s: a prompt that takes the thread longer is keyed by its bytes. None is held up for more than `PATIENCE` times
        as long, whatever else the machine does.
    memo_bytes: memory of each tokenizer for what it has encoded.
    """

    def __init__(self, limit_s: float = LIMIT_S, memo_bytes: int = MEMO_BYTES) -> None:
        self.limit_s = limit_s
        self.patience_s = limit_s * PATIENCE
        self._memo_bytes = memo_bytes
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        self._loads: dict[tuple[Path, Path | None], Future[ChatTokenizer]] = {}
        self._began_s = 0.0
        """When the thread began what it is doing; 0: it does nothing."""
        self.pending = 0
        """Prompts that wait, or are being read."""
        self.memo = KeyMemo(KEY_MEMO_BYTES)
        """Of the thread."""

    def __repr__(self) -> str:
        return f"<PromptThread pending={self.pending} tokenizers={len(self._loads)}>"

    def load(self, path: Path, chat_template: Path | None = None) -> Future[ChatTokenizer]:
        """The tokenizer that lies there, as soon as the thread has read it; the same one for all who ask."""
        name = (path, chat_template)
        if name not in self._loads:
            self._loads[name] = self._executor.submit(self._run, lambda: _load(path, chat_template, self._memo_bytes))
        return self._loads[name]

    def submit(self, job: Callable[[], PromptFacts]) -> Future[PromptFacts] | None:
        """None: it would wait too long, or the thread is closed."""
        began_s = self._began_s
        if self.pending >= MAX_PENDING or (began_s and time.monotonic() - began_s > self.patience_s):
            return None
        try:
            return self._executor.submit(self._run, job)
        except RuntimeError:
            return None

    def _run(self, job: Callable[[], _Result]) -> _Result:
        self._began_s = time.monotonic()
        try:
            return job()
        finally:
            self._began_s = 0.0

    def close(self) -> None:
        """What waits is dropped. Returns at once; the thread ends with what it has begun."""
        self._executor.shutdown(wait=False, cancel_futures=True)


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
        """What there is to know. Never raises: what cannot be read has no keys.

        Args:
            call: the request.
            headers: the client's, names in lower case.
            block_tokens: sizes of the engines' KV blocks, the first for `PromptFacts.keys`; senseless ones are 16.

        Returns:
            The facts, at once where there is no tokenizer and the body is small; else within the thread's limit.
        """
        if not block_tokens or min(block_tokens) <= 0:
            block_tokens = DEFAULT_BLOCK_TOKENS
        tokenizer = self._tokenizer if len(call.body) <= MAX_TOKENIZED_BYTES else None
        if tokenizer is None and len(call.body) <= INLINE_BYTES:
            return self._by_bytes(call, headers, block_tokens, self._memo)
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
            logger.exception("%s: a prompt could not be read", self._name)
            return self._late(call, headers, block_tokens)
        finally:
            thread.pending -= 1

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
        memo = self._thread.memo
        prompt = None if tokenizer is None else read_prompt(call.operation, call.body, headers)
        if tokenizer is None or prompt is None or prompt.token_ids or prompt.media:
            return self._by_bytes(call, headers, block_tokens, memo)
        deadline_s = time.thread_time() + self._thread.limit_s * _WORK_SHARE
        encoded = tokenizer.encode(call.operation, call.body, deadline_s)
        if encoded is None:
            return self._by_bytes(call, headers, block_tokens, memo)
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


def _load(path: Path, chat_template: Path | None, max_bytes: int) -> ChatTokenizer:
    from gateway.prompts.tokenizer import load_tokenizer  # and with it Jinja

    return load_tokenizer(path, chat_template, max_bytes)
