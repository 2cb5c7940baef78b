"""The configurations that have served, kept on disk: each one's text, who brought it and when, and what it changed."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from pathlib import Path

import msgspec

from gateway.config.dump import Difference
from gateway.config.live import OF_THE_FILE, Origin
from gateway.config.version import Version
from gateway.process.machine import read_own

logger = logging.getLogger(__name__)

KEPT = 50
_SALT_BYTES = 32
_READ_LIMIT_BYTES = 64 * 1024 * 1024


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration that served.

    at:   Unix time in seconds.
    text: as it was given, `${VAR}` and all: what variables held is not kept.
    name: what the text was called.
    file: the gateway's own file, absolute; empty: it had none.
    base: a hash of that file's text at the time.
    """

    version: Version
    at: float
    origin: Origin
    who: str
    text: str
    name: str
    file: str = ""
    base: str = ""
    note: str = ""
    differences: list[Difference] = []

    def outlives(self, file: str, base: str) -> bool:
        """Whether it is to serve after a restart in place of a file: it came from elsewhere, and the file is still the
        one that it replaced."""
        return self.origin not in OF_THE_FILE and bool(file) and (self.file, self.base) == (file, base)


class History:
    """The configurations of one gateway, oldest first, of the newest `KEPT` in a folder that nobody else may read.

    file: the gateway's own, absolute, by which its entries are told from those of others that share the folder.

    Without a folder that can be written it is kept in memory: that is no reason not to serve.
    Every method may block.
    """

    def __init__(self, folder: Path, file: str = "") -> None:
        self._folder = folder
        self._file = file
        self._writable = True
        self.salt = self._own_salt()
        """For the versions' digests: made once, and kept."""
        self.entries = self._read()

    def __repr__(self) -> str:
        return f"<History {self._folder} {len(self.entries)} entries>"

    @property
    def newest(self) -> Entry | None:
        return self.entries[-1] if self.entries else None

    def next_number(self) -> int:
        """One above every number in the folder: another gateway may share it."""
        numbers = [entry.version.number for entry in self.entries]
        return max([*numbers, *map(_number, self._files())], default=0) + 1

    def find(self, number: int) -> Entry | None:
        return next((entry for entry in reversed(self.entries) if entry.version.number == number), None)

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        del self.entries[:-KEPT]
        self._write(f"{entry.version.number:08}-{entry.version.digest}.json", msgspec.json.encode(entry))
        for old in sorted(self._files(), key=_number)[:-KEPT]:
            with contextlib.suppress(OSError):
                old.unlink()

    def _read(self) -> list[Entry]:
        found = []
        for file in self._files():
            try:
                if file.stat().st_size <= _READ_LIMIT_BYTES:
                    found.append(msgspec.json.decode(read_own(file), type=Entry))
            except (OSError, msgspec.MsgspecError) as error:
                logger.warning("%s is left out of the history of configurations: %s", file, error)
        own = [entry for entry in found if entry.file == self._file]
        return sorted(own, key=lambda entry: (entry.at, entry.version.number))[-KEPT:]

    def _files(self) -> list[Path]:
        try:
            return [file for file in self._folder.iterdir() if file.suffix == ".json" and _number(file)]
        except OSError:
            return []

    def _own_salt(self) -> bytes:
        file = self._folder / "salt"
        with contextlib.suppress(OSError):
            if len(salt := read_own(file)) == _SALT_BYTES:
                return salt
        salt = secrets.token_bytes(_SALT_BYTES)
        self._write(file.name, salt)
        return salt

    def _write(self, name: str, content: bytes) -> None:
        """Whole or not at all, also if the power fails."""
        if not self._writable:
            return
        target = self._folder / name
        beside = self._folder / f".{name}.{os.getpid()}"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:  # noqa: PTH123 - fd
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            beside.replace(target)
        except OSError as error:
            self._writable = False
            logger.warning("configurations are remembered until the end of this process only: %s", error)


def _number(file: Path) -> int:
    """0: it is none of ours."""
    number, _, _ = file.name.partition("-")
    return int(number) if number.isascii() and number.isdigit() else 0
