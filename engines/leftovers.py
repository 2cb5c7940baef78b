"""Ends what engines leave behind when nobody is left to stop them: `python leftovers.py MARK`.

The kernel kills an engine whose supervisor dies, but not the helpers that the engine forked: vLLM's EngineCore and its
workers live on, and keep the GPU. So every engine carries a mark in its environment, which all that it starts inherit,
in whatever process group or session. A guard, this file run as a script, waits for the supervisor's end and then kills
all that carry its mark; and whoever starts engines first kills what carries the mark of a supervisor that is gone, in
case the guard was killed as well.

Standard library only, so that the script runs with `-I -S`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

VARIABLE = "HEADRACE_ENGINE_OF"
_ROUNDS = 5
"""A process may fork while the others are being killed: look again until nothing new is found."""


def mark_of(pid: int) -> str | None:
    """What tells a running process from all others, also from a later one with the same id; None: there is no such.

    Ids are those of one PID namespace: a container that sees the processes of others leaves them alone.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        namespace = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 - says what it is
    except OSError:
        return None
    state, started_ticks = stat[0], stat[19]
    return None if state in "ZX" else f"{pid}.{started_ticks}.{namespace}"


def environment() -> dict[str, str]:
    """What an engine that this process starts gets into its environment."""
    # `setproctitle`, which vLLM uses, otherwise writes a process's title over its environment.
    return {VARIABLE: mark_of(os.getpid()) or "", "SPT_NOENV": "1"}


def kill_orphans() -> list[str]:
    """Kill what carries the mark of a supervisor that is gone; their names. Reads all of /proc: some milliseconds."""
    return _kill(_is_of_the_dead)


def kill_marked(mark: str) -> list[str]:
    """Kill what carries `mark`; their names."""
    return _kill(lambda found: found == mark)


def _is_of_the_dead(mark: str) -> bool:
    pid, _, rest = mark.partition(".")
    here = mark_of(os.getpid())
    if here is None or not pid.isdecimal() or rest.rpartition(".")[2] != here.rpartition(".")[2]:
        return False
    return mark_of(int(pid)) != mark


def _kill(wanted: Callable[[str], bool]) -> list[str]:
    killed: dict[int, str] = {}
    for _ in range(_ROUNDS):
        # One that was killed a moment ago may still be there.
        found = {pid: _kill_one(pid, wanted) for pid in _processes() if pid not in killed}
        fresh = {pid: name for pid, name in found.items() if name is not None}
        if not fresh:
            break
        killed |= fresh
    return list(killed.values())


def _processes() -> Iterator[int]:
    own = {os.getpid(), os.getppid()}
    for entry in os.listdir("/proc"):  # noqa: PTH208 - names, not paths
        if entry.isdecimal() and int(entry) not in own:
            yield int(entry)


def _kill_one(pid: int, wanted: Callable[[str], bool]) -> str | None:
    """The name of process `pid` if it was wanted and is killed, by a pidfd: its id may become another's meanwhile."""
    with contextlib.suppress(OSError):
        descriptor = os.pidfd_open(pid)
        try:
            if os.stat(f"/proc/{pid}").st_uid != os.getuid():  # noqa: PTH116
                return None
            marks = [
                line.partition("=")[2]
                for line in Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
                if line.startswith(f"{VARIABLE}=")
            ]
            if not marks or not wanted(marks[0]) or mark_of(pid) is None:
                return None
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            return f"{name} ({pid})"
        finally:
            os.close(descriptor)
    return None


def main(mark: str) -> None:
    """Wait until the other end of standard input is gone, then end what it left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the supervisor, which closes standard input when it ends
    while sys.stdin.buffer.read(1024):
        pass
    kill_marked(mark)


if __name__ == "__main__":
    main(sys.argv[1])
