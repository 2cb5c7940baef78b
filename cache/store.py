"""The seam to cached answers, and the exact cache: the same tenant, the same question, the same bytes."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """A whole successful answer as the client saw it; `stream` answers replay as event streams."""

    body: bytes
    stream: bool
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ResponseCache(Protocol):
    """Finds answers to requests that are the same in everything that matters."""

    def get(self, key: bytes) -> CachedAnswer | None: ...

    def put(self, key: bytes, answer: CachedAnswer) -> None: ...


def exact_key(tenant: str, operation: str, body: bytes) -> bytes:
    """32 bytes that two requests share only if tenant, operation and every byte of the body agree (A21)."""
    digest = hashlib.sha256()
    for part in (tenant.encode(), operation.encode(), body):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


class ExactCache:
    """In process, least recently used out first, bounded in bytes, with an age limit."""

    ENTRY_OVERHEAD_BYTES = 400

    def __init__(self, max_bytes: int, ttl_s: float, now: Callable[[], float]) -> None:
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._now = now
        self._entries: OrderedDict[bytes, tuple[float, CachedAnswer]] = OrderedDict()
        self.size_bytes = 0

    def __repr__(self) -> str:
        return f"<ExactCache entries={len(self._entries)} size_bytes={self.size_bytes}>"

    def get(self, key: bytes) -> CachedAnswer | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        stored_s, answer = entry
        if self._now() - stored_s > self._ttl_s:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return answer

    def put(self, key: bytes, answer: CachedAnswer) -> None:
        if key in self._entries:
            self._drop(key)
        size = self._size(answer)
        if size > self._max_bytes // 4:
            return
        self._entries[key] = (self._now(), answer)
        self.size_bytes += size
        while self.size_bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: bytes) -> None:
        _, answer = self._entries.pop(key)
        self.size_bytes -= self._size(answer)

    def _size(self, answer: CachedAnswer) -> int:
        return len(answer.body) + self.ENTRY_OVERHEAD_BYTES
