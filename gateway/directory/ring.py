"""Who there is, as one process knows it: from the office's frames, in memory, looked up without waiting."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

from gateway.clock import wall_time_s
from gateway.directory.entries import Changes, KeyEntry, OrganisationEntry, TeamEntry
from gateway.directory.frames import Alive, Begin, Changed, Frame, Keys, Whole, head_of, pack_key, unpack_key
from gateway.identity import NOBODY, Caller, networks_of


class Ring:
    """Implements `gateway.identity.Directory`.

    One dict leads from the whole digest of a key to what it may do. Keys that nobody has shown yet stay packed: so
    100,000 of them take some 30 MB.

    organisations, teams: by name, and by organisation and name.
    on_change: called when organisations or teams may have changed.
    alive_at:  Unix time at which the database was last reached by who tells of it.
    """

    def __init__(self, grace_s: float, wall_s: Callable[[], float] = wall_time_s) -> None:
        self._grace_s = grace_s
        self._wall_s = wall_s
        self._salted = hashlib.sha256()
        self._keys: dict[bytes, bytes | Caller] = {}
        self._digests: dict[str, bytes] = {}
        self._coming: _Coming | None = None
        self._known = False
        self.organisations: dict[str, OrganisationEntry] = {}
        self.teams: dict[tuple[str, str], TeamEntry] = {}
        self.disabled: frozenset[str | tuple[str, str]] = frozenset()
        self.alive_at = -math.inf
        self.on_change: list[Callable[[], None]] = []

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"<Ring {len(self)} keys{'' if self._known else ', nothing heard'}{'' if self.is_fresh else ', stale'}>"

    @property
    def is_known(self) -> bool:
        return self._known

    @property
    def age_s(self) -> float:
        """For how long the database was not reached, as far as anybody told."""
        return max(0.0, self._wall_s() - self.alive_at)

    @property
    def is_fresh(self) -> bool:
        return self.age_s <= self._grace_s

    def count(self) -> list[tuple[tuple[str, ...], float]]:
        """For `Telemetry.watch`."""
        return [((), float(len(self)))]

    def age(self) -> list[tuple[tuple[str, ...], float]]:
        """For `Telemetry.watch`; nothing while nothing was heard."""
        return [((), self.age_s)] if self._known else []

    def find(self, key: bytes) -> Caller:
        digest = self._salted.copy()
        digest.update(key)
        whole = digest.digest()
        found = self._keys.get(whole, NOBODY)
        if isinstance(found, bytes):
            found = self._keys[whole] = caller_of(unpack_key(found))
        return found

    def take(self, frame: Frame) -> None:
        """What the office tells next."""
        match frame:
            case Alive(at=at):
                self.alive_at = max(self.alive_at, at)
            case Changed(changes=changes, at=at):
                self._change(changes)
                self.alive_at = max(self.alive_at, at)
            case Begin():
                self._coming = _Coming(frame)
            case Keys(packed=packed):
                if self._coming is not None:
                    self._coming.add(packed)
            case Whole(at=at):
                self._replace(at)

    def _replace(self, at: float) -> None:
        """From now on what has come is all that there is."""
        coming, self._coming = self._coming, None
        if coming is None:
            return
        begin = coming.begin
        self._salted = hashlib.sha256(begin.salt.encode())
        self._keys, self._digests = coming.keys, coming.digests
        self.organisations = {entry.name: entry for entry in begin.organisations}
        self.teams = {(entry.organisation, entry.name): entry for entry in begin.teams}
        self._known = True
        self.alive_at = max(self.alive_at, at)
        self._tell()

    def _change(self, changes: Changes) -> None:
        for key_id in changes.gone:
            self._remove(key_id)
        for key in changes.keys:
            self._remove(key.id)
            self._keys[key.digest] = pack_key(key)
            self._digests[key.id] = key.digest
        self.organisations.update((entry.name, entry) for entry in changes.organisations)
        self.teams.update(((entry.organisation, entry.name), entry) for entry in changes.teams)
        if changes.organisations or changes.teams:
            self._tell()

    def _remove(self, key_id: str) -> None:
        digest = self._digests.pop(key_id, None)
        if digest is not None:
            del self._keys[digest]

    def _tell(self) -> None:
        off: set[str | tuple[str, str]] = {name for name, entry in self.organisations.items() if entry.disabled}
        self.disabled = frozenset(off | {place for place, entry in self.teams.items() if entry.disabled})
        for told in self.on_change:
            told()


class _Coming:
    """A directory of which not all has come yet."""

    def __init__(self, begin: Begin) -> None:
        self.begin = begin
        self.keys: dict[bytes, bytes | Caller] = {}
        self.digests: dict[str, bytes] = {}

    def add(self, packed: list[bytes]) -> None:
        for one in packed:
            key_id, digest = head_of(one)
            self.keys[digest] = one
            self.digests[key_id] = digest


def caller_of(entry: KeyEntry) -> Caller:
    return Caller(
        key_name=entry.name,
        tenant=entry.organisation,
        deployments=None if entry.deployments is None else frozenset(entry.deployments),
        sensitivity=entry.sensitivity,
        team=entry.team,
        key_id=entry.id,
        limits=entry.limits,
        role=entry.role,
        networks=networks_of(entry.networks),
        expires_at=entry.expires_at or math.inf,
    )
