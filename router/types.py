"""The seam to replica choice: what a policy sees and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class ReplicaView(Protocol):
    """A replica as a policy may read it: the gateway's own ledger of outstanding work."""

    @property
    def name(self) -> str: ...

    @property
    def in_flight(self) -> int:
        """Requests sent and not yet answered to the end."""
        ...

    @property
    def served(self) -> int:
        """Requests ever sent."""
        ...


class Features(msgspec.Struct, frozen=True):
    """What is known of a request before it is sent.

    prompt_bytes: size of the body; a stand-in for its tokens.
    """

    prompt_bytes: int = 0


class Policy(Protocol):
    """Chooses a replica. Pure: no I/O, no clock, no logging; randomness comes in through the constructor."""

    def choose(self, features: Features, replicas: Sequence[ReplicaView]) -> int:
        """The index of the chosen replica. `replicas` is not empty and holds only eligible ones."""
        ...
