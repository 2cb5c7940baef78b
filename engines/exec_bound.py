"""Runs a command that the kernel kills when its parent dies: `python exec_bound.py PARENT_PID COMMAND…`.

A script of its own, and not a `preexec_fn`: code between fork and exec can deadlock in a process that
has threads. Run with `-I -S` it starts in about 10 ms, and the command replaces it under the same process id.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
NOT_EXECUTABLE = 126
NOT_FOUND = 127


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel for SIGKILL when the thread that started this process ends.

    SIGKILL, because a parent that is gone cannot follow a SIGTERM up.

    Raises:
        OSError: the kernel refused.
        SystemExit: the parent died before the request, so nobody would ever send the signal.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_PDEATHSIG): {os.strerror(number)}")
    if os.getppid() != parent_pid:
        raise SystemExit(f"parent {parent_pid} is gone")


def main(argv: list[str]) -> None:
    die_with_parent(int(argv[0]))
    command = argv[1:]
    try:
        os.execvp(command[0], command)  # noqa: S606 - a shell is what must not be here
    except FileNotFoundError:
        print(f"{command[0]}: no such command", file=sys.stderr)  # noqa: T201
        raise SystemExit(NOT_FOUND) from None
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
        raise SystemExit(NOT_EXECUTABLE) from None


if __name__ == "__main__":
    main(sys.argv[1:])
