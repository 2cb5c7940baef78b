"""Counts the tokens of prompts for OpenAI's models, with their own encodings."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

from xxhash import xxh3_128_digest

from gateway.tokens.encodings import NoEncoding
from gateway.tokens.texts import Texts, texts_of
from gateway.wire import Call

logger = logging.getLogger(__name__)

INLINE_CHARS = 8192
"""So many new characters are encoded on the event loop: about a millisecond."""
PIECE_CHARS = 16_384
"""A longer text is encoded in pieces of this size, so that the time limit is kept."""
PATIENCE_S = 0.1
"""How long a call waits for its count at most; after that the count is an estimate."""
MAX_BODY_BYTES = 1024 * 1024
"""The prompt of a larger body is estimated."""
MAX_PENDING = 64
MEMO_TEXTS = 16_384
"""Texts that are remembered: conversations say everything again."""
_MEMO_CHARS = 64
"""A shorter text is encoded as fast as it is looked up."""


class Encoding(Protocol):
    """What of `tiktoken.Encoding` is used."""

    def encode_ordinary(self, text: str) -> list[int]: ...


class Count(NamedTuple):
    tokens: int
    estimated: bool


Counting = Coroutine[Any, Any, Count | None]


class TokenCounter:
    """One for each encoding and worker.

    name:     of the encoding.
    load:     opens it; called in the executor when the first prompt is to be counted.
    executor: where long prompts are encoded; one thread.
    """

    def __init__(self, name: str, load: Callable[[], Encoding], executor: ThreadPoolExecutor) -> None:
        self._name = name
        self._load: Callable[[], Encoding] | None = load
        self._executor = executor
        self._encoding: Encoding | None = None
        self._memo: OrderedDict[bytes, int] = OrderedDict()
        self._pending = 0

    def __repr__(self) -> str:
        there = "" if self._encoding is not None else " not loaded"
        return f"<TokenCounter {self._name}{there} texts={len(self._memo)} pending={self._pending}>"

    def count(self, call: Call) -> Count | Counting | None:
        """The tokens of the call's prompt; at once where little of it is new. None: they cannot be counted."""
        encoding = self._encoding
        if encoding is None:
            self._begin_loading()
            return None
        if len(call.body) > MAX_BODY_BYTES:
            return None
        texts = texts_of(call)
        if texts is None:
            return None
        known, new = self._recall(texts)
        if sum(map(len, new)) > INLINE_CHARS:
            return self._elsewhere(encoding, texts, known, new)
        return self._sum(texts, known, new, [_count(encoding, text) for text in new])

    def _recall(self, texts: Texts) -> tuple[int, list[str]]:
        """Tokens of what was counted before, and what was not."""
        known, new = 0, []
        for text in texts.texts:
            tokens = None
            if len(text) >= _MEMO_CHARS:
                key = _key(text)
                tokens = self._memo.get(key)
                if tokens is not None:
                    self._memo.move_to_end(key)
                    known += tokens
            if tokens is None:
                new.append(text)
        return known, new

    def _sum(self, texts: Texts, known: int, new: Sequence[str], counts: Sequence[int | None]) -> Count | None:
        total = texts.tokens + known
        for text, tokens in zip(new, counts, strict=True):
            if tokens is None:
                return None
            total += tokens
            if len(text) >= _MEMO_CHARS:
                self._memo[_key(text)] = tokens
        while len(self._memo) > MEMO_TEXTS:
            self._memo.popitem(last=False)
        return Count(total, texts.estimated)

    async def _elsewhere(self, encoding: Encoding, texts: Texts, known: int, new: Sequence[str]) -> Count | None:
        if self._pending >= MAX_PENDING:
            return None
        until_s = time.monotonic() + PATIENCE_S
        self._pending += 1
        try:
            async with asyncio.timeout(PATIENCE_S):
                job = self._executor.submit(_count_all, encoding, new, until_s)
                return self._sum(texts, known, new, await asyncio.wrap_future(job))
        except (TimeoutError, RuntimeError):  # the executor is shut down
            return None
        finally:
            self._pending -= 1

    def _begin_loading(self) -> None:
        load, self._load = self._load, None
        if load is not None:
            with contextlib.suppress(RuntimeError):  # the executor is shut down
                self._executor.submit(load).add_done_callback(self._loaded)

    def _loaded(self, loading: Future[Encoding]) -> None:
        if loading.cancelled():
            return
        error = loading.exception()
        if error is None:
            self._encoding = loading.result()
            return
        why = str(error) if isinstance(error, NoEncoding) else repr(error)
        logger.warning("the tokens of prompts for %s are estimated: %s", self._name, why)


def _key(text: str) -> bytes:
    return xxh3_128_digest(text.encode())


def _count_all(encoding: Encoding, texts: Sequence[str], until_s: float) -> Sequence[int | None]:
    """None for what there was no time for."""
    return [_count(encoding, text, until_s) for text in texts]


def _count(encoding: Encoding, text: str, until_s: float | None = None) -> int | None:
    tokens, at = 0, 0
    while at < len(text):
        if until_s is not None and time.monotonic() >= until_s:
            return None
        end = _cut(text, at)
        try:
            tokens += len(encoding.encode_ordinary(text[at:end]))
        except BaseException as error:  # a panic of the library is no Exception
            if not _is_panic(error):
                raise
            return None
        at = end
    return tokens


def _is_panic(error: BaseException) -> bool:
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _cut(text: str, start: int) -> int:
    """Where a piece ends: before a word if there is one, as encodings never join one with what is before its space."""
    end = start + PIECE_CHARS
    if end >= len(text):
        return len(text)
    for at in range(end, max(start, end - 256), -1):
        if text[at] == " " and text[at + 1 : at + 2].isalpha() and not text[at - 1].isspace():
            return at
    return end
