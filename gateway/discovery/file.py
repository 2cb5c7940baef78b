"""Replicas that a file lists: whatever can write a file can name them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import yaml
from pydantic import TypeAdapter, ValidationError

from gateway.clock import Clock
from gateway.config.base import BaseUrl
from gateway.discovery.base import DiscoveryError, Found

EVERY_S = 1.0
"""How often the file is looked at."""
_Stamp = tuple[int, int, int]


class _Group(msgspec.Struct):
    """Prometheus' `file_sd`: targets are `HOST:PORT`, or URLs; labels say nothing here."""

    targets: list[str]


_url: TypeAdapter[str] = TypeAdapter(BaseUrl)


class FileDiscovery:
    """Implements `Discovery`. Reads the file when its time, size or inode is another: a link may lead elsewhere now."""

    def __init__(self, path: str, clock: Clock, every_s: float = EVERY_S) -> None:
        self._path = Path(path)
        self._clock = clock
        self._every_s = every_s

    @property
    def source(self) -> str:
        return f"file {self._path}"

    async def watch(self, found: Found) -> None:
        read: _Stamp | None = None
        while True:
            stamp = await asyncio.to_thread(self._stamp)
            if stamp != read:
                found(await asyncio.to_thread(self._read))
                read = stamp
            await self._clock.sleep(self._every_s)

    def _stamp(self) -> _Stamp:
        try:
            status = self._path.stat()
        except OSError as error:
            raise DiscoveryError(f"{self._path}: {error.strerror}") from None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> list[str]:
        try:
            return urls_in(self._path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DiscoveryError(f"{self._path}: {error.strerror}") from None
        except ValueError as error:
            raise DiscoveryError(f"{self._path}: {error}") from None


def urls_in(text: str) -> list[str]:
    """The base URLs of a list in YAML or JSON, each once.

    Raises:
        ValueError: it is no list of URLs, nor of groups with `targets`.
    """
    try:
        tree = yaml.safe_load(text) or []
        entries = msgspec.convert(tree, list[str | _Group])
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from None
    except msgspec.ValidationError as error:
        raise ValueError(f"neither a list of URLs nor of groups with `targets`: {error}") from None
    targets = [target for entry in entries for target in ([entry] if isinstance(entry, str) else entry.targets)]
    return list(dict.fromkeys(map(_base_url, targets)))


def _base_url(target: str) -> str:
    try:
        return _url.validate_python(target if "://" in target else f"http://{target}")
    except ValidationError:
        raise ValueError(f"{target!r} is no URL such as http://HOST:PORT") from None
