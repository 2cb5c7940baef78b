"""`headrace serve` as a process of its own, and what tests look at from outside: its messages, processes, sockets."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

PATIENCE_S = 30.0


class Served:
    """A running `headrace serve`. `lines`: what it wrote to standard error."""

    def __init__(self, process: asyncio.subprocess.Process, file: Path) -> None:
        self.process = process
        self.file = file
        self.lines: list[str] = []
        self._changed = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.lines.append(line.decode().rstrip("\n"))
            async with self._changed:
                self._changed.notify_all()
        async with self._changed:
            self._changed.notify_all()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        match = re.search(r"gateway on (\S+) with", self.text)
        assert match, self.text
        return match[1]

    async def said(self, pattern: str, times: int = 1) -> None:
        """Wait until `pattern` stands that often in what it wrote."""
        async with asyncio.timeout(PATIENCE_S), self._changed:
            while len(re.findall(pattern, self.text)) < times:
                assert not self._reading.done(), f"{pattern!r} was never said:\n{self.text}"
                await self._changed.wait()

    async def ready(self) -> None:
        await self.said(r"\bready(\. Try it:|\"|$)")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end. Returns the exit status, negative for a signal."""
        async with asyncio.timeout(PATIENCE_S):
            status = await self.process.wait()
            await self._reading
        return status

    def workers(self) -> list[int]:
        return [pid for pid in descendants(self.pid) if "gateway.process.worker" in command(pid)]

    def engines(self) -> list[int]:
        return [pid for pid in children(self.pid) if "engines." in command(pid)]


@asynccontextmanager
async def served(
    folder: Path, config: Mapping[str, Any] | None, *args: str, env: Mapping[str, str] | None = None
) -> AsyncIterator[Served]:
    """Start it on `config`; at the end of the block it is stopped, and nothing of it may be left."""
    file = folder / "headrace.yaml"
    if config is not None:
        file.write_text(json.dumps(config))
    with (folder / "stdout").open("wb") as stdout:
        process = await asyncio.create_subprocess_exec(
            *(str(Path(sys.executable).with_name("headrace")), "serve"),
            *(() if config is None else ("--config", str(file))),
            *(args or ("--log-format", "pretty")),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "HEADRACE_STATE": str(folder / "state"), "NO_COLOR": "1", **(env or {})},
        )
    gateway = Served(process, file)
    try:
        yield gateway
    finally:
        below = descendants(gateway.pid)
        if process.returncode is None:
            gateway.signal(signal.SIGTERM)
        try:
            await gateway.ended()
        except TimeoutError:
            process.kill()
            raise
        await gone(below)


async def gone(pids: list[int]) -> None:
    """Wait until none of these processes runs."""
    async with asyncio.timeout(PATIENCE_S):
        while any(command(pid) for pid in pids):
            await asyncio.sleep(0.02)


def children(pid: int) -> list[int]:
    try:
        return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in _children_of(task)]
    except FileNotFoundError:
        return []


def _children_of(task: Path) -> list[str]:
    try:
        return (task / "children").read_text().split()
    except OSError:
        return []


def descendants(pid: int) -> list[int]:
    return [one for child in children(pid) for one in (child, *descendants(child))]


def command(pid: int) -> str:
    """Empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def sockets(pid: int) -> int:
    return sum(_is_socket(entry) for entry in Path(f"/proc/{pid}/fd").iterdir())


def _is_socket(entry: Path) -> bool:
    try:
        return str(entry.readlink()).startswith("socket:")
    except OSError:
        return False


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "Hello"}], **more}


def client(url: str, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, trust_env=False, timeout=20.0, **options)


async def requests_counted(url: str) -> float:
    """The sum of `headrace_requests_total` over all labels."""
    async with client(url) as http:
        text = (await http.get("/metrics")).text
    return sum(
        float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith("headrace_requests_total")
    )
