"""The newest records of a worker, in memory that outlives it: what a killed worker had not yet written is salvaged.

The memory is a file of /dev/shm, which never waits for a disk. It holds frames from its beginning, then zeros.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import os
import stat
from pathlib import Path
from typing import Final, Self

from gateway.usage.frames import Item, framed, parse
from gateway.usage.record import Tariff, UsageRecord, reckoned
from gateway.usage.segments import SUFFIX, create, is_finished

logger = logging.getLogger(__name__)

SHARED: Final = Path("/dev/shm")  # noqa: S108 - in a folder that belongs to this user alone
SIZE_BYTES: Final = 1024 * 1024
"""Some six thousand records. What comes while that many wait for the disk is not in it."""
_END: Final = bytes(8)


class Tail:
    """Used from one thread."""

    def __init__(self, folder: Path, name: str) -> None:
        """
        Raises:
            OSError: there is no such memory, or no room in it.
        """
        self._path = folder / f"{name}{SUFFIX}"
        self._fd = create(folder, name, os.O_RDWR)
        try:
            # Or the process would be ended by a signal at the first write for which there is no room.
            os.posix_fallocate(self._fd, 0, SIZE_BYTES)
            self._memory = mmap.mmap(self._fd, SIZE_BYTES)
        except BaseException:
            self._path.unlink()
            os.close(self._fd)
            raise
        self._at = 0
        self._is_full = False

    @classmethod
    def beside(cls, spool: Path, name: str) -> Self | None:
        """That of a worker with a spool; None: there can be none, and a kill may cost what was not yet written."""
        try:
            try:
                return cls(shared_folder(spool), name)
            except FileNotFoundError:
                return cls(shared_folder(spool), name)  # who left just now has taken the empty folder away
        except OSError as error:
            logger.warning("usage that a killed worker has not yet written will be lost: no shared memory: %s", error)
            return None

    def append(self, data: bytes) -> None:
        """If there is room for it. If there is none, there is none for what comes later either."""
        at = self._at
        after = at + len(data)
        if self._is_full or after + len(_END) > SIZE_BYTES:
            self._is_full = True
        else:
            self._memory[at : after + len(_END)] = data + _END
            self._at = after

    def clear(self) -> None:
        """All that it holds is written elsewhere."""
        self._memory[: len(_END)] = _END
        self._at = 0
        self._is_full = False

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._path.parent.rmdir()
        self._memory.close()
        os.close(self._fd)


def shared_folder(spool: Path) -> Path:
    """Where the tails of the workers with this spool are.

    Raises:
        OSError: it cannot be made, or it is somebody else's.
    """
    folder = _named(spool)
    folder.mkdir(mode=0o700, exist_ok=True)
    return _own(folder)


def _named(spool: Path) -> Path:
    name = hashlib.sha256(os.fsencode(spool.absolute())).hexdigest()[:16]
    return SHARED / f"headrace-{os.geteuid()}-{name}"


def _own(folder: Path) -> Path:
    """Others may make folders beside it."""
    found = folder.lstat()
    if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode) or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(f"{folder} is not a folder of this user alone")
    return folder


def salvage(spool: Path) -> int:
    """Put what killed workers left in shared memory into segments of the spool. Returns how many did.

    Some of it may be in others already: each record has an id of its own.

    Raises:
        OSError: it cannot be read or written, and stays.
    """
    count, folder = 0, _named(spool)
    if not folder.exists():
        return 0
    for path in _own(folder).glob(f"*{SUFFIX}"):
        try:
            if not is_finished(path):
                continue
            data = path.read_bytes()
        except FileNotFoundError:
            continue
        data = _reckoned(parse(data).items)
        if data:
            _put(spool, f"{path.stem}-tail", data)
            count += 1
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
    return count


def _reckoned(items: list[Item]) -> bytes:
    """Frames of what may not have been reckoned yet, by the prices that are beside it."""
    prices = {(item.version, item.model): item.price for item in items if isinstance(item, Tariff)}
    for item in items:
        if isinstance(item, UsageRecord) and item.price_version and not item.usd:
            price = prices.get((item.price_version, item.engine_model))
            item.usd = "" if price is None else reckoned(price, item.usage)
    return b"".join(map(framed, items))


def _put(spool: Path, name: str, data: bytes) -> None:
    """Whole, or again the next time."""
    fresh = spool / f"{name}.salvaged"
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:  # noqa: PTH123 - fd
        file.write(data)
        os.fsync(file.fileno())
    fresh.rename(spool / f"{name}{SUFFIX}")
