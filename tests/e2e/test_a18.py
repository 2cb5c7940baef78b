"""A18: how long a refusal takes does not tell why. Needs a machine that does little else."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import pytest

from gateway.config import Auth
from gateway.database import open_database
from gateway.directory.entries import Changes, OrganisationEntry
from gateway.directory.frames import Changed
from gateway.directory.specs import KeySettings, KeySpec, OrganisationSettings, OrganisationSpec
from gateway.directory.store import Directory
from gateway.errors import Unauthenticated
from gateway.identity import KeyRing
from tests.gateway.office.rig import TESTER
from tests.gateway.office.test_ring import NOW, entry, frames_of, ring_of, snapshot, text_of
from tests.gateway.supervised import served
from tests.harness import Wire, engine_running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
SAMPLES = 4000
LIMIT = 0.03
"""Of the chance, over one half, with which somebody who sees one time of each kind says which is which. Of as many
samples of the same kind it is over 0.02 once in 2000 times."""
LIMIT_NS = 100
"""In the worker itself, where nothing hides a difference: some nanoseconds are where in memory something lies."""


def told_apart(one: list[int], other: list[int]) -> float:
    """Mann-Whitney's U as a share: the chance that one of the one is longer than one of the other, less one half."""
    ordered = sorted(other)
    above = sum(bisect_left(ordered, value) + bisect_right(ordered, value) for value in one)
    return above / (2 * len(one) * len(other)) - 0.5


def compared(times: dict[str, list[int]]) -> dict[str, float]:
    """Each kind with the unknown key, but for the good one: that it can be told apart says that any could."""
    found = {name: told_apart(taken, times["unknown"]) for name, taken in times.items()}
    for name, share in found.items():
        print(f"{name:>12}: median {median(times[name]) / 1e3:8.2f} us, told apart {share:+.4f}")
    assert abs(found.pop("good")) > 0.1, "the test sees differences"
    return found


def test_a_refusal_takes_as_long_in_the_worker_whatever_is_wrong() -> None:
    keys = [
        *(entry(f"k{index}") for index in range(1000)),
        entry("good"),
        entry("revoked"),
        entry("expired", expires_at=NOW),
        entry("disabled", organisation="off"),
        entry("admin", role="admin"),
    ]
    organisations = [OrganisationEntry("acme"), OrganisationEntry("off", disabled=True)]
    ring = ring_of(*frames_of(snapshot(*keys, organisations=organisations)))
    ring.take(Changed(Changes(2, [], [], [], ["revoked"]), NOW))
    identity = KeyRing(Auth(), ring, wall_s=lambda: NOW)
    names = ("unknown", "revoked", "expired", "disabled", "admin", "good")
    headers = {name: {b"authorization": b"Bearer " + text_of(name).encode()} for name in names}
    headers["one wrong"] = {b"authorization": b"Bearer " + text_of("good")[:-1].encode() + b"x"}
    times: dict[str, list[int]] = {name: [] for name in headers}
    order, rng = list(headers), random.Random(1)
    gc.disable()
    try:
        for _ in range(SAMPLES):
            rng.shuffle(order)
            for name in order:
                began = time.perf_counter_ns()
                with suppress(Unauthenticated):
                    identity.identify(headers[name])
                times[name].append(time.perf_counter_ns() - began)
    finally:
        gc.enable()
    compared(times)
    medians = {name: median(taken) for name, taken in times.items() if name != "good"}
    assert max(medians.values()) - min(medians.values()) < LIMIT_NS, medians


async def test_a_refusal_takes_as_long_over_the_wire_whatever_is_wrong(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/headrace.db"
    keys, spoil = await asyncio.to_thread(_keys, url)
    async with engine_running() as engine:
        tree = {
            "server": {"port": 0, "workers": 1},
            "database": {"url": url},
            "admin": {"port": 0},
            "telemetry": {"access_log": {"format": "off"}},
            "pools": {"p": {"urls": [engine.url], "scrape": {"every_s": None}}},
            "deployments": {"m": {"variants": {"v": {"pools": ["p"]}}}},
        }
        async with served(tmp_path, tree, "--log-format", "json") as gateway:
            await gateway.ready()
            await asyncio.to_thread(spoil)
            await asyncio.sleep(1.5)  # the last key has expired then, and the others are refused
            host, port = gateway.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            async with Wire(reader, writer):
                times = await _times(reader, writer, keys)
    found = compared(times)
    assert max(map(abs, found.values())) < LIMIT, found


async def _times(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, keys: dict[str, str]
) -> dict[str, list[int]]:
    times: dict[str, list[int]] = {name: [] for name in keys}
    order, rng = list(keys), random.Random(1)
    for _ in range(SAMPLES):
        rng.shuffle(order)
        for name in order:
            request = f"GET /v1/models/m HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {keys[name]}\r\n\r\n".encode()
            began = time.perf_counter_ns()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            times[name].append(time.perf_counter_ns() - began)
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            assert (b" 401 " in head[:16]) is (name != "good"), (name, head)
            await reader.readexactly(length)
    return times


def _keys(url: str) -> tuple[dict[str, str], Callable[[], None]]:
    """One of each kind, and what makes them so: all but the good one are refused after it, or a second later."""
    database = open_database(url)
    directory, found, ids = Directory(database), {}, {}
    for name in ("acme", "off"):
        directory.organisations.create(TESTER, OrganisationSpec(name=name))
    for name in ("good", "revoked", "expired", "disabled"):
        of = "off" if name == "disabled" else "acme"
        made = directory.keys.create(TESTER, KeySpec(name=name, organisation=of))
        found[name], ids[name] = made.key, made.record.id
    found["admin"] = directory.keys.create(TESTER, KeySpec(name="admin", role="admin")).key
    found["unknown"] = f"sk-hr-000000000000-{'x' * 43}"
    found["one wrong"] = found["good"][:-1] + ("A" if found["good"][-1] != "A" else "B")

    def spoil() -> None:
        directory.keys.revoke(TESTER, ids["revoked"])
        soon = datetime.now(UTC) + timedelta(seconds=1)
        directory.keys.update(TESTER, ids["expired"], KeySettings(expires=soon))
        directory.organisations.update(TESTER, "off", OrganisationSettings(disabled=True))
        database.close()

    return found, spoil
