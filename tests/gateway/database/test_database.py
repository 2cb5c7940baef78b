"""Opening a database, and what becomes of those who use it while it is away (A15)."""

from __future__ import annotations

import stat
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, Table, func, insert, inspect, select, text
from sqlalchemy.exc import IntegrityError

from gateway.database import Database, DatabaseGone, DatabaseUnusable, engine, open_database
from gateway.database.migrate import migrate
from gateway.database.schema import load_tables, schema_version, settings
from gateway.directory.tables import SALT, heads
from tests.postgres import Postgres, postgres_running, programs

PASSWORD = "planted-password"


@pytest.fixture
def mortal() -> Iterator[Postgres]:
    """A server that the test may freeze and kill."""
    if programs() is None:
        pytest.skip("there is no PostgreSQL server on this machine: install Debian's package postgresql")
    with postgres_running() as server:
        yield server


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url)
    yield opened
    opened.close()


def one(database: Database, within_s: float = 10.0) -> int:
    with database.read(within_s) as connection:
        return int(connection.execute(text("SELECT 1")).scalar_one())


# opening


def test_a_new_database_gets_every_table_and_is_the_same_when_opened_again(database_url: str) -> None:
    salts = []
    for _ in range(2):
        database = open_database(database_url)
        with database.read() as connection:
            assert set(load_tables().tables) <= set(inspect(connection).get_table_names())
            salts.append(connection.scalar(select(settings.c.value).where(settings.c.name == SALT)))
            assert connection.scalar(select(func.count()).select_from(heads)) == 1
            assert connection.scalar(select(func.count()).select_from(schema_version)) == 1
        database.close()
    assert salts[0] == salts[1]
    assert len(str(salts[0])) == 32


def test_a_sqlite_file_is_its_owners_alone_and_readers_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/h.db")
    try:
        assert stat.S_IMODE((tmp_path / "h.db").stat().st_mode) == 0o600
        with database.write() as writer:
            writer.execute(insert(settings).values(name="x", value="y"))
            assert one(database) == 1
            assert stat.S_IMODE((tmp_path / "h.db-wal").stat().st_mode) == 0o600
            assert writer.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    finally:
        database.close()


def test_ten_gateways_may_open_a_new_database_at_once(database_url: str) -> None:
    barrier = threading.Barrier(10)

    def open_() -> str | None:
        barrier.wait()
        database = open_database(database_url)
        try:
            with database.read() as connection:
                return connection.scalar(select(settings.c.value).where(settings.c.name == SALT))
        finally:
            database.close()

    with ThreadPoolExecutor(10) as threads:
        assert len(set(threads.map(lambda _: open_(), range(10)))) == 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://user:planted-password@host/name", "mysql is not known here; it takes sqlite:///"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:////no/such/folder/h.db", "there is no folder /no/such/folder"),
        ("planted-password", "database.url is not of the form sqlite:///"),
        ("postgresql://user:planted-password@:port/name", "database.url is not of the form"),
    ],
)
def test_a_url_that_is_of_no_use_is_refused_in_a_sentence(url: str, said: str) -> None:
    with pytest.raises(DatabaseUnusable) as refused:
        open_database(url)
    assert said in str(refused.value)
    assert PASSWORD not in str(refused.value)


def test_without_the_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(DatabaseUnusable, match=r"pip install 'headrace\[postgres\]'"):
        open_database("postgresql://host/name")


def test_a_server_that_is_not_there_is_away_and_its_password_is_not_told(tmp_path: Path) -> None:
    with pytest.raises(DatabaseGone) as gone:
        open_database(f"postgresql://user:{PASSWORD}@/name?host={tmp_path}")
    assert PASSWORD not in str(gone.value)
    assert PASSWORD not in repr(gone.value.__context__)
    assert "No such file or directory" in str(gone.value)


def test_a_folder_in_place_of_a_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatabaseGone, match="Is a directory"):
        open_database(f"sqlite:///{tmp_path}")


def test_a_file_that_is_no_database_is_told_and_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "h.db"
    file.write_text("what somebody wrote\n" * 100, encoding="utf-8")
    with pytest.raises(DatabaseGone, match="not a database"):
        open_database(f"sqlite:///{file}")
    assert file.read_text(encoding="utf-8").startswith("what somebody wrote")


# versions


def test_a_schema_of_a_newer_release_is_refused_with_both_versions(database: Database, database_url: str) -> None:
    with database.write() as connection:
        connection.execute(insert(schema_version).values(version=7, applied_at=0, applied_by="9.9"))
    with pytest.raises(DatabaseUnusable, match="has version 7, and this release of Headrace knows versions up to 1"):
        open_database(database_url)


def test_an_older_schema_takes_the_steps_that_it_lacks_each_once(database: Database) -> None:
    taken: list[int] = []
    steps = [lambda connection, number=number: _step(connection, number, taken) for number in (2, 3, 4)]
    for known in (1, 3, 3):
        with database.write() as connection:
            migrate(connection, steps[:known])
    assert taken == [2, 3, 4]
    with database.read() as connection:
        assert connection.scalars(select(schema_version.c.version).order_by(schema_version.c.version)).all() == [
            *(1, 2, 3, 4)
        ]
        assert {"step2", "step3", "step4"} <= set(inspect(connection).get_table_names())


def test_a_step_that_fails_leaves_nothing_of_itself(database: Database) -> None:
    def broken(connection: Connection) -> None:
        _step(connection, 2, [])
        raise RuntimeError("no")

    with pytest.raises(RuntimeError), database.write() as connection:
        migrate(connection, [broken])
    with database.read() as connection:
        assert not inspect(connection).has_table("step2")
        assert connection.scalar(select(func.max(schema_version.c.version))) == 1


def _step(connection: Connection, number: int, taken: list[int]) -> None:
    Table(f"step{number}", MetaData(), Column("id", Integer, primary_key=True)).create(connection)
    taken.append(number)


# away


def test_what_a_block_did_is_undone_if_it_raises(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        connection.execute(insert(settings).values(name="x", value="y"))
        raise ZeroDivisionError
    with database.read() as connection:
        assert connection.scalar(select(settings.c.value).where(settings.c.name == "x")) is None


def test_a_mistake_of_ours_is_not_taken_for_a_database_that_is_away(database: Database) -> None:
    with pytest.raises(IntegrityError), database.write() as connection:
        connection.execute(insert(settings).values(name=SALT, value="another"))
    assert one(database) == 1


def test_a_file_that_somebody_has_locked_is_away_after_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_S", 0.1)
    first, second = (open_database(f"sqlite:///{tmp_path}/h.db") for _ in range(2))
    with first.write(), pytest.raises(DatabaseGone, match="locked"), second.write():
        pass
    with second.write():
        pass
    first.close()
    second.close()


def test_a_statement_that_takes_too_long_is_ended(postgres: Postgres) -> None:
    database = open_database(postgres.new_database())
    begun = time.monotonic()
    with pytest.raises(DatabaseGone, match="statement timeout"), database.read(within_s=0.2) as connection:
        connection.execute(text("SELECT pg_sleep(20)"))
    assert time.monotonic() - begun < 5.0
    assert one(database) == 1
    database.close()


def test_all_connections_busy_is_told_apart(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_POOL", 1)
    monkeypatch.setattr(engine, "CONNECT_S", 1)
    database = open_database(postgres.new_database())
    with database.read(), pytest.raises(DatabaseGone, match="all 1 connections are busy"), database.read():
        pass
    database.close()


def test_a15_a_frozen_server_holds_nobody_longer_than_allowed(mortal: Postgres) -> None:
    """It answers nothing, and closes nothing: only the client's own clock helps."""
    database = open_database(mortal.new_database())
    assert one(database) == 1
    mortal.freeze()
    begun = time.monotonic()
    with pytest.raises(DatabaseGone):
        one(database, within_s=0.3)
    assert time.monotonic() - begun < 4.0
    with pytest.raises(DatabaseGone):  # a new connection
        one(database, within_s=0.3)
    mortal.thaw()
    assert one(database) == 1
    database.close()


def test_a15_a_killed_server_is_away_and_back_without_a_new_beginning(mortal: Postgres) -> None:
    database = open_database(mortal.new_database())
    with database.write() as connection:
        connection.execute(insert(settings).values(name="x", value="kept"))
    mortal.kill()
    for _ in range(2):
        with pytest.raises(DatabaseGone):
            one(database)
    mortal.start()
    with database.read() as connection:
        assert connection.scalar(select(settings.c.value).where(settings.c.name == "x")) == "kept"
    database.close()


def test_it_shows_itself_without_its_password(postgres: Postgres) -> None:
    url = postgres.new_database().replace("headrace@", f"headrace:{PASSWORD}@")
    database = open_database(url)
    assert PASSWORD not in repr(database)
    assert "headrace:***@" in repr(database)
    database.close()


def test_workers_never_import_a_database(tmp_path: Path) -> None:
    import subprocess

    code = (
        "import sys, gateway.app, gateway.process.worker, gateway.process.supervisor; "
        "print([name for name in ('sqlalchemy', 'psycopg') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
