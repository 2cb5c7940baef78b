"""What others have at each replica, put together: this gateway's other pools, its peers, and whoever else is there.

An engine may stand in several pools, and behind several gateways. It is known by its address, under which all of them
find it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from xxhash import xxh3_64_intdigest

from gateway.replicas import Replica
from router.correction import NONE, EngineSnapshot, Sums, correct

_PORTS = {"http": 80, "https": 443}


class Corrections:
    """The only one who sets `others_*` of the replicas' loads, and how much their KV caches are taken to hold. Plain
    functions: nothing here waits for anybody.

    replicas: all that are there at this moment.
    """

    def __init__(self, replicas: Callable[[], Iterable[Replica]], machine: str | None = None) -> None:
        self._replicas = replicas
        self._machine = machine_name() if machine is None else machine
        self._keys: dict[Replica, int] = {}
        self._snapshots: dict[Replica, EngineSnapshot] = {}
        self._peers: Mapping[int, Sums] = {}

    def __repr__(self) -> str:
        return f"<Corrections snapshots={len(self._snapshots)} peers_at={len(self._peers)}>"

    def key(self, replica: Replica) -> int:
        """What its engine is known by, here and at every peer."""
        key = self._keys.get(replica)
        if key is None:
            key = self._keys[replica] = engine_key(replica.url or replica.name, self._machine)
        return key

    def own(self) -> dict[int, Sums]:
        """What this gateway has in flight, by engine; those with nothing are left out."""
        sums: dict[int, Sums] = {}
        for replica in self._replicas():
            if replica.in_flight:
                key = self.key(replica)
                sums[key] = sums.get(key, NONE) + Sums.of(replica.load)
        return sums

    def known(self, replica: Replica) -> Sums:
        """What this gateway and its peers have there at this moment."""
        key = self.key(replica)
        return self.own().get(key, NONE) + self._peers.get(key, NONE)

    def snapshot(self, replica: Replica) -> EngineSnapshot | None:
        """The last one."""
        return self._snapshots.get(replica)

    def scraped(self, replica: Replica, snapshot: EngineSnapshot) -> None:
        self._snapshots[replica] = snapshot

    def heard(self, peers: Mapping[int, Sums]) -> None:
        """What all peers together have in flight, by engine."""
        self._peers = peers

    def apply(self, now_s: float) -> None:
        """Correct every replica's load. Call it again and again: old news loses its weight."""
        own = self.own()
        replicas = list(self._replicas())
        for replica in replicas:
            key, load = self.key(replica), replica.load
            others = self._peers.get(key, NONE)
            siblings = own.get(key)
            if siblings is not None:
                others = others + siblings + Sums(-load.in_flight, -load.prefill_tokens, -load.context_tokens)
            correct(load, self._snapshots.get(replica), others, now_s)
            if replica.slot is not None:
                replica.slot.resize(load.kv_capacity_tokens)
        if len(self._keys) > len(replicas):
            self._keys = {replica: self._keys[replica] for replica in replicas}
            self._snapshots = {replica: self._snapshots[replica] for replica in replicas if replica in self._snapshots}


def engine_key(url: str, machine: str) -> int:
    """64 bits of an engine's address, without what only lets one in. On loopback, `machine` is part of it."""
    parts = urlsplit(url)
    host = (parts.hostname or url).rstrip(".")
    try:
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        port = 0
    where = f"{machine}/loopback" if host in ("localhost", "::1") or host.startswith("127.") else host
    return xxh3_64_intdigest(f"{where}:{port}{parts.path.rstrip('/')}")


def machine_name() -> str:
    """Two processes have the same one exactly if they share a loopback interface."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/net').stat().st_ino}"
