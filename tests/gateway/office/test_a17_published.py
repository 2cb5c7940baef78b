"""A17: what the database holds of configurations that all its gateways are to serve, and how they follow it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from gateway.config.live import Answer, Failed, Outcome, Propose, Question
from gateway.database import Database, open_database
from gateway.directory.audit import Actor, AuditLog
from gateway.office import published
from gateway.office.desk import Desk, Opener
from gateway.office.published import KEPT, follow_configs, newest, publish

OPS = Actor("ops")


def applied(number: int) -> Outcome:
    return Outcome(status="applied", version=f"{number}-abc", base="b" * 64)


def put(database: Database, number: int) -> None:
    publish(database, OPS, applied(number), f"# {number}\n", "new.yaml", [])


@contextmanager
def database_at(url: str) -> Iterator[Database]:
    database = open_database(url)
    try:
        yield database
    finally:
        database.close()


def test_the_last_one_counts_and_only_the_newest_are_kept(database_url: str) -> None:
    with database_at(database_url) as database:
        assert newest(database) is None
        for number in range(1, KEPT + 6):
            put(database, number)
        found = newest(database)
        assert found is not None
        assert (found.seq, found.version, found.who, found.name) == (KEPT + 5, f"{KEPT + 5}-abc", "ops", "new.yaml")
        assert (found.text, found.base) == (f"# {KEPT + 5}\n", "b" * 64)
        assert newest(database, found.seq) is None
        with database.read() as connection:
            rows = connection.exec_driver_sql("SELECT min(seq), count(*) FROM configs").one()
        assert tuple(rows) == (6, KEPT)


def test_what_is_the_last_one_already_is_not_put_there_again(database_url: str) -> None:
    with database_at(database_url) as database:
        put(database, 1)
        put(database, 1)
        found = newest(database)
        assert found is not None
        assert found.seq == 1
        assert len(list(AuditLog(database).export())) == 1


def test_several_gateways_that_publish_at_once_all_get_a_number(database_url: str) -> None:
    with database_at(database_url) as database, ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: put(database, number), range(1, 21)))
        found = newest(database)
        assert found is not None
        assert found.seq == 20
        assert AuditLog(database).verify().broken_at is None


class Supervisor:
    """Who is asked to serve what others published."""

    def __init__(self, answer: Callable[[], Answer]) -> None:
        self.asked: asyncio.Queue[Propose] = asyncio.Queue()
        self._answer = answer

    async def ask(self, question: Question) -> Answer:
        assert isinstance(question, Propose)
        self.asked.put_nowait(question)
        return self._answer()


@asynccontextmanager
async def following(url: str, answer: Callable[[], Answer]) -> AsyncIterator[Supervisor]:
    opener = Opener(url)
    desk = Desk(opener, "configs")
    supervisor = Supervisor(answer)
    task = asyncio.create_task(follow_configs(desk, supervisor.ask))
    try:
        yield supervisor
    finally:
        task.cancel()
        await asyncio.wait((task,))
        await asyncio.to_thread(desk.close, wait=True)
        await asyncio.to_thread(opener.close)


def put_at(url: str, number: int) -> None:
    with database_at(url) as database:
        put(database, number)


async def test_what_was_there_before_comes_with_when_and_over_what_and_the_rest_without(database_url: str) -> None:
    await asyncio.to_thread(put_at, database_url, 1)
    async with following(database_url, lambda: applied(1)) as supervisor:
        first = await supervisor.asked.get()
        assert (first.version, first.origin, first.who, first.base) == ("1-abc", "database", "ops", "b" * 64)
        assert first.given_at > 0
        await asyncio.to_thread(put_at, database_url, 2)
        second = await supervisor.asked.get()
        assert (second.version, second.text, second.base, second.given_at) == ("2-abc", "# 2\n", "", 0.0)


@pytest.mark.parametrize("fails", [True, False], ids=["is late", "cannot"])
async def test_a_gateway_that_does_not_take_one_takes_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fails: bool
) -> None:
    url = f"sqlite:///{tmp_path}/headrace.db"
    await asyncio.to_thread(put_at, url, 1)

    def answer() -> Answer:
        if fails:
            raise TimeoutError
        return Failed(message="no")

    async with following(url, answer) as supervisor:
        await supervisor.asked.get()
        await asyncio.to_thread(put_at, url, 2)
        assert (await supervisor.asked.get()).version == "2-abc"
    assert "1-abc of another gateway was not" in caplog.text


async def test_while_the_database_is_away_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "AWAY_S", 0.01)
    folder = tmp_path / "away"
    url = f"sqlite:///{folder}/headrace.db"
    async with following(url, lambda: applied(1)) as supervisor:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(supervisor.asked.get(), 0.1)
        await asyncio.to_thread(folder.mkdir)
        await asyncio.to_thread(put_at, url, 1)
        assert (await supervisor.asked.get()).version == "1-abc"
