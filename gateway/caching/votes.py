"""Answers that several tenants were given, each by the engine, before all may have them from the cache."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b, sha256
from typing import Final

from cache.entry import Record, Voted
from cache.library import Library
from gateway.caching.places import Places

_DIGEST_BYTES: Final = 16


class Votes:
    """Casts those of this worker, and counts those of all.

    tell: takes records for the journal. keep_s: for how long a vote counts.
    """

    def __init__(
        self,
        library: Library,
        places: Places,
        tell: Callable[[Record], None],
        wall_s: Callable[[], float],
        keep_s: float,
    ) -> None:
        self._library = library
        self._places = places
        self._tell = tell
        self._wall_s = wall_s
        self._keep_s = keep_s

    def cast(self, key: bytes, tenant: str, text: str) -> int:
        """A tenant's own answer to the question of that key. Returns how many tenants' latest answer was this one."""
        now, answer = self._wall_s(), self._digest(b"answer", text)
        self._tell(Voted(key, self._digest(b"tenant", tenant), answer, now, now + self._keep_s))
        return self._library.votes.count(key, answer, now)

    def _digest(self, what: bytes, text: str) -> bytes:
        key = sha256(self._places.secret).digest()
        return blake2b(text.encode(errors="replace"), digest_size=_DIGEST_BYTES, key=key, person=what).digest()
