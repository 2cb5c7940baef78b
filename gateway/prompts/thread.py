"""The thread for what takes long to read, shared by all readers of a worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gateway.prompts.facts import PromptFacts
from gateway.prompts.keys import KeyMemo

if TYPE_CHECKING:
    from gateway.prompts.tokenizer import ChatTokenizer

_Result = TypeVar("_Result")

MAX_PENDING = 16
"""With so many prompts waiting for the thread, or one that takes too long, the next is keyed by its bytes at once."""
LIMIT_S = 0.020
PATIENCE = 5.0
"""So many times the limit is waited: others may need the cores, as engines on the same machine do."""
MEMO_BYTES = 64 * 1024 * 1024
KEY_MEMO_BYTES = 8 * 1024 * 1024


class PromptThread:
    """The one thread in which tokenizers do what takes long, and what they share. Whoever builds it closes it.

    limit_s: a prompt that takes the thread longer is keyed by its bytes. None is held up for more than `PATIENCE` times
        as long, whatever else the machine does.
    memo_bytes: memory of each tokenizer for what it has encoded.
    """

    def __init__(self, limit_s: float = LIMIT_S, memo_bytes: int = MEMO_BYTES) -> None:
        self.limit_s = limit_s
        self.patience_s = limit_s * PATIENCE
        self._memo_bytes = memo_bytes
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        self._at_work = threading.Lock()
        """Held while a tokenizer is used."""
        self._closed = False
        self._loads: dict[tuple[Path, Path | None], Future[ChatTokenizer]] = {}
        self._began_s = 0.0
        """When the thread began what it is doing; 0: it does nothing."""
        self.pending = 0
        """Prompts that wait, or are being read."""
        self.memo = KeyMemo(KEY_MEMO_BYTES)
        """Of what is tokenized."""

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

    def at_once(self, job: Callable[[], _Result]) -> _Result | None:
        """Do it here and now, unless others wait for the thread or it is at work: then None."""
        if self.pending or self._closed or not self._at_work.acquire(blocking=False):
            return None
        try:
            return job()
        finally:
            self._at_work.release()

    def _run(self, job: Callable[[], _Result]) -> _Result:
        with self._at_work:
            self._began_s = time.monotonic()
            try:
                return job()
            finally:
                self._began_s = 0.0

    def close(self) -> None:
        """What waits is dropped. Returns at once; the thread ends with what it has begun."""
        self._closed = True
        self._executor.shutdown(wait=False, cancel_futures=True)


def _load(path: Path, chat_template: Path | None, max_bytes: int) -> ChatTokenizer:
    from gateway.prompts.tokenizer import load_tokenizer  # and with it Jinja

    return load_tokenizer(path, chat_template, max_bytes)
