"""How much memory an engine holds, its helpers included."""

from __future__ import annotations

import os
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(pid: int) -> int:
    """Resident memory of process `pid` and all below it. Pages that they share count for each of them. 0: it ended."""
    try:
        own = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return 0
    return own + sum(resident_bytes(child) for task in tasks for child in _children(task))


def _children(task: Path) -> list[int]:
    try:
        return [int(child) for child in (task / "children").read_text().split()]
    except OSError:
        return []
