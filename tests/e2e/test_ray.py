"""Engines on a Ray cluster: a local one, with fake engines. Needs Ray, which is put into an environment of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import venv
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from engines.commands import free_port
from engines.models import cache_folder

ROOT = Path(__file__).parents[2]
ENGINE = (sys.executable, "-m", "engines.fake", "--host", "{host}", "--port", "{port}", "--model", "m")
SLOW = ("--itl", "0.05", "--output-tokens", "200")
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def python_with_ray() -> Path:
    folder = cache_folder() / "e2e" / "ray"
    python = folder / "bin" / "python"
    if not (folder / "done").is_file():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"{ROOT}[ray]"], check=True)
        (folder / "done").touch()
    return python


class Pool:
    def __init__(self, file: Path, process: asyncio.subprocess.Process) -> None:
        self._file = file
        self.process = process

    @property
    def urls(self) -> set[str]:
        return set(json.loads(self._file.read_text())) if self._file.exists() else set()

    async def has(self, count: int, within_s: float = 60.0) -> set[str]:
        async with asyncio.timeout(within_s):
            while len(self.urls) != count:
                await asyncio.sleep(0.1)
        return self.urls


@asynccontextmanager
async def pool(python: Path, folder: Path, *flags: str) -> AsyncIterator[Pool]:
    file = folder / "urls.json"
    process = await asyncio.create_subprocess_exec(
        *(python, "-m", "engines.ray_pool", "--urls-file", file, "--address", "local", "--cpus", "0.1"),
        *(*flags, "--", *ENGINE, *SLOW),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield Pool(file, process)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 30)


async def _long_stream(url: str) -> None:
    asked = {"model": "m", "stream": True, "max_tokens": 200, "messages": [{"role": "user", "content": "x"}]}
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        await client.post(f"{url}/v1/chat/completions", json=asked)


async def test_replicas_come_with_the_load_and_go_after_it(python_with_ray: Path, tmp_path: Path) -> None:
    flags = ("--min", "1", "--max", "2", "--target", "2", "--idle", "2")
    async with pool(python_with_ray, tmp_path, *flags) as engines:
        (first,) = await engines.has(1)
        streams = [asyncio.create_task(_long_stream(first)) for _ in range(4)]
        await engines.has(2)
        await asyncio.gather(*streams)
        assert await engines.has(1) == {first}


async def test_it_is_ready_as_soon_as_a_replica_serves(python_with_ray: Path, tmp_path: Path) -> None:
    port = free_port()
    async with pool(python_with_ray, tmp_path, "--port", str(port)) as engines:
        async with asyncio.timeout(60), httpx.AsyncClient(trust_env=False) as client:
            answers = set()
            while 200 not in answers:
                with contextlib.suppress(httpx.ConnectError):
                    answers.add((await client.get(f"http://127.0.0.1:{port}/health")).status_code)
        assert len(engines.urls) == 1


async def test_an_engine_that_dies_is_replaced(python_with_ray: Path, tmp_path: Path) -> None:
    async with pool(python_with_ray, tmp_path) as engines:
        (first,) = await engines.has(1)
        subprocess.run(["pkill", "-9", "-f", f"engines.fake .*--port {first.rpartition(':')[2]}"], check=True)
        await engines.has(0)
        (second,) = await engines.has(1)
        assert second != first


async def test_no_engine_outlives_its_pool_even_if_that_is_killed(python_with_ray: Path, tmp_path: Path) -> None:
    async with pool(python_with_ray, tmp_path) as engines:
        (url,) = await engines.has(1)
        engines.process.kill()
        await engines.process.wait()
        async with asyncio.timeout(30), httpx.AsyncClient(trust_env=False) as client:
            while True:
                try:
                    await client.get(f"{url}/health")
                except httpx.ConnectError:
                    break
                await asyncio.sleep(0.2)


async def test_headrace_serves_a_pool_on_ray(python_with_ray: Path, tmp_path: Path) -> None:
    file, port = tmp_path / "headrace.yaml", free_port()
    file.write_text(f"""
server: {{port: {port}, workers: 1, drain_s: 1}}
pools:
  cluster:
    replicas: 2
    engine: {{kind: fake, launcher: ray, env: {{SOME_SECRET: not-shown}}, ray: {{address: local, cpus: 0.1}}}}
deployments: {{m: {{variants: {{v: {{pools: [cluster]}}}}}}}}
""")
    serve = (
        "import sys; sys.argv = ['headrace', 'serve', '--config', sys.argv[1]]; from gateway.cli import main; main()"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HEADRACE_STATE": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(python_with_ray, "-c", serve, file, env=env)
    try:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        replicas: set[str] = set()
        asked = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
        async with asyncio.timeout(90), httpx.AsyncClient(trust_env=False) as client:
            while len(replicas) < 2:
                with contextlib.suppress(httpx.HTTPError):
                    answer = await client.post(url, json=asked)
                    if answer.status_code == 200:
                        replicas.add(answer.headers["x-headrace-replica"])
                        continue
                await asyncio.sleep(0.2)
        shown = subprocess.run(["pgrep", "-fa", "ray_pool"], capture_output=True, text=True, check=True).stdout
        assert "SOME_SECRET" in shown and "not-shown" not in shown
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 40)
    assert not list(tmp_path.glob("ray/*.json")) or json.loads(next(tmp_path.glob("ray/*.json")).read_text()) == []
