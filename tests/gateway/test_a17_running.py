"""A17: a running gateway gets another configuration: by its file, by SIGHUP, by the control socket."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import stat
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.clock import wall_time_s
from tests.gateway.supervised import Served, chat, client, served
from tests.harness import CHAT, Json, config_of, engine_running, metrics_in

HEADER = "x-headrace-config"
HEADRACE = str(Path(sys.executable).with_name("headrace"))
NO_ENV: Mapping[str, str] = {}
SERVES = "the new configuration serves"


def config_for(*engines: object, workers: int = 2, more: int = 0, **parts: object) -> Json:
    """more: deployments beside `m`, so that configurations differ."""
    config = config_of(*engines, server={"workers": workers, "drain_s": 5}, **parts)  # type: ignore[arg-type]
    for number in range(more):
        config["deployments"][f"more-{number}"] = config["deployments"]["m"]
    return config


def replace(file: Path, text: str) -> None:
    """As deployment tools do: whole, under another name first."""
    beside = file.with_name("beside")
    beside.write_text(text)
    beside.rename(file)


async def version_of(url: str, path: str = "/health/live") -> str:
    """That of whichever worker takes a new connection."""
    async with client(url) as http:
        return (await http.get(path)).headers[HEADER]


async def headrace(gateway: Served, *args: str, status: int = 0, env: Mapping[str, str] = NO_ENV) -> str:
    """What a command says, on both of its outputs."""
    process = await asyncio.create_subprocess_exec(
        *(HEADRACE, *args),
        env={**os.environ, "HEADRACE_STATE": str(gateway.file.parent / "state"), "NO_COLOR": "1", **env},
        cwd=gateway.file.parent,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == status, said.decode()
    return said.decode()


@pytest.mark.parametrize("workers", [1, 2, 4])
async def test_a_changed_file_serves_in_every_worker_within_two_seconds(tmp_path: Path, workers: int) -> None:
    async with engine_running() as engine, served(tmp_path, config_for(engine, workers=workers)) as gateway:
        await gateway.ready()
        url = gateway.url
        before = await version_of(url)
        began_s = time.monotonic()
        replace(gateway.file, json.dumps(config_for(engine, workers=workers, more=1)))
        last_old_s, answers_since = began_s, 0
        while answers_since < 10 * workers:
            answers_since += 1
            if await version_of(url) == before:
                last_old_s, answers_since = time.monotonic(), 0
        assert last_old_s - began_s < 2.0
        after = await version_of(url)
        assert re.fullmatch(r"2-[0-9a-f]{12}", after)
        async with client(url) as http:
            metrics = metrics_in((await http.get("/metrics")).text)
            assert metrics[f'headrace_config_info{{version="{after}"}}'] == 1.0
            assert f'headrace_config_info{{version="{before}"}}' not in metrics
            assert abs(metrics["headrace_config_applied_timestamp_seconds"] - wall_time_s()) < 30.0
            assert (await http.get("/version")).json()["config"] == after
        await gateway.said(f"{SERVES} as {after}.*added deployments.more-0")


async def test_every_answer_says_which_configuration_it_was_given_under(tmp_path: Path) -> None:
    async with engine_running() as engine, served(tmp_path, config_for(engine, workers=1)) as gateway:
        await gateway.ready()
        async with client(gateway.url) as http:
            answers = [
                await http.post(CHAT, json=chat()),
                await http.post(CHAT, json=chat(stream=True)),
                await http.post(CHAT, content=b"{"),
                await http.get("/v1/models"),
                await http.get("/nowhere"),
                await http.get("/metrics"),
            ]
        assert {answer.headers[HEADER] for answer in answers} == {await version_of(gateway.url)}
        assert {answer.status_code for answer in answers} == {200, 400, 404}


async def test_a_stream_in_flight_ends_whole_under_the_configuration_that_it_began_with(tmp_path: Path) -> None:
    async with engine_running() as engine, served(tmp_path, config_for(engine, workers=1)) as gateway:
        await gateway.ready()
        url = gateway.url
        before = await version_of(url)
        async with client(url) as http, http.stream("POST", CHAT, json=chat(stream=True)) as warm:
            whole = [line async for line in warm.aiter_lines() if line.startswith("data:")]
        engine.hold()
        asking = asyncio.create_task(_streamed(url))
        await engine.arrived()
        for more in (1, 2):
            replace(gateway.file, json.dumps(config_for(engine, workers=1, more=more)))
            await gateway.said(SERVES, times=more)
        engine.release()
        lines, version = await asking
        assert version == before
        assert (len(lines), lines[-1]) == (len(whole), "data: [DONE]")
        assert (await version_of(url)).startswith("3-")


async def _streamed(url: str) -> tuple[list[str], str]:
    async with client(url) as http, http.stream("POST", CHAT, json=chat(stream=True)) as answer:
        lines = [line async for line in answer.aiter_lines() if line.startswith("data:")]
        return lines, answer.headers[HEADER]


async def test_a_bad_file_is_refused_with_the_place_and_counted_and_the_old_one_stays(tmp_path: Path) -> None:
    async with engine_running() as engine, served(tmp_path, config_for(engine)) as gateway:
        await gateway.ready()
        before = await version_of(gateway.url)
        replace(gateway.file, "server: {prot: 1}\n")
        await gateway.said(rf"the old one stays: {gateway.file}:1:10: server.prot: .*did you mean \"port\"")
        assert {await version_of(gateway.url) for _ in range(6)} == {before}
        async with client(gateway.url) as http:
            metrics = metrics_in((await http.get("/metrics")).text)
            assert metrics['headrace_config_rejected_total{origin="file"}'] == 1.0
            assert (await http.post(CHAT, json=chat())).status_code == 200
        replace(gateway.file, json.dumps(config_for(engine, more=1)))
        await gateway.said(SERVES)


async def test_a_configuration_that_no_worker_can_start_with_is_refused_and_those_that_tried_are_gone(
    tmp_path: Path,
) -> None:
    async with engine_running() as engine, served(tmp_path, config_for(engine)) as gateway:
        await gateway.ready()
        before = gateway.workers()
        broken = config_for(engine, telemetry={"access_log": {"path": str(tmp_path), "format": "json"}})
        replace(gateway.file, json.dumps(broken))
        await gateway.said("the old one stays: worker 0 could not start")
        async with asyncio.timeout(5):
            while sorted(gateway.workers()) != sorted(before):
                await asyncio.sleep(0.02)


async def test_a_mounted_config_map_that_is_swapped_serves(tmp_path: Path) -> None:
    async with engine_running() as engine:
        for number in (0, 1):
            (tmp_path / f"..{number}").mkdir()
            text = json.dumps(config_for(engine, workers=1, more=number))
            (tmp_path / f"..{number}" / "headrace.yaml").write_text(text)
        (tmp_path / "..data").symlink_to("..0")
        file = tmp_path / "headrace.yaml"
        file.symlink_to("..data/headrace.yaml")
        async with served(tmp_path, None, "--config", str(file), "--log-format", "pretty") as gateway:
            await gateway.ready()
            (tmp_path / "..data_tmp").symlink_to("..1")
            (tmp_path / "..data_tmp").rename(tmp_path / "..data")
            await gateway.said(SERVES)


async def test_with_the_watch_switched_off_only_sighup_makes_a_changed_file_serve(tmp_path: Path) -> None:
    config = config_for(workers=1)
    config["server"]["watch_config"] = False
    async with engine_running() as engine:
        config["pools"]["p"]["urls"] = [engine.url]
        async with served(tmp_path, config) as gateway:
            await gateway.ready()
            config["deployments"]["more"] = config["deployments"]["m"]
            replace(gateway.file, json.dumps(config))
            assert "is read on SIGHUP" in await headrace(gateway, "config", "show")
            gateway.signal(signal.SIGHUP)
            await gateway.said(f"SIGHUP: {SERVES}")
            assert gateway.text.count(SERVES) == 1


async def test_what_sighup_has_dealt_with_the_watch_leaves_alone(tmp_path: Path) -> None:
    async with engine_running() as engine, served(tmp_path, config_for(engine, workers=1)) as gateway:
        await gateway.ready()
        gateway.file.write_text("server: {prot: 1}")
        gateway.signal(signal.SIGHUP)
        await gateway.said("SIGHUP: the configuration is refused")
        replace(gateway.file, json.dumps(config_for(engine, workers=1, more=1)))
        await gateway.said(SERVES)
        assert gateway.text.count("is refused") == 1


async def test_the_command_shows_compares_applies_and_takes_back(tmp_path: Path) -> None:
    async with engine_running() as engine, served(tmp_path, config_for(engine)) as gateway:
        await gateway.ready()
        new = tmp_path / "new.yaml"
        new.write_text(json.dumps(config_for(engine, more=1)))
        control = tmp_path / "state" / "control.sock"
        assert stat.S_IMODE(control.stat().st_mode) == 0o600
        assert (await headrace(gateway, "config", "show")).startswith("1-")
        assert "+ deployments.more-0" in await headrace(gateway, "config", "diff", "new.yaml", "--running")
        assert "goes on serving" in await headrace(gateway, "config", "apply", "new.yaml", "--dry-run")
        assert "give --yes" in await headrace(gateway, "config", "apply", "new.yaml", status=1)
        assert (await version_of(gateway.url)).startswith("1-")
        assert "serves now" in await headrace(gateway, "config", "apply", "new.yaml", "--yes")
        assert (await version_of(gateway.url)).startswith("2-")
        shown = await headrace(gateway, "config", "show")
        assert "new.yaml, applied on the machine by " in shown
        assert "is as it was when this was applied over it" in shown
        assert "serves now" in await headrace(gateway, "config", "rollback", "--yes")
        listed = json.loads(await headrace(gateway, "config", "history", "--json"))
        assert [one["version"].partition("-")[0] for one in listed["past"]] == ["3", "2", "1"]
        assert listed["running"] == listed["past"][0]["version"] == await version_of(gateway.url)
        refused = await headrace(gateway, "config", "apply", "missing.yaml", "--yes", status=1)
        assert "cannot be read" in refused


async def test_a_bad_configuration_is_refused_to_the_command_with_its_places(tmp_path: Path) -> None:
    async with engine_running() as engine, served(tmp_path, config_for(engine, workers=1)) as gateway:
        await gateway.ready()
        (tmp_path / "bad.yaml").write_text("server: {prot: 1}\n")
        said = await headrace(gateway, "config", "apply", "bad.yaml", "--yes", status=1)
        assert "bad.yaml:1:10: server.prot" in said
        assert "goes on serving" in said


async def test_what_was_applied_outlives_a_restart_and_a_changed_file_replaces_it(tmp_path: Path) -> None:
    async with engine_running() as engine:
        config = config_for(engine, workers=1)
        async with served(tmp_path, config) as gateway:
            await gateway.ready()
            (tmp_path / "new.yaml").write_text(json.dumps(config_for(engine, workers=1, more=1)))
            await headrace(gateway, "config", "apply", "new.yaml", "--yes")
            applied = await version_of(gateway.url)
        async with served(tmp_path, config) as gateway:
            await gateway.ready()
            assert await version_of(gateway.url) == applied
            replace(gateway.file, json.dumps(config_for(engine, workers=1, more=2)))
            await gateway.said(SERVES)
            assert (await version_of(gateway.url)).startswith("3-")


async def test_a_second_gateway_with_the_same_state_says_that_it_cannot_be_asked(tmp_path: Path) -> None:
    async with engine_running() as engine, served(tmp_path, config_for(engine, workers=1)) as first:
        await first.ready()
        state = {"HEADRACE_STATE": str(tmp_path / "state")}
        other = tmp_path / "other"
        other.mkdir()
        async with served(other, config_for(engine, workers=1), env=state) as second:
            await second.said("another gateway answers at .* HEADRACE_STATE")
        assert (await headrace(first, "config", "show")).startswith("1-")


async def test_with_no_gateway_there_the_command_says_where_it_looked(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(HEADRACE, "config", "show"),
        env={**os.environ, "HEADRACE_STATE": str(tmp_path)},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 1
    assert f"no gateway answers at {tmp_path}/control.sock" in " ".join(said.decode().split())
