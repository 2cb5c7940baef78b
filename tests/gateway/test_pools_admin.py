"""What is told of pools: `GET /admin/pools`, and `headrace pools`."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from gateway.cli import app
from gateway.cli.pools import ask, table
from gateway.pool_report import PoolList, PoolReport, ReplicaReport, State, merge_reports, without_credentials
from tests.gateway.supervised import client, served
from tests.harness import CHAT, Json, chat, config_of, engine_running, nobody, serving, settled

ADMIN = "/admin/pools"
KEYS: list[Json] = [{"name": "ops", "key": "sk-ops", "admin": True}, {"name": "team", "key": "sk-team"}]


def pools(*arguments: str, env: dict[str, str] | None = None) -> Result:
    blank = {"HEADRACE_URL": None, "HEADRACE_KEY": None}
    return CliRunner().invoke(app, ["pools", *arguments], env={**blank, **(env or {})})


def replica(url: str, state: State = "up", **more: object) -> ReplicaReport:
    known: Json = {"name": "p-0", "url": url, "state": state, "states": {state: 1}, "in_flight": 1, "served": 2}
    return ReplicaReport.model_validate(known | {"last_error": ""} | more)


def worker(number: int, *replicas: ReplicaReport, **more: object) -> PoolList:
    known: Json = {"name": "p", "site": "cloud", "source": "static", "error": "", "held": 1, "waking": False}
    pool = PoolReport.model_validate({**known, "replicas": list(replicas), **more})
    return PoolList(workers=[number], pools=[pool])


# The route


async def test_the_route_tells_of_every_replica() -> None:
    async with engine_running() as one, engine_running() as two, serving(config_of(one, two)) as server:
        assert (await server.post(CHAT, chat())).status_code == 200
        one.hold()
        two.hold()
        async with server.asking(chat()):
            await settled(lambda: None if one.stats.open + two.stats.open else "none", "no request", 5.0)
            found = (await server.get(ADMIN)).json()
        assert found["workers"] == [0]
        (pool,) = found["pools"]
        assert (pool["name"], pool["site"], pool["source"], pool["error"]) == ("p", "on-premise", "static", "")
        assert [r["name"] for r in pool["replicas"]] == ["p-0", "p-1"]
        assert [r["url"] for r in pool["replicas"]] == [one.url, two.url]
        assert {r["state"] for r in pool["replicas"]} == {"up"}
        assert sum(r["in_flight"] for r in pool["replicas"]) == 1
        assert sum(r["served"] for r in pool["replicas"]) == 2


async def test_an_open_breaker_is_told_with_what_went_wrong_and_without_secrets() -> None:
    async with engine_running(error_rate=1.0) as engine:
        config = config_of(engine, engine={"api_key": "sk-of-the-engine"}, attempts=1)
        async with serving(config) as server:
            for _ in range(3):
                await server.post(CHAT, chat())
            server.gateway.pools["p"].replicas[0].last_error += " sk-of-the-engine"
            (one,) = (await server.get(ADMIN)).json()["pools"][0]["replicas"]
            assert one["state"] in ("open", "half_open")
            assert one["last_error"].startswith("The engine failed (status 500)")
            assert "sk-of-the-engine" not in one["last_error"]


async def test_a_sleeping_pool_is_told_to_be_asleep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_STATE", str(tmp_path))
    with nobody() as url:
        zero = {"wake": {"command": ["sleep", "30"]}, "wait_s": 20}
        async with serving(config_of(url, pool={"scale_to_zero": zero})) as server:
            for replica in server.gateway.pools["p"].replicas:
                for _ in range(3):
                    replica.breaker.failed(0.0, probe=False)
            async with server.asking(chat()):
                waker = server.gateway.pools["p"].waker
                assert waker is not None
                await settled(lambda: None if waker.held else "none", "not held", 5.0)
                (pool,) = (await server.get(ADMIN)).json()["pools"]
                assert (pool["held"], pool["waking"]) == (1, True)
                assert [r["state"] for r in pool["replicas"]] == ["asleep"]
            await settled(lambda: waker.held, "held", 5.0)


async def test_with_keys_it_takes_one_for_administration() -> None:
    async with engine_running() as engine, serving(config_of(engine, keys=KEYS)) as server:
        assert (await server.get(ADMIN)).status_code == 401
        refused = await server.get(ADMIN, authorization="Bearer sk-team")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_admin")
        assert "`admin`" in refused.text
        assert (await server.get(ADMIN, authorization="Bearer sk-ops")).status_code == 200


def test_workers_are_summed_and_what_they_disagree_on_is_counted() -> None:
    total = merge_reports(
        [
            worker(1, replica("http://a:1"), replica("http://b:1", "open", last_error="no")),
            worker(0, replica("http://a:1"), replica("http://b:1"), waking=True, error="dns"),
            worker(2, replica("http://c:1", name="p-1")),
        ]
    )
    (pool,) = total.pools
    assert total.workers == [0, 1, 2]
    assert (pool.held, pool.waking, pool.error) == (3, True, "dns")
    a, b, c = pool.replicas
    assert (a.state, a.states, a.in_flight, a.served) == ("up", {"up": 2}, 2, 4)
    assert (b.state, b.states, b.last_error) == ("open", {"open": 1, "up": 1}, "no")
    assert (c.url, c.in_flight) == ("http://c:1", 1)


def test_a_url_is_shown_without_its_credentials() -> None:
    assert without_credentials("https://me:pw@a:1/x") == "https://a:1/x"
    assert without_credentials("http://a:1") == "http://a:1"


# The command


async def test_the_command_shows_the_sum_over_all_workers(tmp_path: Path) -> None:
    async with engine_running() as engine:
        config = config_of(engine, server={"workers": 2, "drain_s": 5})
        async with served(tmp_path, config) as gateway:
            await gateway.ready()
            for _ in range(12):
                async with client(gateway.url) as http:
                    assert (await http.post(CHAT, json=chat())).status_code == 200
            result = await asyncio.to_thread(pools, "--url", gateway.url, "--json")
            found = json.loads(result.stdout)
            assert found["workers"] == [0, 1]
            (one,) = found["pools"][0]["replicas"]
            assert (one["served"], one["states"]) == (12, {"up": 2})
            shown = await asyncio.to_thread(pools, env={"HEADRACE_URL": gateway.url})
            assert shown.exit_code == 0
            assert "static" in shown.stdout
            row = next(line.split() for line in shown.stdout.splitlines() if "p-0" in line)
            assert row == ["p-0", "up", "0", "12", engine.url]
            assert "2 workers" in shown.stdout


async def test_the_command_sends_the_key_and_tells_a_refusal() -> None:
    async with engine_running() as engine, serving(config_of(engine, keys=KEYS)) as server:
        right = await asyncio.to_thread(pools, "--url", server.url, env={"HEADRACE_KEY": "sk-ops"})
        assert right.exit_code == 0
        wrong = await asyncio.to_thread(pools, "--url", server.url, "--key", "sk-team")
        assert wrong.exit_code == 1
        assert wrong.stderr.startswith(f"{server.url}{ADMIN}: 403 Key 'team' may not see this")


def test_a_gateway_that_is_away_or_something_else_is_told() -> None:
    with nobody() as url:
        result = pools("--url", url)
    assert (result.exit_code, result.stderr) == (1, f"{url}{ADMIN}: Connection refused\n")
    assert pools("--url", "gateway:8080").exit_code == 2


async def test_an_engine_in_place_of_a_gateway_is_told() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = b"<p>hello\nthere</p>" if b"/deep/" in head else b"[]"
        status = b"404 No" if b"/deep/" in head else b"200 OK"
        if b"/silent/" in head:
            await reader.read()
        else:
            writer.write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        result = await asyncio.to_thread(pools, "--url", url)
        assert "no Headrace of this version" in result.stderr
        result = await asyncio.to_thread(pools, "--url", f"{url}/deep/")
        assert result.stderr == f"{url}{ADMIN}: 404 <p>hello there</p>\n"
        result = await asyncio.to_thread(pools, "--url", f"{url}/silent", "--timeout", "0.1")
        assert "no answer within 0.1 s" in result.stderr
    finally:
        server.close()


def test_the_table_counts_where_workers_disagree_and_shows_what_went_wrong() -> None:
    total = merge_reports(
        [worker(0, replica("http://a:1", "half_open", last_error="it [died]")), worker(1, replica("http://a:1"))]
    )
    total.pools[0].waking = True
    from rich.console import Console

    console = Console(width=200, file=None, record=True, quiet=False)
    with console.capture() as captured:
        console.print(table(total))
    text = captured.get()
    assert "half-open in 1, up in 1" in text
    assert "it [died]" in text
    assert "waking for 2 requests" in text
    one = table(worker(0, replica("http://a:1", "half_open")))
    assert one.caption == "1 worker"


async def test_with_watch_and_json_it_writes_a_line_for_each_look() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        command = Path(sys.executable).with_name("headrace")
        process = await asyncio.create_subprocess_exec(
            *(str(command), "pools", "--url", server.url, "--watch", "--json", "--every", "0.1"),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        lines = [json.loads(await process.stdout.readline()) for _ in range(2)]
        assert [line["pools"][0]["name"] for line in lines] == ["p", "p"]
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0


async def test_with_watch_a_terminal_shows_it_live_until_ctrl_c() -> None:
    async with engine_running() as engine:
        async with serving(config_of(engine)) as server:
            near, far = pty.openpty()
            command = Path(sys.executable).with_name("headrace")
            process = await asyncio.create_subprocess_exec(
                *(str(command), "pools", "--url", server.url, "-w", "--every", "0.1"),
                stdout=far,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "TERM": "xterm", "COLUMNS": "160", "LINES": "40"},
            )
            os.close(far)
            shown = ""
            while "p-0" not in shown:
                shown += (await asyncio.to_thread(os.read, near, 65536)).decode(errors="replace")
        while "Connection refused" not in shown:
            shown += (await asyncio.to_thread(os.read, near, 65536)).decode(errors="replace")
        process.send_signal(signal.SIGINT)
        await asyncio.to_thread(_drain, near)
        assert await process.wait() == 0
        os.close(near)


def _drain(fd: int) -> None:
    try:
        while os.read(fd, 65536):
            pass
    except OSError:
        pass  # the other side is closed


async def test_what_the_command_asks_is_what_the_route_tells() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        found = await asyncio.to_thread(ask, server.url, "", 5.0)
        async with httpx.AsyncClient(trust_env=False) as http:
            told = (await http.get(server.url + ADMIN)).json()
        assert found.model_dump() == told


@pytest.mark.parametrize("name", ["up", "draining"])
async def test_a_state_is_shown_for_a_replica_that_drains(tmp_path: Path, name: str) -> None:
    async with engine_running() as one, engine_running() as two:
        file = tmp_path / "replicas.json"
        file.write_text(json.dumps([one.url]))
        config = config_of(pool={"file": str(file)})
        del config["pools"]["p"]["urls"]
        async with serving(config) as server:
            one.hold()
            async with server.asking(chat()) as wire:
                await one.arrived()
                file.write_text(json.dumps([two.url]))
                pool = server.gateway.pools["p"]
                await settled(lambda: None if pool.draining and pool.replicas else pool, "not draining", 5.0)
                (told,) = (await server.get(ADMIN)).json()["pools"]
                assert name in [r["state"] for r in told["replicas"]]
                assert told["source"] == f"file {file}"
                one.release()
                assert (await wire.answer()).status == 200
