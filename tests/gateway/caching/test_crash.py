"""A gateway that is killed while it fills its cache: what was confirmed is there when it starts again, byte by byte,
and nothing that is half there is served."""

from __future__ import annotations

import random
from pathlib import Path

from tests.gateway.caching.crashes import Asked, RedisStore, SqliteStore, crash, lose_worker, recovered
from tests.gateway.caching.scribe import scribe_running
from tests.valkey import valkey_running


async def test_killed_with_a_file_it_has_what_was_confirmed(tmp_path: Path) -> None:
    chance, asked, store = random.Random(), Asked(), SqliteStore(tmp_path)
    store.workers = 1
    async with scribe_running(0.002) as scribe:
        confirmed = await crash(tmp_path, scribe, store, chance, asked)
        await recovered(tmp_path, scribe, store, confirmed, asked)


async def test_killed_with_a_redis_it_has_what_was_confirmed(tmp_path: Path) -> None:
    chance, asked = random.Random(), Asked()
    async with valkey_running() as valkey, scribe_running(0.002) as scribe:
        store = RedisStore(valkey)
        store.workers = 1
        confirmed = await crash(tmp_path, scribe, store, chance, asked)
        await recovered(tmp_path, scribe, store, confirmed, asked)


async def test_a_worker_that_is_killed_takes_nothing_along_that_was_confirmed(tmp_path: Path) -> None:
    async with scribe_running(0.002) as scribe:
        await lose_worker(tmp_path, scribe, SqliteStore(tmp_path), random.Random(), Asked())
