"""The `openai` package for Node.js, by Node's own test runner, on a gateway of this process."""

from __future__ import annotations

import asyncio
import os
import re

import pytest

from tests.clients.talk import KEY
from tests.e2e.clients.installs import NODE, node_modules
from tests.harness import MODEL, config_of, engine_running, serving

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


async def test_the_openai_package_for_node_works_unchanged() -> None:
    modules = await asyncio.to_thread(node_modules)
    async with engine_running() as engine:
        config = config_of(engine, keys=[{"name": "node", "key": KEY, "deployments": [MODEL]}])
        config["deployments"]["closed"] = config["deployments"][MODEL]
        async with serving(config) as server:
            environment = {"HEADRACE_URL": server.url, "HEADRACE_KEY": KEY, "FAKE_URL": engine.url}
            status, said = await _node(environment | {"NODE_PATH": str(modules)})
            assert status == 0, said
            assert int(re.findall(r"# pass (\d+)", said)[0]) >= 11, said
            assert "# skipped 0" in said


async def _node(environment: dict[str, str]) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *("node", "--test", "--test-reporter=tap", str(NODE / "openai.test.cjs")),
        env={**os.environ, **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(120):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, output.decode()
