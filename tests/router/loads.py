"""Replicas whose books say what a test needs."""

from __future__ import annotations

from router.load import ReplicaLoad


def replica(name: str = "p-0", **books: float) -> ReplicaLoad:
    """A replica with these figures in its books; what is not named is 0."""
    load = ReplicaLoad(name)
    for figure, value in books.items():
        setattr(load, figure, value)
    return load
