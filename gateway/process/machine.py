"""What the machine and the service manager around us say and want to hear."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import stat
from pathlib import Path


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may keep busy: its affinity, or less if its container has a quota."""
    cores = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        quota, period = (cgroup / "cpu.max").read_text().split()
        cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores)


def state_folder() -> Path:
    """HEADRACE_STATE, or `headrace` in XDG_STATE_HOME or in ~/.local/state."""
    if own := os.environ.get("HEADRACE_STATE"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    with contextlib.suppress(RuntimeError):
        return Path(base).expanduser().absolute() / "headrace"
    return Path("/tmp/headrace")  # noqa: S108 - a user without a home


def read_own(path: Path) -> bytes:
    """What is in a file that this user alone can have written, so that it may be gone by. Blocks.

    Raises:
        OSError: there is none, or others could have written it.
    """
    _check_own(path.parent.lstat())
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        _check_own(os.fstat(fd))
        return file.read()


def _check_own(found: os.stat_result) -> None:
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError("others than this user can write it")


def notify(state: str) -> None:
    """Tell systemd, if it started us (`sd_notify`)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(state.encode(), address.replace("@", "\0", 1) if address.startswith("@") else address)


async def reap_orphans(every_s: float = 5.0) -> None:
    """As process 1 of a container: take leave of processes whose parents are gone.

    A child of our own is reaped at once by who started it; one that is dead for two rounds has nobody else.
    """
    dead_before: set[int] = set()
    while True:
        await asyncio.sleep(every_s)
        dead = {pid for pid in _children() if _is_zombie(pid)}
        for pid in dead & dead_before:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - with WNOHANG it does not wait
        dead_before = dead


def _children() -> list[int]:
    return [int(pid) for task in Path("/proc/self/task").iterdir() for pid in _read(task / "children").split()]


def _is_zombie(pid: int) -> bool:
    return _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()[:1] == ["Z"]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
