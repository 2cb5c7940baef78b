"""A bound on extra requests: at most a share of the ordinary ones, whatever happens (A19)."""

from __future__ import annotations

QUIET_S = 60.0
"""After a word that nothing is left, no other one for this long."""
MOST_SAVED = 1000.0
"""Extra requests at most that a long calm can have saved up for a bad minute."""


class Share:
    """A bucket that every ordinary request puts `share` of a token into, and every extra one takes a whole one from.

    reserve: tokens that are there at the start and come back at one a second, so that a quiet gateway may retry.
    """

    __slots__ = ("_filled_s", "_reserve", "_tokens", "_warned_s", "share")

    def __init__(self, share: float, reserve: float = 0.0) -> None:
        self.share = share
        self._reserve = reserve
        self._tokens = reserve
        self._filled_s = 0.0
        self._warned_s = -QUIET_S

    def __repr__(self) -> str:
        return f"<Share {self.share:g} tokens={self._tokens:.2f}>"

    def earn(self) -> None:
        """An ordinary request."""
        if self._tokens < MOST_SAVED:
            self._tokens += self.share

    def spend(self, now_s: float) -> bool:
        """Whether an extra request may be sent now; if so it is counted."""
        if self._tokens < self._reserve:
            self._tokens = min(self._reserve, self._tokens + now_s - self._filled_s)
        self._filled_s = now_s
        # Tenths do not add up to whole numbers.
        if self._tokens < 1.0 - 1e-9:
            return False
        self._tokens -= 1.0
        return True

    def worth_a_word(self, now_s: float) -> bool:
        """Nothing was left: whether to say so now."""
        if now_s - self._warned_s < QUIET_S:
            return False
        self._warned_s = now_s
        return True
