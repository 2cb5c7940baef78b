"""A directory on each kind of database, and a clock that tests may move."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.database import Database, open_database
from gateway.directory.audit import Actor
from gateway.directory.store import Directory

ALICE = Actor("os:alice", "desk", "")


class Wall:
    """Unix time."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def directory(database: Database, wall: Wall) -> Directory:
    return Directory(database, wall)
