"""A17: two workers that share no store. What is told of the cache is their sum, and what is taken back is gone from
both."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
from typer.testing import CliRunner, Result

from engines.fake import FakeEngine
from gateway.cli import app
from tests.gateway.supervised import chat, client, served
from tests.harness import CHAT, config_of, engine_running

MOST = 200


def cli(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["cache", *arguments], env={"HEADRACE_KEY": None})


async def ask(url: str) -> httpx.Response:
    """On a connection of its own, which either worker may get."""
    async with client(url) as http:
        answer = await http.post(CHAT, json=chat())
        assert answer.status_code == 200
        return answer


async def until_both_have(url: str, engine: FakeEngine, requests: int) -> int:
    """Ask until each worker had to ask the engine. Returns how often."""
    for asked in range(1, MOST):
        await ask(url)
        if engine.stats.requests == requests:
            return asked
    raise AssertionError(f"{engine.stats.requests} of {requests} requests reached the engine")


async def test_a17_reports_purges_and_feedback_reach_every_worker(tmp_path: Path) -> None:
    async with engine_running() as engine:
        cache = {"enabled": True, "store": "memory"}
        config = config_of(engine, server={"workers": 2, "drain_s": 5}, cache=cache)
        async with served(tmp_path, config) as gateway:
            await gateway.ready()
            url = gateway.url
            asked = await until_both_have(url, engine, 2)
            found = json.loads((await asyncio.to_thread(cli, "stats", "--json", "--url", url)).stdout)
            assert (found["workers"], found["entries"], found["hits"]["exact"]) == ([0, 1], 1, asked - 2)
            purged = await asyncio.to_thread(cli, "purge", "--all", "--url", url)
            assert purged.exit_code == 0, purged.output
            await until_both_have(url, engine, 4)
            entry_id = (await ask(url)).headers["x-headrace-cache-id"]
            async with client(url) as http:
                taken = await http.post(f"/v1/cache/{entry_id}/feedback", json={"wrong": True})
            # Each worker has an entry of its own; it finds the right one.
            assert taken.json() == {"quarantined": 1, "hidden": 0}
            shown = await asyncio.to_thread(cli, "inspect", entry_id, "--url", url)
            assert shown.exit_code == 1, shown.output
            await asyncio.to_thread(cli, "purge", "--tenant", "default", "--url", url)
            await until_both_have(url, engine, engine.stats.requests + 2)
