"""A real PostgreSQL server on a socket of its own, which may be frozen, killed and started again."""

from __future__ import annotations

import functools
import itertools
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

USER = "headrace"
READY_S = 20.0


@functools.cache
def programs() -> Path | None:
    """The folder of `initdb` and `postgres`: where Debian has it, or by PATH."""

    def version(folder: Path) -> int:
        return int(re.sub(r"\D", "", folder.parent.name) or 0)

    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=version, reverse=True):
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found and shutil.which("postgres") else None


class Postgres:
    """Everything that is written lies in `folder`, which belongs to whom the server runs as: it refuses root."""

    def __init__(self, folder: Path) -> None:
        bin_ = programs()
        assert bin_ is not None, "no PostgreSQL"
        self._bin = bin_
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._owner: str | None = None
        if os.geteuid() == 0:
            self._owner = "postgres" if _exists("postgres") else "nobody"
            os.chown(folder, pwd.getpwnam(self._owner).pw_uid, -1)

    def make(self) -> None:
        """A new cluster. Nothing of it need survive the machine."""
        self._run("initdb", "-D", self._data, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")

    def start(self) -> None:
        """Returns once it answers."""
        until_s = time.monotonic() + READY_S
        while True:
            if self._process is None or self._process.poll() is not None:  # it may have met what a killed one left
                self._process = self._popen(
                    "postgres",
                    *("-D", self._data, "-c", "listen_addresses=", "-c", f"unix_socket_directories={self._folder}"),
                    *("-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=60"),
                )
            with suppress(subprocess.CalledProcessError):
                self._psql("postgres", "SELECT 1")
                return
            assert time.monotonic() < until_s, f"PostgreSQL does not answer:\n{self.log}"
            time.sleep(0.05)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{USER}@/{database}?host={self._folder}"

    def new_database(self) -> str:
        """The URL of an empty one."""
        name = f"test{next(self._numbers)}"
        self._psql("postgres", f"CREATE DATABASE {name}")
        return self.url(name)

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-2000:]

    def freeze(self) -> None:
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def kill(self) -> None:
        """As if the machine had gone; `start` has it recover."""
        if self._process is not None:
            self._signal_all(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _signal_all(self, number: signal.Signals) -> None:
        """Its children have sessions of their own."""
        assert self._process is not None
        children = self._children()
        self._process.send_signal(number)
        for child in children | self._children():
            with suppress(ProcessLookupError):
                os.kill(child, number)

    def _children(self) -> set[int]:
        assert self._process is not None
        pid = self._process.pid
        with suppress(OSError):
            return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
        return set()

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def _psql(self, database: str, command: str) -> None:
        self._run("psql", "-h", str(self._folder), "-U", USER, "-d", database, "-v", "ON_ERROR_STOP=1", "-qc", command)

    def _run(self, program: str, *args: str) -> None:
        process = self._popen(program, *args)
        if process.wait(timeout=READY_S) != 0:
            raise subprocess.CalledProcessError(process.returncode, [program, *args], self.log)

    def _popen(self, program: str, *args: str) -> subprocess.Popen[bytes]:
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [str(self._bin / program), *args],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"},
                user=self._owner,
                extra_groups=[] if self._owner else None,
                start_new_session=True,  # Ctrl-C is for pytest
            )


def _exists(user: str) -> bool:
    with suppress(KeyError):
        return bool(pwd.getpwnam(user))
    return False


@contextmanager
def postgres_running() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = Postgres(Path(folder))
        try:
            server.make()
            server.start()
            yield server
        finally:
            server.kill()
