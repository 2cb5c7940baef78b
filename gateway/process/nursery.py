"""Where workers come from: `python -m gateway.process.nursery FD`, run by the supervisor.

Half a second of CPU goes into loading the program, and a few milliseconds into all else that a worker does to start. So
this process loads it once, and forks: a new configuration serves at once, a worker that died is back at once, and what
was loaded lies in memory once. It runs no event loop and no thread, so that what is forked is whole.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
import selectors
import signal
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

BORN, ENDED, FAILED = b"b", b"e", b"f"
REPORT = struct.Struct("=cqq")
"""`BORN`: which request, process id. `ENDED`: process id, exit status, negative for a signal. `FAILED`: which request,
error number."""
REQUEST = struct.Struct("=q")
MAX_FDS = 8
_PR_SET_NAME = 15
_TITLE = b"headrace worker: python -m gateway.process.worker"


class Nursery:
    """Forks when it is asked to, and tells of every end."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._woken, self._waker = socket.socketpair()
        for one in (self._woken, self._waker):
            one.setblocking(False)

    def run(self) -> list[int] | None:
        """Returns None when the supervisor is gone, and in each child the descriptors that it got."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._end, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if self._woken in ready:
                    self._reap()
                if self._end in ready:
                    request, fds, _, _ = socket.recv_fds(self._end, REQUEST.size, MAX_FDS)
                    if not request:
                        return None
                    if self._fork(request, fds):
                        return fds

    def _fork(self, request: bytes, fds: list[int]) -> bool:
        """Whether this is the child."""
        (asked,) = REQUEST.unpack(request)
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(FAILED, asked, error.errno or errno.EAGAIN)
            pid = -1
        if pid == 0:
            self._become_a_worker()
            return True
        for fd in fds:
            os.close(fd)
        if pid > 0:
            self._tell(BORN, asked, pid)
        return False

    def _become_a_worker(self) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for one in (self._end, self._woken, self._waker):
            one.close()
        with contextlib.suppress(OSError, ValueError, IndexError):
            _call_itself(_TITLE)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                self._tell(ENDED, pid, os.waitstatus_to_exitcode(status))

    def _tell(self, what: bytes, first: int, second: int) -> None:
        with contextlib.suppress(OSError):  # the supervisor is gone; the next look says so
            self._end.send(REPORT.pack(what, first, second))


def _call_itself(title: bytes) -> None:
    """Have `ps` show what the process is, as far as the place of its arguments goes (proc(5), `arg_start`)."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    ctypes.memmove(start, title.ljust(end - start, b"\0")[: end - start], end - start)
    ctypes.CDLL(None).prctl(_PR_SET_NAME, b"headrace-worker", 0, 0, 0)


def main(argv: list[str], load: Callable[[], Callable[[list[int]], int]]) -> int:
    """load: imports what a worker needs, and returns what runs one."""
    # They reach the whole group of a terminal, or of a service; the supervisor says what they mean.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=int(argv[0])) as end:
        run = load()
        gc.collect()
        gc.freeze()  # or the collector would touch, and so copy, all of it in every worker
        fds = Nursery(end).run()
    return 0 if fds is None else run(fds)


def _load() -> Callable[[list[int]], int]:
    import redis.asyncio  # noqa: F401 - loaded when first used, which is too late here
    import uvloop  # noqa: F401

    from gateway.process.worker import serve

    return serve


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], _load))
