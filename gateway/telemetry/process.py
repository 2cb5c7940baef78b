"""What the operating system knows of this process. Opens no file when asked, so the loop may ask."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Process:
    def __init__(self) -> None:
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self.start_s = _start_s()

    @property
    def cpu_s(self) -> float:
        return time.process_time()

    @property
    def rss_bytes(self) -> float:
        """0 after the close."""
        if self._statm < 0:
            return 0.0
        return float(os.pread(self._statm, 128, 0).split()[1]) * _PAGE

    def close(self) -> None:
        if self._statm >= 0:
            os.close(self._statm)
            self._statm = -1


def _start_s() -> float:
    """Unix time at which this process started."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    return time.time_ns() / 1e9 - uptime_s + ticks / _TICKS
