"""SIGHUP: a new configuration, or a refusal of it, without a reset connection."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from pathlib import Path

import httpx

from tests.gateway.supervised import Served, chat, client, served
from tests.harness import CHAT, Json, config_of, engine_running


def config_for(*engines: object, **more: object) -> Json:
    return config_of(*engines, server={"workers": 2, "drain_s": 5}) | more  # type: ignore[arg-type]


async def reloaded(gateway: Served, config: Json, says: str) -> None:
    gateway.file.write_text(json.dumps(config))
    gateway.signal(signal.SIGHUP)
    await gateway.said(says)


async def test_a_good_file_gives_new_workers_that_know_what_is_new(tmp_path: Path) -> None:
    async with engine_running() as engine, served(tmp_path, config_for(engine)) as gateway:
        await gateway.ready()
        before = gateway.workers()
        config = config_for(engine)
        config["deployments"]["fresh"] = config["deployments"]["m"]
        await reloaded(gateway, config, "the new configuration serves")
        async with client(gateway.url) as http:
            models = [model["id"] for model in (await http.get("/v1/models")).json()["data"]]
            assert models == ["m", "fresh"]
        async with asyncio.timeout(10):
            while set(gateway.workers()) & set(before):
                await asyncio.sleep(0.05)
        assert len(gateway.workers()) == 2


async def test_a_bad_file_is_refused_with_its_problems_and_the_old_one_stays(tmp_path: Path) -> None:
    async with engine_running() as engine, served(tmp_path, config_for(engine)) as gateway:
        await gateway.ready()
        before = gateway.workers()
        await reloaded(gateway, config_for(engine, servers={}), "the old one stays")
        assert "servers" in gateway.text
        assert gateway.workers() == before
        async with client(gateway.url) as http:
            answer = await http.post(CHAT, json=chat())
            assert answer.status_code == 200, answer.text


async def test_a_file_that_only_fails_in_a_worker_is_refused_as_well(tmp_path: Path) -> None:
    async with engine_running() as engine, served(tmp_path, config_for(engine)) as gateway:
        await gateway.ready()
        before = gateway.workers()
        broken = config_for(engine, telemetry={"access_log": {"path": str(tmp_path), "format": "json"}})
        await reloaded(gateway, broken, "the old one stays: worker 0 could not start")
        async with asyncio.timeout(5):
            while gateway.workers() != before:  # the ones that could not start are still ending
                await asyncio.sleep(0.02)


async def test_what_the_command_line_says_holds_after_a_reload(tmp_path: Path) -> None:
    async with engine_running() as engine, served(tmp_path, config_for(engine), "--workers", "1") as gateway:
        await gateway.ready()
        url = gateway.url
        config = config_for(engine)
        config["deployments"]["fresh"] = config["deployments"]["m"]
        await reloaded(gateway, config, "the new configuration serves")
        async with asyncio.timeout(10):
            while len(gateway.workers()) != 1:
                await asyncio.sleep(0.05)
        async with client(url) as http:
            assert (await http.get("/health/ready")).status_code == 200


async def test_without_a_change_only_the_log_files_are_opened_anew(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    config = config_for(telemetry={"access_log": {"path": str(log), "format": "json"}})
    async with engine_running() as engine:
        config["pools"]["p"]["urls"] = [engine.url]
        async with served(tmp_path, config, "--port", "0") as gateway:
            await gateway.said('ready"')
            before = gateway.workers()
            async with client(gateway.url) as http:
                await http.post(CHAT, json=chat())
                await _lines(log, 1)
                log.rename(tmp_path / "access.log.1")
                await reloaded(gateway, config, "the configuration is as it was")
                await http.post(CHAT, json=chat())
                await _lines(log, 1)
            assert gateway.workers() == before


async def test_without_a_file_only_the_log_files_are_opened_anew(tmp_path: Path) -> None:
    async with engine_running() as engine:
        args = ("--engine-url", engine.url, "--model", "m", "--port", "0", "--log-format", "pretty")
        async with served(tmp_path, None, *args) as gateway:
            await gateway.ready()
            gateway.signal(signal.SIGHUP)
            await gateway.said("there is no configuration file to read again")
            async with client(gateway.url) as http:
                assert (await http.post(CHAT, json=chat())).status_code == 200


async def _lines(path: Path, count: int) -> None:
    async with asyncio.timeout(10):
        while not path.exists() or len(path.read_text().splitlines()) < count:
            await asyncio.sleep(0.05)


async def test_engines_outlive_a_reload_and_end_when_nothing_wants_them(tmp_path: Path) -> None:
    config: Json = {
        "server": {"port": 0, "workers": 1, "drain_s": 2},
        "pools": {"p": {"engine": {"kind": "fake"}}},
        "deployments": {"m": {"variants": {"v": {"pools": ["p"]}}}},
    }
    async with served(tmp_path, config) as gateway:
        await gateway.ready()
        (kept,) = gateway.engines()
        more = {**config, "pools": {"p": {"engine": {"kind": "fake"}, "replicas": 2}}}
        await reloaded(gateway, more, "the new configuration serves")
        assert len(gateway.engines()) == 2
        assert kept in gateway.engines()
        gateway.file.write_text(json.dumps(config))
        gateway.signal(signal.SIGHUP)
        await gateway.said("the new configuration serves", times=2)
        async with asyncio.timeout(10):
            while gateway.engines() != [kept]:
                await asyncio.sleep(0.05)


async def test_an_engine_that_does_not_start_refuses_the_reload(tmp_path: Path) -> None:
    async with engine_running() as engine, served(tmp_path, config_for(engine)) as gateway:
        await gateway.ready()
        broken = config_for(engine)
        broken["pools"]["q"] = {"engine": {"kind": "fake", "args": ["--itl", "-1"]}}
        broken["deployments"]["m"]["variants"]["v"]["pools"].append("q")
        await reloaded(gateway, broken, "the old one stays: q-0")
        assert gateway.engines() == []


async def test_a_new_port_is_taken_before_the_old_one_is_left(tmp_path: Path) -> None:
    async with engine_running() as engine, served(tmp_path, config_for(engine)) as gateway:
        await gateway.ready()
        config = config_for(engine)
        config["server"]["host"] = "localhost"
        await reloaded(gateway, config, "the new configuration serves")
        moved = next(line for line in reversed(gateway.lines) if "gateway on" in line)
        async with client(moved.split()[2]) as http:
            assert (await http.post(CHAT, json=chat())).status_code == 200


async def test_a_rolling_restart_under_load_resets_nobody(tmp_path: Path) -> None:
    """A23: about 200 requests a second on connections that are kept alive, five reloads meanwhile."""
    async with engine_running() as engine, served(tmp_path, config_for(engine)) as gateway:
        await gateway.ready()
        outcomes = Counter[str]()
        stop = asyncio.Event()

        async def caller() -> None:
            async with client(gateway.url, limits=httpx.Limits(max_connections=1)) as http:
                while not stop.is_set():
                    began_s = time.monotonic()
                    try:
                        answer = await http.post(CHAT, json=chat(stream=True))
                        outcomes["200" if answer.status_code == 200 else answer.text] += 1
                    except httpx.HTTPError as error:
                        outcomes[repr(error)] += 1
                    await asyncio.sleep(max(0.0, 0.05 - (time.monotonic() - began_s)))

        async def load_balancer() -> None:
            async with client(gateway.url) as http:
                while not stop.is_set():
                    outcomes[str((await http.get("/health/ready")).status_code)] += 1
                    await asyncio.sleep(0.02)

        callers = [asyncio.create_task(load_balancer()), *(asyncio.create_task(caller()) for _ in range(10))]
        for times in range(1, 6):
            old = set(gateway.workers())
            config = config_for(engine)
            config["deployments"][f"fresh-{times}"] = config["deployments"]["m"]
            gateway.file.write_text(json.dumps(config))
            gateway.signal(signal.SIGHUP)
            await gateway.said("the new configuration serves", times=times)
            async with asyncio.timeout(20):
                while old & set(gateway.workers()):
                    await asyncio.sleep(0.05)
        stop.set()
        await asyncio.gather(*callers)
        assert set(outcomes) == {"200"}, outcomes
        assert outcomes["200"] > 100
        assert len(gateway.workers()) == 2
