"""The seam to replica choice: what a policy sees and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from router.load import ReplicaLoad


class Features(msgspec.Struct, frozen=True):
    """What is known of a request before it is sent, and where its prefix lies.

    prompt_tokens: length of the prompt; where nobody can count it, an estimate from its bytes.
    output_tokens: expected length of the answer.
    cached:        of the prompt's leading tokens, how many each candidate holds in its KV cache, in the candidates'
                   order; empty: nothing is known of any.
    session:       what keeps the requests of one conversation together; empty: nothing does.
    now_s:         the present, monotonic seconds.
    """

    prompt_tokens: int = 0
    output_tokens: float = 0.0
    cached: Sequence[int] = ()
    session: str = ""
    now_s: float = 0.0

    def cached_at(self, index: int) -> int:
        return self.cached[index] if self.cached else 0


class Policy(Protocol):
    """Chooses a replica. Pure: no I/O, no clock, no logging; randomness comes in through the constructor.

    needs_prefix: whether `Features.cached` makes a difference to it.
    """

    @property
    def needs_prefix(self) -> bool: ...

    def choose(self, features: Features, replicas: Sequence[ReplicaLoad]) -> int:
        """The index of the chosen replica. `replicas` is not empty and holds only eligible ones."""
        ...

    def terms(self, features: Features, replicas: Sequence[ReplicaLoad]) -> list[Mapping[str, float]]:
        """For people: each candidate's figure, term by term; changes nothing.

        `cost` is the figure that decides, the lowest wins; it has the unit that the policy's rule gives it.
        """
        ...
