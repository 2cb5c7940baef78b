"""One child process: its output as lines, its end as an event, its whole group as what is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from . import exec_bound

KEPT_LINES = 200
MAX_LINE_BYTES = 8192
_KILL_WAIT_S = 5.0
_LAST_OUTPUT_WAIT_S = 1.0
_READ_BYTES = 64 * 1024


class LineSplitter:
    """Bytes in, whole lines out; a line without an end is cut at `MAX_LINE_BYTES`."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        while len(self._rest) > MAX_LINE_BYTES:
            lines.append(self._rest[:MAX_LINE_BYTES])
            self._rest = self._rest[MAX_LINE_BYTES:]
        return [_text(line) for line in lines]

    def end(self) -> list[str]:
        """What was left without an end of line."""
        rest, self._rest = self._rest, b""
        return [_text(rest)] if rest else []


def _text(line: bytes) -> str:
    # A progress bar rewrites its line with carriage returns: only its last state says anything.
    shown = line.rstrip(b"\r").rpartition(b"\r")[2]
    return shown[:MAX_LINE_BYTES].decode("utf-8", "replace")


class Child:
    """A running process in a session of its own, bound to the life of the thread that started it.

    `exited` is set when it is reaped, its group is gone and its output is read.
    """

    def __init__(self, process: asyncio.subprocess.Process, output: _Output, on_line: Callable[[str], None]) -> None:
        self.pid = process.pid
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.exited = asyncio.Event()
        self._process = process
        self._output = output
        self._on_line = on_line
        self._reader = asyncio.create_task(self._read_output())
        self._watcher = asyncio.create_task(self._watch())

    @classmethod
    async def spawn(cls, argv: Sequence[str], env: Mapping[str, str], on_line: Callable[[str], None]) -> Child:
        """Start `argv` with `env` added to this process's environment.

        A command that does not exist ends with code 127.

        Raises:
            OSError: the system cannot start another process.
        """
        read_end, write_end = os.pipe()
        output = await _Output.open(read_end)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(Path(exec_bound.__file__)), str(os.getpid())),
                *argv,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_end,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except BaseException:
            output.close()
            raise
        finally:
            os.close(write_end)
        return cls(process, output, on_line)

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self._process.returncode

    async def terminate(self, grace_s: float) -> bool:
        """SIGTERM to the group, SIGKILL after `grace_s`. Returns whether SIGTERM was enough."""
        self.signal_group(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.exited.wait(), grace_s)
            return True
        self.signal_group(signal.SIGKILL)
        with contextlib.suppress(TimeoutError):  # a process in uninterruptible sleep outlives even SIGKILL
            await asyncio.wait_for(self.exited.wait(), _KILL_WAIT_S)
        return False

    def signal_group(self, number: signal.Signals) -> None:
        if self.exited.is_set():  # by now the id may belong to somebody else
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    async def _read_output(self) -> None:
        splitter = LineSplitter()
        while data := await self._output.stream.read(_READ_BYTES):
            self._emit(splitter.feed(data))
        self._emit(splitter.end())

    def _emit(self, lines: list[str]) -> None:
        for line in lines:
            self.lines.append(line)
            self._on_line(line)

    async def _watch(self) -> None:
        await self._process.wait()
        # Helpers of a dead engine would keep its GPU memory, its port and the output pipe.
        self.signal_group(signal.SIGKILL)
        # A helper in a session of its own may hold the pipe for as long as it lives.
        await asyncio.wait((self._reader,), timeout=_LAST_OUTPUT_WAIT_S)
        self._reader.cancel()
        self._output.close()
        self.exited.set()


class _Output:
    """The reading end of the child's output pipe.

    A pipe of our own, because `asyncio.subprocess.PIPE` makes `Process.wait` wait for whoever else holds it.
    """

    def __init__(self, stream: asyncio.StreamReader, transport: asyncio.BaseTransport) -> None:
        self.stream = stream
        self._transport = transport

    @classmethod
    async def open(cls, read_end: int) -> _Output:
        loop = asyncio.get_running_loop()
        stream = asyncio.StreamReader()
        pipe = os.fdopen(read_end, "rb", buffering=0)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), pipe)
        return cls(stream, transport)

    def close(self) -> None:
        self._transport.close()
