"""How many tenants were given the same answer, before everybody may have it."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import sha256

MOST = 20_000
"""Questions whose votes are kept in a worker; the oldest go first."""
MOST_TENANTS = 128
"""Of one question."""


class Votes:
    """Of one worker: each counts what it has seen itself."""

    def __init__(self) -> None:
        self._votes: OrderedDict[bytes, dict[str, bytes]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Votes questions={len(self._votes)}>"

    def cast(self, key: bytes, tenant: str, text: str) -> int:
        """A tenant's own answer to the question of that key. Returns how many tenants' latest answer was this one."""
        votes = self._votes.setdefault(key, {})
        self._votes.move_to_end(key)
        digest = sha256(text.encode()).digest()
        if tenant in votes or len(votes) < MOST_TENANTS:
            votes[tenant] = digest
        if len(self._votes) > MOST:
            self._votes.popitem(last=False)
        return sum(1 for one in votes.values() if one == digest)

    def forget(self, key: bytes) -> None:
        """Everybody has the answer now."""
        self._votes.pop(key, None)
