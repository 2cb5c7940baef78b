"""Telling when a configuration file has changed, and not before it is written to its end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gateway.config.load import LoadedConfig
from gateway.config.problems import ConfigError, Problem

EVERY_S = 0.25
SETTLE_S = 0.1
"""A file that somebody is still writing to is left alone for so long after each change."""
PATIENCE_S = 2.0
"""One that is not a configuration may be half written: it is called bad when it has stayed as it is for this long."""


class Parsed(NamedTuple):
    """A file that has changed. `loaded`: None if `error` says why it is none."""

    text: str
    loaded: LoadedConfig | None
    error: ConfigError | None


class _Mark(NamedTuple):
    """What tells one state of a file from another, also when a symbolic link on the way leads elsewhere."""

    changed_ns: int
    size_bytes: int
    inode: int
    device: int


class Watch:
    """Looks at one file whenever it is asked to.

    parse: makes a configuration of its text, or raises ConfigError.
    """

    def __init__(self, file: Path, text: str, parse: Callable[[str], LoadedConfig]) -> None:
        """text: what of the file is known already."""
        self._file = file
        self._parse = parse
        self._text = text
        self._known: _Mark | None = None
        self._pending: _Mark | None = None
        self._since_s = float("-inf")
        self._parsed: Parsed | None = None

    @property
    def pause_s(self) -> float:
        """When to look again."""
        return EVERY_S if self._pending == self._known else SETTLE_S

    def knows(self, text: str) -> None:
        """Somebody else has read the file and dealt with what is in it."""
        self._text = text

    def look(self, now_s: float) -> Parsed | None:
        """What has become of the file, once for each change. Blocks while it is read.

        now_s: monotonic time.
        """
        mark = _mark(self._file)
        if mark == self._known:
            self._pending = mark
            return None
        if mark != self._pending:
            self._pending, self._since_s, self._parsed = mark, now_s, None
            return None
        if now_s - self._since_s < SETTLE_S:
            return None
        parsed = self._parsed = self._parsed or self._read()
        if _mark(self._file) != mark:
            return None  # it was written to while it was read
        if parsed.text == self._text:
            self._known = mark
            return None
        if parsed.error is not None and now_s - self._since_s < PATIENCE_S:
            return None
        self._known, self._text = mark, parsed.text
        return parsed

    def _read(self) -> Parsed:
        try:
            text = read_text(self._file)
        except ConfigError as error:
            return Parsed("", None, error)
        if text == self._text:
            return Parsed(text, None, None)
        if not text.strip():
            # An empty configuration is a good one, but nobody means that by emptying a file.
            return Parsed(text, None, _unusable(self._file, "is empty"))
        try:
            return Parsed(text, self._parse(text), None)
        except ConfigError as error:
            return Parsed(text, None, error)


def read_text(file: Path) -> str:
    """Raises ConfigError: it cannot be read, or is not UTF-8."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise _unusable(file, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise _unusable(file, f"is not UTF-8 at byte {error.start}") from None


def _unusable(file: Path, why: str) -> ConfigError:
    return ConfigError([Problem(str(file), 0, 0, "", why)])


def _mark(file: Path) -> _Mark | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return _Mark(found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev)
