"""The directory as the office knows it: whole, packed, and ready to be told to a worker at any moment."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gateway.directory.entries import Changes, OrganisationEntry, Snapshot, TeamEntry
from gateway.directory.frames import Begin, Changed, Frame, Keys, Whole, head_of, pack_key

KEYS_A_FRAME = 500
"""So that a worker that reads them is busy for about a millisecond at a time."""


class Book:
    """seq: of the last change that it holds. at: Unix time at which the database was last reached.

    known: whether it holds anything at all.
    """

    def __init__(self) -> None:
        self.known = False
        self.seq = -1
        self.at = -math.inf
        self._salt = ""
        self._organisations: dict[str, OrganisationEntry] = {}
        self._teams: dict[tuple[str, str], TeamEntry] = {}
        self._keys: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"<Book seq={self.seq} keys={len(self._keys)}>"

    def __len__(self) -> int:
        return len(self._keys)

    def replace(self, snapshot: Snapshot, at: float) -> None:
        self.take(Begin(snapshot.seq, snapshot.salt, snapshot.organisations, snapshot.teams))
        self.take(Keys([pack_key(key) for key in snapshot.keys]))
        self.take(Whole(at))

    def take(self, frame: Frame) -> None:
        """As a worker would."""
        match frame:
            case Begin():
                self._begin(frame)
            case Keys(packed=packed):
                self._keys.update((head_of(one)[0], one) for one in packed)
            case Whole(at=at):
                self.known, self.at = True, at
            case Changed(changes=changes, at=at):
                self._change(changes)
                self.at = at
            case _:
                self.at = max(self.at, frame.at)

    def _begin(self, begin: Begin) -> None:
        self.known = False
        self.seq, self._salt = begin.seq, begin.salt
        self._organisations = {entry.name: entry for entry in begin.organisations}
        self._teams = {(entry.organisation, entry.name): entry for entry in begin.teams}
        self._keys = {}

    def _change(self, changes: Changes) -> None:
        self.seq = changes.seq
        for key_id in changes.gone:
            self._keys.pop(key_id, None)
        self._keys.update((key.id, pack_key(key)) for key in changes.keys)
        self._organisations.update((entry.name, entry) for entry in changes.organisations)
        self._teams.update(((entry.organisation, entry.name), entry) for entry in changes.teams)

    def frames(self) -> Iterator[Frame]:
        """All of it, as it is now, whatever becomes of it while the frames are taken."""
        begin = Begin(self.seq, self._salt, list(self._organisations.values()), list(self._teams.values()))
        keys, at = list(self._keys.values()), self.at
        return _frames(begin, keys, at)


def _frames(begin: Begin, keys: list[bytes], at: float) -> Iterator[Frame]:
    yield begin
    for first in range(0, len(keys), KEYS_A_FRAME):
        yield Keys(keys[first : first + KEYS_A_FRAME])
    yield Whole(at)
