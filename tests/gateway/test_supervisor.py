"""`headrace serve` as people and service managers meet it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.gateway.supervised import (
    chat,
    client,
    gone,
    requests_counted,
    served,
    sockets,
)
from tests.harness import CHAT, Json, config_of, engine_running

EMBEDDED: Json = {
    "server": {"port": 0, "workers": 1, "drain_s": 5},
    "pools": {"p": {"engine": {"kind": "fake"}}},
    "deployments": {"m": {"variants": {"v": {"pools": ["p"]}}}},
}


def two_workers(*engines: object, **server: object) -> Json:
    return config_of(*engines, server={"workers": 2, "drain_s": 5, **server})  # type: ignore[arg-type]


# Start


async def test_a_start_tells_what_runs_where_and_the_curl_it_shows_works_as_pasted(tmp_path: Path) -> None:
    async with served(tmp_path, EMBEDDED) as gateway:
        await gateway.ready()
        assert "no keys are configured" in gateway.text
        assert re.search(r"m → v → p: fake on http://127.0.0.1:\d+", gateway.text)
        assert re.search(r"engine p-0: ready in \d+\.\d s", gateway.text)
        await gateway.said("print\\(")
        curl = next(line for line in gateway.lines if line.startswith("curl "))
        answer = await asyncio.to_thread(subprocess.run, curl, shell=True, capture_output=True, text=True, check=True)
        assert json.loads(answer.stdout)["choices"][0]["message"]["content"]


async def test_the_python_example_works_as_pasted_with_a_key_from_the_environment(tmp_path: Path) -> None:
    openai = pytest.importorskip("openai")
    assert openai
    config = EMBEDDED | {"auth": {"keys": [{"name": "k", "key": "sk-test-1234"}]}}
    async with served(tmp_path, config) as gateway:
        await gateway.ready()
        await gateway.said("print\\(")
        first = next(i for i, line in enumerate(gateway.lines) if line.startswith("import openai"))
        program = "\n".join(gateway.lines[first : first + 4])
        environment = {**os.environ, "HEADRACE_KEY": "sk-test-1234"}
        argv = [sys.executable, "-c", program]
        done = await asyncio.to_thread(subprocess.run, argv, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


async def test_with_keys_the_curl_takes_the_key_from_a_variable_and_no_secret_is_shown(tmp_path: Path) -> None:
    config = EMBEDDED | {"auth": {"keys": [{"name": "k", "key": "sk-test-1234"}]}}
    async with served(tmp_path, config) as gateway:
        await gateway.ready()
        await gateway.said("print\\(")
        curl = next(line for line in gateway.lines if line.startswith("curl "))
        environment = {**os.environ, "HEADRACE_KEY": "sk-test-1234"}
        done = await asyncio.to_thread(
            subprocess.run, curl, shell=True, env=environment, capture_output=True, text=True
        )
        assert json.loads(done.stdout)["choices"]
        assert "sk-test-1234" not in gateway.text
        for pid in (gateway.pid, *gateway.workers()):
            assert b"sk-test-1234" not in Path(f"/proc/{pid}/cmdline").read_bytes()
            assert b"sk-test-1234" not in Path(f"/proc/{pid}/environ").read_bytes()


async def test_our_own_messages_are_json_if_the_log_format_is(tmp_path: Path) -> None:
    async with served(tmp_path, EMBEDDED, "--log-format", "json") as gateway:
        await gateway.ready()
        messages = [json.loads(line) for line in gateway.lines]
        assert messages[0]["message"].startswith("headrace ")
        assert any("engine p-0: ready" in message["message"] for message in messages)


async def test_a_port_in_use_ends_the_start_with_the_port_and_the_setting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        async with served(tmp_path, EMBEDDED, "--port", str(port), "--log-format", "pretty") as gateway:
            assert await gateway.ended() == 1
            assert f"port {port} of 127.0.0.1 is in use" in gateway.text
            assert "--port or server.port" in gateway.text


async def test_what_only_a_worker_finds_out_ends_the_start_with_its_reason(tmp_path: Path) -> None:
    config = EMBEDDED | {"telemetry": {"access_log": {"path": str(tmp_path), "format": "json"}}}
    async with served(tmp_path, config) as gateway:
        assert await gateway.ended() == 1
        assert "worker 0 could not start" in gateway.text
        assert "Is a directory" in gateway.text


async def test_an_engine_that_cannot_run_ends_the_start_with_its_last_words(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_text("nothing of the kind")
    config = EMBEDDED | {"pools": {"p": {"engine": {"kind": "llamacpp", "model": str(model)}}}}
    async with served(tmp_path, config) as gateway:
        assert await gateway.ended() == 1
        assert "is not a GGUF file" in gateway.text
        assert "starting it again cannot help" in gateway.text
        log = tmp_path / "state" / "engines" / "p-0.log"
        assert str(log) in gateway.text
        assert "is not a GGUF file" in log.read_text()


async def test_an_engine_that_ends_before_it_is_ready_is_tried_again_and_quoted(tmp_path: Path) -> None:
    config = EMBEDDED | {"pools": {"p": {"engine": {"kind": "fake", "args": ["--itl", "-1"]}}}}
    async with served(tmp_path, config) as gateway:
        await gateway.said(r"it is started again in \d+\.\d s", times=2)
        assert "--itl: -1.0 is not allowed" in gateway.text
        gateway.signal(signal.SIGTERM)
        assert await gateway.ended() == 0


async def test_it_is_not_ready_while_its_own_engines_load(tmp_path: Path) -> None:
    config = EMBEDDED | {"pools": {"p": {"engine": {"kind": "fake", "args": ["--startup", "1.5"]}}}}
    config["server"] = {"port": 0, "workers": 2, "drain_s": 1}
    async with served(tmp_path, config) as gateway:
        await gateway.said("gateway on")
        async with client(gateway.url) as http:
            loading = await http.get("/health/ready")
            assert (loading.status_code, loading.json()["status"]) == (503, "starting")
            assert loading.headers["retry-after"] == "1"
            assert (await http.get("/health/live")).status_code == 200
            await gateway.ready()
            async with asyncio.timeout(5):
                while (await http.get("/health/ready")).status_code != 200:
                    await asyncio.sleep(0.02)


async def test_it_listens_on_an_ipv6_address(tmp_path: Path) -> None:
    async with engine_running() as engine:
        config = config_of(engine, server={"host": "::1", "workers": 1, "drain_s": 1})
        async with served(tmp_path, config) as gateway:
            await gateway.ready()
            assert gateway.url.startswith("http://[::1]:")
            async with client(gateway.url) as http:
                assert (await http.post(CHAT, json=chat())).status_code == 200


# Workers


async def test_a_burst_of_connections_spreads_over_the_workers(tmp_path: Path) -> None:
    async with engine_running() as engine, served(tmp_path, two_workers(engine)) as gateway:
        await gateway.ready()
        before = {pid: sockets(pid) for pid in gateway.workers()}
        host, port = gateway.url.removeprefix("http://").split(":")
        streams = await asyncio.gather(*[asyncio.open_connection(host, int(port)) for _ in range(100)])
        for reader, writer in streams:
            writer.write(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
        taken = {pid: sockets(pid) - count for pid, count in before.items()}
        for _, writer in streams:
            writer.close()
        assert sum(taken.values()) == 100
        assert min(taken.values()) >= 30, taken


async def test_metrics_are_the_sum_over_workers_and_outlive_one_of_them(tmp_path: Path) -> None:
    """A22"""
    async with engine_running() as engine, served(tmp_path, two_workers(engine)) as gateway:
        await gateway.ready()
        for _ in range(40):
            async with client(gateway.url) as http:  # a connection each, so that both workers have some
                assert (await http.post(CHAT, json=chat())).status_code == 200
        assert await requests_counted(gateway.url) == 40
        await asyncio.sleep(1.2)  # the longest that numbers of a killed worker may be old
        os.kill(gateway.workers()[0], signal.SIGKILL)
        await gateway.said(r"worker \d \(process \d+\) ended: killed")
        assert await requests_counted(gateway.url) == 40
        for _ in range(10):
            async with client(gateway.url) as http:
                assert (await http.post(CHAT, json=chat())).status_code == 200
        assert await requests_counted(gateway.url) == 50


async def test_a_worker_that_hangs_delays_a_scrape_by_no_more_than_the_time_it_is_given(tmp_path: Path) -> None:
    """A22"""
    async with engine_running() as engine, served(tmp_path, two_workers(engine)) as gateway:
        await gateway.ready()
        await asyncio.sleep(1.2)  # each worker has sent its numbers once more
        stopped = gateway.workers()[0]
        os.kill(stopped, signal.SIGSTOP)
        try:
            began_s = time.monotonic()
            async with client(gateway.url) as http:
                text = (await http.get("/metrics")).text
            assert time.monotonic() - began_s < 1.0
            assert "headrace_workers 2.0" in text
        finally:
            os.kill(stopped, signal.SIGCONT)


async def test_a_killed_worker_is_replaced_and_takes_no_stream_of_the_other_with_it(tmp_path: Path) -> None:
    async with engine_running() as engine, served(tmp_path, two_workers(engine)) as gateway:
        await gateway.ready()
        engine.hold()
        before = gateway.workers()
        async with client(gateway.url) as http:
            asking = [asyncio.create_task(http.post(CHAT, json=chat(stream=True))) for _ in range(16)]
            await engine.arrived(16)
            os.kill(before[0], signal.SIGKILL)
            await gateway.said("a new one starts in")
            engine.release()
            answers = await asyncio.gather(*asking, return_exceptions=True)
            whole = [a for a in answers if not isinstance(a, BaseException) and a.text.endswith("data: [DONE]\n\n")]
            assert 0 < len(whole) < 16
        async with asyncio.timeout(10):
            while len(set(gateway.workers()) - {before[0]}) < 2:
                await asyncio.sleep(0.05)
        assert before[1] in gateway.workers()


async def test_a_worker_that_keeps_dying_is_called_a_crash_loop(tmp_path: Path) -> None:
    async with engine_running() as engine, served(tmp_path, two_workers(engine)) as gateway:
        await gateway.ready()
        for times in range(1, 5):
            victim = max(gateway.workers())
            os.kill(victim, signal.SIGKILL)
            await gateway.said(rf"\(process {victim}\) ended")
            async with asyncio.timeout(10):
                while len(gateway.workers()) < 2:
                    await asyncio.sleep(0.02)
            assert times
        assert "crash loop" in gateway.text


async def test_an_engine_that_dies_is_started_again_at_the_same_address(tmp_path: Path) -> None:
    async with served(tmp_path, EMBEDDED) as gateway:
        await gateway.ready()
        (engine,) = gateway.engines()
        os.kill(engine, signal.SIGKILL)
        await gateway.said(r"engine p-0: ready in", times=2)
        assert "engine p-0: killed (SIGKILL)" in gateway.text
        async with client(gateway.url) as http:
            async with asyncio.timeout(20):
                while (await http.post(CHAT, json=chat())).status_code != 200:
                    await asyncio.sleep(0.1)


# The end


async def test_sigterm_turns_readiness_at_once_and_lets_a_stream_finish(tmp_path: Path) -> None:
    """A23"""
    async with engine_running() as engine, served(tmp_path, two_workers(engine)) as gateway:
        await gateway.ready()
        engine.hold()
        async with client(gateway.url) as http:
            streaming = asyncio.create_task(http.post(CHAT, json=chat(stream=True)))
            await engine.arrived()
            gateway.signal(signal.SIGTERM)
            await gateway.said("stopping")
            seen = Counter[int]()
            for _ in range(10):
                async with client(gateway.url) as probe:
                    seen[(await probe.get("/health/ready")).status_code] += 1
            assert seen == {503: 10}
            async with client(gateway.url) as late:
                answer = await late.get("/health/live")
                assert answer.status_code == 200
                assert answer.headers["connection"] == "close"
            engine.release()
            answer = await streaming
            assert answer.text.endswith("data: [DONE]\n\n")
        assert await gateway.ended() == 0


async def test_a_stream_that_outlasts_the_drain_limit_is_cut_off(tmp_path: Path) -> None:
    async with engine_running() as engine, served(tmp_path, two_workers(engine, drain_s=1.5)) as gateway:
        await gateway.ready()
        engine.hold()
        async with client(gateway.url) as http:
            streaming = asyncio.create_task(http.post(CHAT, json=chat(stream=True)))
            await engine.arrived()
            gateway.signal(signal.SIGTERM)
            assert await gateway.ended() == 0
            (outcome,) = await asyncio.gather(streaming, return_exceptions=True)
            assert isinstance(outcome, Exception)
            assert "did not finish within 1.5 s (server.drain_s)" in gateway.text


async def test_a_second_signal_ends_everything_at_once(tmp_path: Path) -> None:
    async with engine_running() as engine, served(tmp_path, two_workers(engine, drain_s=60)) as gateway:
        await gateway.ready()
        engine.hold()
        async with client(gateway.url) as http:
            streaming = asyncio.create_task(http.post(CHAT, json=chat(stream=True)))
            await engine.arrived()
            gateway.signal(signal.SIGINT)
            await gateway.said("stopping")
            gateway.signal(signal.SIGINT)
            assert await gateway.ended() == 128 + signal.SIGINT
            await asyncio.gather(streaming, return_exceptions=True)


async def test_a_signal_during_the_start_ends_it(tmp_path: Path) -> None:
    config = EMBEDDED | {"pools": {"p": {"engine": {"kind": "fake", "args": ["--startup", "60"]}}}}
    async with served(tmp_path, config) as gateway:
        await gateway.said("engine p-0: loading")
        gateway.signal(signal.SIGTERM)
        assert await gateway.ended() == 0


async def test_a_terminal_that_is_closed_ends_it(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    (tmp_path / "headrace.yaml").write_text(json.dumps(EMBEDDED))
    take_terminal = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY); os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", take_terminal, str(Path(sys.executable).with_name("headrace"))),
        *("serve", "--config", str(tmp_path / "headrace.yaml")),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={**os.environ, "HEADRACE_STATE": str(tmp_path)},
    )
    os.close(theirs)
    shown = b""
    while b"print(" not in shown:
        shown += await asyncio.to_thread(os.read, ours, 4096)
    os.close(ours)
    async with asyncio.timeout(20):
        assert await process.wait() == 0


async def test_systemd_is_told_when_it_is_ready_and_when_it_stops(tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        systemd.settimeout(20)
        async with served(tmp_path, EMBEDDED, env={"NOTIFY_SOCKET": str(address)}) as gateway:
            assert await asyncio.to_thread(systemd.recv, 100) == b"READY=1"
            gateway.signal(signal.SIGTERM)
            assert await asyncio.to_thread(systemd.recv, 100) == b"STOPPING=1"


async def test_killing_the_supervisor_leaves_nothing_behind(tmp_path: Path) -> None:
    async with served(tmp_path, EMBEDDED | {"server": {"port": 0, "workers": 2, "drain_s": 1}}) as gateway:
        await gateway.ready()
        processes = [*gateway.workers(), *gateway.engines()]
        assert len(processes) == 3
        gateway.signal(signal.SIGKILL)
        async with asyncio.timeout(5):
            await gone(processes)
