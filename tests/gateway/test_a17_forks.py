"""A17: workers come from a process that has the program loaded, which may end like any other."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.process import forks
from gateway.process.forks import Fork, Nursery
from tests.gateway.supervised import Served, children, client, command, served
from tests.harness import config_of, engine_running, settled


@asynccontextmanager
async def nursery_running() -> AsyncIterator[Nursery]:
    nursery = Nursery()
    try:
        yield nursery
    finally:
        await nursery.aclose()


async def one(nursery: Nursery) -> tuple[Fork, socket.socket]:
    """A worker that waits for its configuration, and our end of its channel."""
    ours, theirs = socket.socketpair()
    with theirs, socket.create_server(("127.0.0.1", 0)) as listener, Path("/dev/null").open() as board:
        try:
            return await nursery.start((theirs.fileno(), listener.fileno(), board.fileno())), ours
        except OSError:
            ours.close()
            raise


async def test_a_worker_gets_its_descriptors_and_its_end_is_told_with_its_status() -> None:
    async with nursery_running() as nursery:
        fork, channel = await one(nursery)
        await settled(lambda: None if "gateway.process.worker" in command(fork.pid) else command(fork.pid), "its name")
        assert fork.returncode is None
        channel.close()  # without a supervisor a worker that has not begun ends
        assert await fork.wait() == 1
        with pytest.raises(ProcessLookupError):
            fork.kill()
        assert "ended with 1" in repr(fork)


async def test_a_worker_that_is_killed_is_told_by_its_signal() -> None:
    async with nursery_running() as nursery:
        fork, channel = await one(nursery)
        with channel:
            fork.kill()
            assert await fork.wait() == -signal.SIGKILL


async def test_workers_that_are_asked_for_at_once_all_come() -> None:
    async with nursery_running() as nursery:
        found = await asyncio.gather(*(one(nursery) for _ in range(4)))
        assert len({fork.pid for fork, _ in found}) == 4
        for _, channel in found:
            channel.close()
        assert [await fork.wait() for fork, _ in found] == [1, 1, 1, 1]


@pytest.mark.parametrize("handles", [True, False], ids=["pidfd", "no pidfd"])
async def test_workers_outlive_the_process_that_they_came_from_and_the_next_one_comes_from_another(
    monkeypatch: pytest.MonkeyPatch, handles: bool
) -> None:
    if not handles:
        monkeypatch.setattr(os, "pidfd_open", _not_there)
    async with nursery_running() as nursery:
        fork, channel = await one(nursery)
        (pid,) = (pid for pid in children(os.getpid()) if forks.MODULE in command(pid))
        os.kill(pid, signal.SIGKILL)
        other, other_channel = await _another(nursery)
        assert fork.returncode is None
        channel.close()
        other_channel.close()
        assert await other.wait() == 1
        assert await fork.wait() == 0  # nobody is left to tell its status


def _not_there(pid: int) -> int:
    raise OSError(errno.ENOSYS, "Function not implemented")


async def test_without_pidfds_a_worker_is_killed_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pidfd_open", _not_there)
    async with nursery_running() as nursery:
        fork, channel = await one(nursery)
        with channel:
            fork.kill()
            assert await fork.wait() == -signal.SIGKILL


async def _another(nursery: Nursery) -> tuple[Fork, socket.socket]:
    try:
        return await one(nursery)
    except ConnectionResetError:  # its end was noticed only now
        return await one(nursery)


async def test_a_process_that_cannot_load_the_program_is_no_endless_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "MODULE", "gateway.process.no_such_module")
    async with nursery_running() as nursery:
        with pytest.raises(ConnectionResetError, match="has ended"):
            await one(nursery)


async def test_a_gateway_goes_on_when_that_process_is_killed(tmp_path: Path) -> None:
    config = config_of(server={"workers": 2, "drain_s": 5})
    async with engine_running() as engine:
        config["pools"]["p"]["urls"] = [engine.url]
        async with served(tmp_path, config) as gateway:
            await gateway.ready()
            before = gateway.workers()
            (pid,) = (pid for pid in children(gateway.pid) if forks.MODULE in command(pid))
            os.kill(pid, signal.SIGKILL)
            await gateway.said("the process that workers are forked from has ended")
            async with client(gateway.url) as http:
                assert (await http.get("/health/ready")).status_code == 200
            os.kill(before[0], signal.SIGKILL)
            await gateway.said("a new one starts in")
            await _workers(gateway, 2)
            async with client(gateway.url) as http:
                assert (await http.get("/health/ready")).status_code == 200


async def _workers(gateway: Served, count: int) -> None:
    async with asyncio.timeout(20):
        while len([pid for pid in _all_workers(gateway) if command(pid)]) != count:
            await asyncio.sleep(0.05)


def _all_workers(gateway: Served) -> list[int]:
    """Also those whose parent is gone, which are nobody's descendants: by the listening socket that they hold."""
    inode = next(iter(_listening(gateway.pid)))
    return [int(pid.name) for pid in Path("/proc").glob("[0-9]*") if _is_worker(pid) and inode in _sockets(pid)]


def _is_worker(process: Path) -> bool:
    return "gateway.process.worker" in command(int(process.name))


def _sockets(process: Path) -> set[str]:
    found = set()
    for entry in (process / "fd").iterdir():
        try:
            found.add(str(entry.readlink()))
        except OSError:
            continue
    return found


def _listening(pid: int) -> set[str]:
    table = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    inodes = {f"socket:[{fields[9]}]" for fields in map(str.split, table) if fields[3] == "0A"}
    return inodes & _sockets(Path(f"/proc/{pid}"))
