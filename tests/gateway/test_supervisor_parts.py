"""What the supervisor and its workers are made of, each by itself."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.config import Config
from gateway.config.load import parse_config
from gateway.process.banner import Console, curl_example, shown_url
from gateway.process.board import ABSENT, Board, Turn
from gateway.process.control import Channel, Configure, Message, Numbers, Reopen, Scrape, pack_config, unpack_config
from gateway.process.engine_plan import plans_of
from gateway.process.engine_set import EngineLog, in_thread
from gateway.process.listener import Acceptor, CannotListen, bind
from gateway.process.machine import notify, reap_orphans, state_folder, usable_cores


class Echo(asyncio.Protocol):
    def __init__(self, taken: list[asyncio.Transport]) -> None:
        self._taken = taken

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._taken.append(transport)
        transport.write(b"hello")


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board.create(3)
    yield made
    made.close()


# The listening socket


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_an_address_of_another_machine_is_refused_with_the_setting(host: str) -> None:
    with pytest.raises(CannotListen, match=r"server\.host"):
        bind(host, 0)


def test_accepted_connections_send_small_writes_at_once() -> None:
    with bind("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        listener.setblocking(True)
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_worker_that_is_ahead_takes_a_connection_that_nobody_else_takes(board: Board) -> None:
    board.put(1, 0)
    taken: list[asyncio.Transport] = []
    acceptor = Acceptor(bind("127.0.0.1", 0), lambda: Echo(taken), None, lambda: 10, Turn(board, 0))
    address = acceptor._listener.getsockname()
    began_s = time.monotonic()
    for _ in range(5):
        reader, writer = await asyncio.open_connection(*address)
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        await writer.wait_closed()
    assert 0.015 < time.monotonic() - began_s < 0.15  # it waits for the first of them, not for each
    acceptor.close()
    assert "Board [-1, 0, -1]" in repr(board)
    for transport in taken:
        transport.close()


async def test_closing_takes_the_connections_that_wait_already() -> None:
    taken: list[asyncio.Transport] = []
    listener = bind("127.0.0.1", 0)
    acceptor = Acceptor(listener, lambda: Echo(taken), None, lambda: 0)
    with socket.create_connection(listener.getsockname()) as waiting:
        acceptor.close()
        acceptor.close()
        assert not acceptor.is_open
        waiting.settimeout(5)
        assert await asyncio.to_thread(waiting.recv, 5) == b"hello"
    taken[0].close()


async def test_out_of_descriptors_it_pauses_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class Exhausted(socket.socket):
        refusals = 1

        def accept(self) -> tuple[socket.socket, object]:
            if self.refusals:
                self.refusals -= 1
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    taken: list[asyncio.Transport] = []
    listener = Exhausted(fileno=bind("127.0.0.1", 0).detach())
    acceptor = Acceptor(listener, lambda: Echo(taken), None, lambda: 0)
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    assert await reader.readexactly(5) == b"hello"
    assert "raise the limit of open files" in caplog.text
    writer.close()
    acceptor.close()
    taken[0].close()


async def test_a_client_that_does_not_speak_tls_disturbs_nobody() -> None:
    taken: list[asyncio.Transport] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    acceptor = Acceptor(bind("127.0.0.1", 0), lambda: Echo(taken), context, lambda: 0)
    reader, writer = await asyncio.open_connection(*acceptor._listener.getsockname())
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    with suppress(ConnectionError):
        await reader.read()
    assert not taken
    writer.close()
    acceptor.close()


def test_a_lead_counts_from_two_or_an_eighth_and_only_over_workers_that_accept(board: Board) -> None:
    first = Turn(board, 0)
    assert not first.is_ahead(100)
    board.put(1, 0)
    assert [first.is_ahead(count) for count in (0, 1, 2)] == [False, False, True]
    board.put(1, 80)
    assert [first.is_ahead(count) for count in (89, 90)] == [False, True]
    board.put(2, 0)
    assert first.is_ahead(2)
    first.leave()
    board.put(1, ABSENT)
    board.put(2, ABSENT)
    assert not Turn(board, 1).is_ahead(5)


# The channel


async def test_messages_arrive_whole_and_in_order_however_the_bytes_are_cut() -> None:
    ours, theirs = socket.socketpair()
    got: list[Message] = []
    channel = await Channel.open(theirs, got.append)
    sent: list[Message] = [Numbers(1, b"x" * 70_000), Reopen(), Scrape(2, "text/plain"), Numbers(0, b"")]
    collected: list[Message] = []
    other = await Channel.open(ours, collected.append)
    for message in sent:
        other.send(message)
    await other.close()
    await asyncio.wait_for(channel.ended.wait(), 5)
    assert got == sent
    other.send(Reopen())  # to nobody
    await channel.close()


async def test_a_message_cut_anywhere_is_put_together() -> None:
    got: list[Message] = []
    channel = Channel(got.append, lambda: None)
    source: list[bytes] = []

    class Collect:
        def is_closing(self) -> bool:
            return False

        def write(self, data: bytes) -> None:
            source.append(data)

    channel._transport = Collect()  # type: ignore[assignment]
    channel.send(Configure(1, 2, b"abc", "json"))
    channel.send(Reopen())
    data, rng = b"".join(source), random.Random(7)
    while data:
        size = rng.randint(1, 5)
        channel.data_received(data[:size])
        data = data[size:]
    assert got == [Configure(1, 2, b"abc", "json"), Reopen()]


def test_a_configuration_keeps_its_secrets_on_the_channel() -> None:
    config = parse_config(
        "auth: {salt: pepper, keys: [{name: a, key: sk-secret-1}]}\n"
        "pools: {p: {urls: ['http://127.0.0.1:1'], engine: {api_key: upstream}}}\n"
    )
    assert unpack_config(pack_config(config)) == config


# The machine


@pytest.mark.parametrize(("quota", "cores"), [("50000 100000", 1), ("max 100000", None), ("nonsense", None)])
def test_the_cores_of_a_container_are_those_of_its_quota(tmp_path: Path, quota: str, cores: int | None) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert usable_cores(tmp_path) == (cores or len(os.sched_getaffinity(0)))


def test_the_state_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HEADRACE_STATE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_folder() == tmp_path / "headrace"
    monkeypatch.setenv("HEADRACE_STATE", str(tmp_path / "own"))
    assert state_folder() == tmp_path / "own"


def test_a_service_manager_that_is_not_there_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "@headrace-nobody-listens")
    notify("READY=1")


@pytest.mark.may_block("it reads /proc, which is memory")
async def test_a_dead_child_that_nobody_waits_for_is_reaped() -> None:
    child = os.posix_spawn("/bin/true", ["true"], {})
    reaping = asyncio.create_task(reap_orphans(0.05))
    async with asyncio.timeout(10):
        while Path(f"/proc/{child}").exists():
            await asyncio.sleep(0.02)
    reaping.cancel()


# Engines


def test_a_pool_that_several_deployments_use_is_asked_for_all_their_names() -> None:
    config = parse_config(
        "pools: {p: {engine: {kind: fake, args: [--seed, '1']}, replicas: 2}, q: {urls: ['http://h']}}\n"
        "deployments:\n"
        "  a: {variants: {v: {pools: [p]}}}\n"
        "  b: {variants: {v: {pools: [p, q], model: weights}, w: {pools: [q]}}}\n"
    )
    plans = plans_of(config)
    assert [(plan.name, plan.names, plan.args) for plan in plans] == [
        ("p-0", ("a", "weights"), ("--seed", "1")),
        ("p-1", ("a", "weights"), ("--seed", "1")),
    ]


def test_a_large_engine_log_is_moved_aside(tmp_path: Path) -> None:
    path = tmp_path / "engines" / "p-0.log"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.truncate(17 * 1024 * 1024)
    log = EngineLog(path)
    log.write("p-0", "first")
    log.close()
    log.write("p-0", "nobody listens")
    assert path.read_text() == "first\n"
    assert path.with_name("p-0.log.1").exists()


def test_a_log_that_cannot_be_written_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    log = EngineLog(tmp_path / "file" / "p-0.log")
    log.write("p-0", "line")
    assert log.path is None


async def test_blocking_work_gives_its_result_or_its_error() -> None:
    assert await in_thread(lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0)


# The banner


@pytest.mark.parametrize(
    ("host", "tls", "url"),
    [
        ("0.0.0.0", False, "http://127.0.0.1:80"),
        ("::", False, "http://[::1]:80"),
        ("[::1]", True, "https://[::1]:80"),
        ("gateway.example", True, "https://gateway.example:80"),
    ],
)
def test_the_url_shown_is_one_that_can_be_called_from_here(host: str, tls: bool, url: str) -> None:
    assert shown_url(host, 80, tls=tls) == url


def test_without_keys_the_curl_carries_none() -> None:
    assert "authorization" not in curl_example("http://h:1", "m", keyed=False)
    assert '-H "authorization: Bearer $HEADRACE_KEY"' in curl_example("http://h:1", "m", keyed=True)


def test_an_overview_masks_credentials_in_urls_and_tells_of_no_deployments(capsys: pytest.CaptureFixture[str]) -> None:
    config = parse_config(
        "pools: {p: {urls: ['http://user:hunter2@h:1']}}\ndeployments: {m: {variants: {v: {pools: [p]}}}}"
    )
    Console("pretty").overview(config, "http://x", 1)
    Console("pretty").overview(Config(), "http://x", 1)
    Console("pretty").examples(Config(), "http://x")
    shown = capsys.readouterr().err
    assert "hunter2" not in shown
    assert "m → v → p: openai on http://h:1" in shown
    assert "there are no deployments yet" in shown
