"""How many tenants were given the same answer, before everybody may have it."""

from __future__ import annotations

from collections import OrderedDict

from cache.entry import Voted

MOST = 20_000
"""Questions whose votes are remembered; the oldest go first."""
MOST_TENANTS = 128
"""Of one question."""


class Votes:
    """Of all workers and gateways that share a journal. The latest of each tenant counts, for as long as its answer
    would be kept."""

    def __init__(self) -> None:
        self._votes: OrderedDict[bytes, dict[bytes, Voted]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Votes questions={len(self._votes)}>"

    def cast(self, voted: Voted) -> None:
        """The same again changes nothing."""
        votes = self._votes.setdefault(voted.key, {})
        self._votes.move_to_end(voted.key)
        before = votes.get(voted.tenant)
        if (before is None and len(votes) < MOST_TENANTS) or (before is not None and before.at <= voted.at):
            votes[voted.tenant] = voted
        if len(self._votes) > MOST:
            self._votes.popitem(last=False)

    def count(self, key: bytes, answer: bytes, now: float) -> int:
        """Tenants whose latest answer is this one."""
        return sum(1 for each in self._votes.get(key, {}).values() if each.answer == answer and each.expires_at > now)

    def forget(self, key: bytes) -> None:
        """Everybody has an answer now."""
        self._votes.pop(key, None)

    def forget_before(self, at: float) -> None:
        for key, votes in list(self._votes.items()):
            self._votes[key] = {tenant: each for tenant, each in votes.items() if each.at > at}
            if not self._votes[key]:
                del self._votes[key]
