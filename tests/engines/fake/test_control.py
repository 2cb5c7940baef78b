from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from typer.testing import CliRunner

from engines.fake import FakeEngine, FakeOptions, OptionError, Split
from engines.fake.command import fake_engine, serve
from engines.fake.engine import EngineStats
from tests.engines.fake.client import CHAT, Wire, chat, get, post


async def test_the_gate_and_the_counters_work_over_http() -> None:
    async with FakeEngine() as engine:
        assert (await post(engine.url, "/fake/hold", {})).status_code == 200
        arrived = asyncio.create_task(get(engine.url, "/fake/arrived?n=2"))
        calls = [asyncio.create_task(post(engine.url, CHAT, chat())) for _ in range(2)]
        assert (await arrived).json()["held"] == 2
        assert (await post(engine.url, "/fake/release?n=1", {})).json()["held"] == 1
        await post(engine.url, "/fake/release", {})
        await asyncio.gather(*calls)
        assert (await get(engine.url, "/fake/idle")).json()["completed"] == 2
        wire = await Wire.open(engine.url)
        wire.send(CHAT, chat(fake={"hang": "before"}))
        await engine.hung()
        await wire.aclose()
        stats = (await get(engine.url, "/fake/aborted")).json()
        assert (stats["aborted"], stats["pid"]) == (1, os.getpid())


async def test_the_requests_received_can_be_read() -> None:
    async with FakeEngine() as engine:
        await post(engine.url, CHAT + "?a=1", chat("what I said"), **{"x-mine": "yes"})
        (entry,) = (await get(engine.url, "/fake/requests")).json()
        (request,) = engine.requests
    assert (entry["method"], entry["path"], entry["query"]) == ("POST", CHAT, "a=1")
    assert ["x-mine", "yes"] in entry["headers"]
    assert "what I said" in entry["body"]
    assert request.header("x-mine") == "yes"
    assert json.loads(request.body)["messages"][0]["content"] == "what I said"


async def test_the_log_keeps_the_last_thousand() -> None:
    async with FakeEngine() as engine:
        wire = await Wire.open(engine.url)
        for number in range(1003):
            wire.send("/tokenize", {"prompt": str(number)}, close=number == 1002)
        await wire.rest()
        await wire.aclose()
        assert len(engine.requests) == 1000
        assert json.loads(engine.requests[0].body) == {"prompt": "3"}


async def test_options_change_live_and_reset_brings_the_first_back() -> None:
    async with FakeEngine(FakeOptions(output_tokens=2)) as engine:
        changed = await post(engine.url, "/fake/options", {"output_tokens": 5, "split": "byte", "kv_tokens": 64})
        assert changed.json()["split"] == "byte"
        assert engine.options.split is Split.BYTE
        assert (await post(engine.url, CHAT, chat())).json()["usage"]["completion_tokens"] == 5
        engine.hold()
        await post(engine.url, "/fake/reset", {})
        assert engine.stats.requests == 0
        assert engine.requests == []
        assert (await post(engine.url, CHAT, chat())).json()["usage"]["completion_tokens"] == 2
        engine.reset()
        assert "requests=0" in repr(engine.stats)
        assert isinstance(engine.stats, EngineStats)
        with pytest.raises(AttributeError, match="nothing_such"):
            _ = engine.stats.nothing_such


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/fake/options", {"itl": 1}, "'itl' cannot be changed; these can: api_key,"),
        ("/fake/options", {"port": 1}, "'port' cannot be changed"),
        ("/fake/options", {"itl_s": "x"}, "itl_s"),
        ("/fake/options", {"slots": 0}, "--slots: 0 is not allowed; it takes 1 or more"),
        ("/fake/options", [], "object"),
        ("/fake/release?n=x", {}, "n=x is not a whole number"),
    ],
)
async def test_a_wrong_command_is_refused_with_the_reason(path: str, body: Any, words: str) -> None:
    async with FakeEngine() as engine:
        answer = await post(engine.url, path, body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


async def test_a_command_that_is_not_there_gets_the_list() -> None:
    async with FakeEngine() as engine:
        answer = await get(engine.url, "/fake/nothing")
    assert answer.status_code == 404
    assert "POST /fake/hold" in answer.json()["error"]


async def test_one_who_waits_may_leave_or_see_the_engine_close() -> None:
    async with FakeEngine() as engine:
        leaving = await Wire.open(engine.url)
        leaving.send("/fake/arrived?n=9", {}, method="GET")
        staying = await Wire.open(engine.url)
        staying.send("/fake/arrived?n=9", {}, method="GET")
        await get(engine.url, "/health")
        await leaving.aclose()
        await get(engine.url, "/health")
    await staying.rest()
    await staying.aclose()


def test_an_engine_that_does_not_run_says_so() -> None:
    engine = FakeEngine()
    with pytest.raises(RuntimeError, match="not been started"):
        _ = engine.stats
    with pytest.raises(RuntimeError, match="not listening"):
        _ = engine.url


async def test_an_ipv6_url_has_brackets() -> None:
    async with FakeEngine(FakeOptions(host="::1")) as engine:
        assert engine.url == f"http://[::1]:{engine.port}"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"itl_s": -1.0}, "--itl: -1.0 is not allowed; it takes 0 or more"),
        ({"ttft_s": float("nan")}, "--ttft: nan is not allowed"),
        ({"ttft_s": float("inf")}, "--ttft: inf is not allowed"),
        ({"port": 70000}, "--port: 70000 is not allowed; it takes from 0 to 65535"),
        ({"models": ()}, "--model: at least one name"),
        ({"models": ("",)}, "none may be empty"),
        ({"block_tokens": 32, "kv_tokens": 16}, "more than the whole KV cache, --kv-tokens 16"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_flag(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words.replace("(", r"\(")):
        FakeOptions(**options)


def _app() -> Any:
    import typer

    app = typer.Typer(add_completion=False)
    app.command()(fake_engine)
    return app


def test_every_option_has_a_flag_with_help() -> None:
    result = CliRunner(env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}).invoke(_app(), ["--help"])
    for field in dataclasses.fields(FakeOptions):
        assert field.metadata["flag"] in result.output
        assert field.metadata["help"].endswith(".")


def test_wrong_flags_and_a_taken_port_end_with_a_message() -> None:
    assert CliRunner().invoke(_app(), ["--split", "diagonal"]).exit_code == 2
    wrong = CliRunner().invoke(_app(), ["--jitter", "2"])
    assert (wrong.exit_code, "--jitter: 2.0 is not allowed" in wrong.output) == (2, True)


async def test_a_taken_port_is_named() -> None:
    async with FakeEngine() as engine:
        port = str(engine.port)
        result = await asyncio.to_thread(CliRunner().invoke, _app(), ["--port", port])
        with pytest.raises(OSError, match="address already in use"):
            await serve(FakeOptions(port=engine.port))
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1:{port} (--host, --port)" in result.output


@pytest.mark.parametrize("as_json", [True, False])
async def test_the_process_says_where_it_is_and_ends_on_sigterm(as_json: bool) -> None:
    arguments = ["--model", "a", "--model", "b", "--output-tokens", "2", *(["--json"] if as_json else [])]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "engines.fake", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    line = (await process.stdout.readline()).decode()
    if as_json:
        ready = json.loads(line)
        assert (ready["models"], ready["pid"]) == (["a", "b"], process.pid)
        url = ready["url"]
    else:
        assert line.startswith("fake engine on http://127.0.0.1:")
        assert line.endswith(" serves a, b\n")
        url = line.split()[3]
    assert (await post(url, CHAT, chat(model="b"))).json()["usage"]["completion_tokens"] == 2
    data = await _cut(url)
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
    assert data[1]
    assert await process.stderr.read() == b""


async def _cut(url: str) -> tuple[bytes, bool]:
    """A reset under the event loop that the process uses."""
    wire = await Wire.open(url)
    wire.send(CHAT, chat(model="a", stream=True, fake={"die_after": 1}))
    answer = await wire.rest()
    await wire.aclose()
    return answer
