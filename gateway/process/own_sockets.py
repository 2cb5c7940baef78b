"""Where the gateway's own sockets are: only this user gets there."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import tempfile
from pathlib import Path

_LONGEST_PATH = 100
"""The system takes no name of a socket that is much longer."""


def place_for(folder: Path, kind: str) -> Path:
    """`KIND-PID.sock` in `folder`, or in a new one if it cannot be there. Removes what killed gateways left. Blocks."""
    path = folder / f"{kind}-{os.getpid()}.sock"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        for left in folder.glob(f"{kind}-*.sock"):
            if not _is_served(left):
                left.unlink(missing_ok=True)
        # In two containers that share the folder processes have the same number.
        usable = len(os.fsencode(path)) <= _LONGEST_PATH and os.access(folder, os.W_OK) and not path.exists()
    except OSError:  # such as a read-only home
        usable = False
    return path if usable else Path(tempfile.mkdtemp(prefix="headrace-")) / path.name


def remove(path: Path, folder: Path) -> None:
    """What `place_for` gave. Blocks."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        if path.parent != folder:
            path.parent.rmdir()


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        return probe.connect_ex(str(path)) != errno.ECONNREFUSED  # EAGAIN: many others are about to be answered
