"""One engine on a node of a Ray cluster. Runs there, where Headrace need not be installed: no imports but the
standard library's and Ray's."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence

LINES = 200


class EngineActor:
    """Starts a command, of which `{port}` and `{host}` are filled in here, and keeps the last lines that it wrote.

    host: what the engine binds; empty: the node's address.
    """

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], host: str) -> None:
        host = host or _node_address()
        with socket.socket() as listener:
            listener.bind((host, 0))
            port = listener.getsockname()[1]
        self._lines: collections.deque[str] = collections.deque(maxlen=LINES)
        self._url = f"http://{host}:{port}"
        self._process = subprocess.Popen(  # noqa: S603 - the command is the configuration's
            [part.replace("{port}", str(port)).replace("{host}", host) for part in argv],
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def url(self) -> str:
        return self._url

    def ended(self) -> int | None:
        """The exit status, once there is one."""
        return self._process.poll()

    def new_lines(self) -> list[str]:
        """What was written since this was last asked."""
        lines: list[str] = []
        while self._lines:
            lines.append(self._lines.popleft())
        return lines

    def stop(self, timeout_s: float) -> None:
        """SIGTERM to the engine and all that it started; SIGKILL after `timeout_s`."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._lines.append(line.rstrip("\n"))


def _node_address() -> str:
    import ray

    address: str = ray.util.get_node_ip_address()
    return address
