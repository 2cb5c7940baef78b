"""A file as a crash may leave it, and worse: cut off, with rubbish in it or behind it, without its log. Whatever is
read from it is what was written, and the journal goes on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.entry import Added, Entry
from cache.journal import sqlite as module
from cache.journal.outbox import Waiting
from cache.journal.seam import encoded
from cache.journal.sqlite import SqliteJournal
from cache.journal.sqlite_file import PAGE_BYTES, RecordFile
from cache.library import Library
from tests.cache.entries import NOW, entry, library

NAME = "cache.sqlite"
OLD, NEW = 60, 40
"""Entries in the file, and those that are in its log alone."""
WITHIN_S = 10.0


class Image(NamedTuple):
    """A file and its log, as they lie on the disk when all processes are killed."""

    folder: Path
    entries: dict[bytes, Entry]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    folder, left = tmp_path_factory.mktemp("open"), tmp_path_factory.mktemp("left")
    entries = [entry(f"e{n}", said=f"answer {n} " * (1 + 37 * n % 300)) for n in range(OLD + NEW)]
    file = RecordFile(folder / NAME, 50_000_000, "me")
    file.identity(b"s" * 32)
    file.write(_waiting(entries[:OLD]))
    file._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    file.write(_waiting(entries[OLD:]))
    for suffix in ("", "-wal"):
        shutil.copy(folder / (NAME + suffix), left / (NAME + suffix))
    file.close()
    return Image(left, {one.key: one for one in entries})


def _waiting(entries: list[Entry]) -> list[Waiting]:
    return [Waiting(number, Added(one), encoded(Added(one))) for number, one in enumerate(entries, 1)]


class Damage(NamedTuple):
    """at, length: of the bytes that are hit, as shares of the file."""

    what: Literal["cut", "longer", "scrambled", "zeroed", "gone"]
    which: Literal["", "-wal"]
    at: float
    length: float
    rubbish: bytes

    def do(self, folder: Path) -> None:
        path = folder / (NAME + self.which)
        body = path.read_bytes()
        first = int(self.at * len(body))
        after = min(len(body), first + 1 + int(self.length * len(body)))
        match self.what:
            case "gone":
                path.unlink()
            case "cut":
                path.write_bytes(body[:first])
            case "longer":
                path.write_bytes(body + (self.rubbish * PAGE_BYTES)[: after - first])
            case "scrambled":
                path.write_bytes(body[:first] + (self.rubbish * (after - first))[: after - first] + body[after:])
            case "zeroed":
                path.write_bytes(body[:first] + bytes(after - first) + body[after:])


DAMAGES = st.builds(
    Damage,
    st.sampled_from(("cut", "longer", "scrambled", "zeroed", "gone")),
    st.sampled_from(("", "-wal")),
    st.floats(0, 1),
    st.floats(0, 0.3) | st.just(0.0),
    st.binary(min_size=1, max_size=40),
)


@contextlib.contextmanager
def copied(image: Image) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        for path in image.folder.iterdir():
            shutil.copy(path, name)
        yield Path(name)


async def opened(folder: Path) -> tuple[Library, Library]:
    """What a worker knows that opens the file and writes one entry, and one that comes after it."""
    shelves = (library(100_000_000), library(100_000_000))
    for shelf in shelves:
        journal = SqliteJournal(folder / NAME, lambda: NOW)
        await journal.start(shelf, WITHIN_S)
        if shelf is shelves[0]:
            journal.append(Added(entry("new")))
        async with asyncio.timeout(WITHIN_S):
            await journal.settled()
        await journal.aclose()
    return shelves


def check(image: Image, shelf: Library) -> int:
    """How many of its entries are there; all of them are what was written."""
    found = 0
    for key, one in image.entries.items():
        there = shelf.find(key, NOW)
        assert there is None or encoded(Added(there)) == encoded(Added(one))
        found += there is not None
    return found


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.01)


def test_what_a_sudden_end_leaves_is_all_there(image: Image) -> None:
    with copied(image) as folder:
        for shelf in asyncio.run(opened(folder)):
            assert check(image, shelf) == OLD + NEW


@pytest.mark.usefixtures("soon")
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(damages=st.lists(DAMAGES, min_size=1, max_size=2))
def test_whatever_becomes_of_the_file_nothing_is_half_there_and_the_journal_goes_on(
    image: Image, caplog: pytest.LogCaptureFixture, damages: list[Damage]
) -> None:
    caplog.clear()
    with copied(image) as folder, caplog.at_level(logging.INFO):
        for damage in damages:
            with contextlib.suppress(FileNotFoundError):
                damage.do(folder)
        first, second = asyncio.run(opened(folder))
        check(image, first)
        check(image, second)
        for shelf in (first, second):
            assert shelf.find(entry("new").key, NOW) is not None
        aside = (folder / f"{NAME}.damaged").exists()
        assert aside == ("is damaged" in caplog.text), "it is put aside and said, or neither"
        assert "has failed" not in caplog.text, "a failure that was not thought of"


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (Damage("gone", "-wal", 0, 0, b"x"), OLD),
        (Damage("cut", "-wal", 0.0, 0, b"x"), OLD),
        (Damage("longer", "-wal", 0.5, 0, b"rubbish"), OLD + NEW),
        (Damage("longer", "", 0.9, 0, b"rubbish"), OLD + NEW),
        (Damage("cut", "", 0.5, 0, b"x"), None),
    ],
    ids=["no log", "an empty log", "rubbish behind the log", "rubbish behind the file", "half a file"],
)
def test_what_is_whole_is_kept_and_a_damaged_file_is_told(
    image: Image, damage: Damage, left: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A log that is gone or cut off is no damage: the file is as it was a moment before.

    left: entries that are there afterwards; None: the file is damaged, and of its entries those are that were read
    before that was noticed.
    """
    with copied(image) as folder, caplog.at_level(logging.INFO):
        damage.do(folder)
        first, _ = asyncio.run(opened(folder))
        found = check(image, first)
        assert found == left or (left is None and found < OLD)
        assert ("put aside as" in caplog.text) == (left is None)
