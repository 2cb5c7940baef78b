"""Where a reader stands in what one publisher says: messages are numbered from 0, some get lost, some come twice."""

from __future__ import annotations

import enum

from xxhash import xxh3_64_intdigest


class Verdict(enum.Enum):
    """What a live message is to who has read up to `Sequence.next`."""

    NEXT = enum.auto()
    SEEN = enum.auto()
    """It came by replay already."""
    GAP = enum.auto()
    """Some before it are missing."""
    RESTART = enum.auto()
    """The publisher began anew: the numbers stand for other messages."""


class Sequence:
    """The reader's place. `next`: the number of the first message that was not taken."""

    __slots__ = ("_digest", "_live", "_ts_s", "next")

    def __init__(self) -> None:
        self.next = 0
        self._digest = 0
        self._ts_s = float("-inf")
        self._live = -1
        """The last number that came live: there they only grow, as long as the publisher lives."""

    def __repr__(self) -> str:
        return f"<Sequence next={self.next}>"

    def judge(self, number: int, ts_s: float) -> Verdict:
        """What the live message `number`, sent at `ts_s` by the publisher's wall clock, is."""
        fell_back = number <= self._live
        self._live = number
        if number >= self.next:
            return Verdict.GAP if number > self.next else Verdict.NEXT
        # A number taken before: by replay, or this is another message. Then it is younger than all that were taken.
        return Verdict.RESTART if fell_back or ts_s > self._ts_s else Verdict.SEEN

    def took(self, number: int, ts_s: float, payload: bytes) -> None:
        """This one is the last that was taken."""
        self.next, self._ts_s = number + 1, ts_s
        self._digest = xxh3_64_intdigest(payload)

    def is_last(self, payload: bytes) -> bool:
        """Whether this is what was taken last, so that its publisher is still the same."""
        return xxh3_64_intdigest(payload) == self._digest

    def reset(self) -> None:
        """The publisher began anew."""
        self.next = 0
        self._digest, self._ts_s = 0, float("-inf")

    def reconnected(self) -> None:
        """What comes live from now on begins wherever the publisher is."""
        self._live = -1
