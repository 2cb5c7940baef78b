"""The response cache under load, its gateway or one of the workers killed again and again: nothing that was confirmed
is ever lost, and nothing that is half there is ever served.

HEADRACE_CRASHES says how often for each store, 15 times if it does not; HEADRACE_CRASH_SEED makes others.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.bench.rig import long_run
from tests.gateway.caching.crashes import Asked, RedisStore, SqliteStore, Store, crash, lose_worker, recovered
from tests.gateway.caching.scribe import scribe_running
from tests.valkey import valkey_running

CRASHES = int(os.environ.get("HEADRACE_CRASHES", "15"))
SEED = int(os.environ.get("HEADRACE_CRASH_SEED", "1"))
LIMIT_S = 60 + 30 * CRASHES
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(LIMIT_S + 30)]


@asynccontextmanager
async def store_of(kind: str, folder: Path) -> AsyncIterator[Store]:
    if kind == "sqlite":
        yield SqliteStore(folder)
        return
    async with valkey_running() as valkey:
        yield RedisStore(valkey)


async def crashes(kind: str, folder: Path) -> int:
    """Returns how many entries were confirmed in the end."""
    chance, asked = random.Random(SEED), Asked()
    async with store_of(kind, folder) as store, scribe_running(0.002) as scribe:
        for _ in range(CRASHES):
            confirmed = await crash(folder, scribe, store, chance, asked)
            if chance.random() < 0.3:
                await lose_worker(folder, scribe, store, chance, asked)
            else:
                await recovered(folder, scribe, store, confirmed, asked)
        return len(await store.confirmed())


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_however_often_it_is_killed_no_confirmed_answer_is_lost(kind: str, tmp_path: Path) -> None:
    assert long_run(crashes(kind, tmp_path), LIMIT_S) > 20 * CRASHES
