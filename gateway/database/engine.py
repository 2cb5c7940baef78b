"""Opening the database, and reading and writing it so that nobody waits for ever."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy import exc as sa
from sqlalchemy.engine.interfaces import DBAPIConnection

from gateway.database.errors import DatabaseGone, DatabaseUnusable
from gateway.database.migrate import migrate

CONNECT_S = 3
"""Longest that PostgreSQL may take for a new connection."""
CALL_S = 10.0
"""Longest that one transaction may take, unless its caller allows more."""
BUSY_S = 5.0
"""Longest that a writer waits for another one."""
_POOL = 6
_FORMS = "sqlite:///relative.db, sqlite:////absolute.db or postgresql://user:password@host/name"
_WRITES = "headrace_writes"
_OURS = (sa.IntegrityError, sa.DataError, sa.ProgrammingError, sa.NotSupportedError)
"""What a mistake of the code is told by; all else is the database's."""


class Database:
    """Made by `open_database`. Safe to use from several threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # One transaction sees one state of all tables, as with SQLite.
        wanted = {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}
        self._reader = engine.execution_options(**wanted)
        self._writer = engine.execution_options(**{_WRITES: True})
        self.dialect = engine.dialect.name
        self.shown = engine.url.render_as_string(hide_password=True)
        """Its URL without the password."""

    def __repr__(self) -> str:
        return f"Database({self.shown!r})"

    @contextmanager
    def read(self, within_s: float = CALL_S) -> Iterator[Connection]:
        """A transaction that only reads, and sees one state whatever others write.

        Raises:
            DatabaseGone: also when it took longer than `within_s`.
        """
        with self._begun(self._reader, within_s) as connection:
            yield connection

    @contextmanager
    def write(self, within_s: float = CALL_S) -> Iterator[Connection]:
        """A transaction: committed at the end of the block, rolled back if that raises.

        Raises:
            DatabaseGone: also when it took longer than `within_s`. Whether it was committed may be unknown.
        """
        with self._begun(self._writer, within_s) as connection:
            yield connection

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _begun(self, engine: Engine, within_s: float) -> Iterator[Connection]:
        try:
            with engine.connect() as connection, _hung_up_after(connection, within_s), connection.begin():
                if within_s != CALL_S and self.dialect == "postgresql":
                    connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(within_s * 1000)}")
                yield connection
        except sa.DBAPIError as error:
            if isinstance(error, _OURS) and not error.connection_invalidated:
                raise
            raise DatabaseGone(f"{self.shown}: {_reason(error)}") from None
        except sa.TimeoutError:
            raise DatabaseGone(f"{self.shown}: all {_POOL} connections are busy") from None


def open_database(url: str) -> Database:
    """Connect, and bring the tables to the present version; a SQLite file is made if there is none.

    Raises:
        DatabaseGone: it cannot be reached now.
        DatabaseUnusable: the URL, the driver, rights or the version of its schema do not fit.
    """
    engine = _engine(_checked(url))
    database = Database(engine)
    try:
        with database.write() as connection:
            migrate(connection)
    except DatabaseUnusable as error:
        database.close()
        raise DatabaseUnusable(f"{database.shown}: {error}") from None
    except sa.SQLAlchemyError as error:
        database.close()
        raise DatabaseUnusable(f"{database.shown}: {_reason(error)}") from None
    except DatabaseGone:
        database.close()
        raise
    return database


def _checked(text: str) -> URL:
    try:
        url = make_url(text)
        backend = url.get_backend_name()
    except (sa.ArgumentError, ValueError):
        raise DatabaseUnusable(f"database.url is not of the form {_FORMS}") from None
    if backend in ("postgres", "postgresql"):
        return url.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise DatabaseUnusable(f"database.url: {backend} is not known here; it takes {_FORMS}")
    if url.host or not url.database or url.database == ":memory:":
        raise DatabaseUnusable(f"database.url: {url.render_as_string()} names no file; it takes {_FORMS}")
    return url.set(drivername="sqlite+pysqlite")


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        _make_file(url)
        engine = create_engine(url, hide_parameters=True, connect_args={"timeout": BUSY_S})
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    options = f"-c statement_timeout={int(CALL_S * 1000)} -c lock_timeout={int(BUSY_S * 1000)}"
    wanted = {"connect_timeout": str(CONNECT_S), "application_name": "headrace", "options": options}
    try:
        return create_engine(
            url.update_query_dict({**wanted, **url.query}),
            hide_parameters=True,
            pool_size=_POOL,
            max_overflow=0,
            pool_timeout=CONNECT_S,
            pool_recycle=1800,
            # Or PgBouncer, where each transaction may have another server's connection, would not know them.
            connect_args={"prepare_threshold": None},
        )
    except ModuleNotFoundError:
        raise DatabaseUnusable(
            "PostgreSQL needs psycopg, which is not installed: pip install 'headrace[postgres]'"
        ) from None


def _make_file(url: URL) -> None:
    """So that nobody else may read what SQLite puts there, and the reason is told if it cannot be."""
    assert url.database is not None
    path = Path(url.database)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except FileNotFoundError:
        raise DatabaseUnusable(f"database.url: there is no folder {path.parent.absolute()}") from None
    except OSError as error:
        raise DatabaseGone(f"{path.absolute()}: {error.strerror}") from None


def _set_up_sqlite(connection: DBAPIConnection, _record: object) -> None:
    connection.isolation_level = None  # transactions begin as `_begin_sqlite` says
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """Who is to write takes the lock at once: a reader that turns writer would be refused instead of waiting."""
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _hung_up_after(connection: Connection, seconds: float) -> Iterator[None]:
    """A server that is frozen, or a network that swallows all, obeys no timeout of PostgreSQL's; who waits for an
    answer is woken only by the end of the connection."""
    if connection.dialect.name != "postgresql":
        yield
        return
    driver = connection.connection.driver_connection
    assert driver is not None
    # A handle of its own: the number of a connection's may belong to something else once that is closed.
    with socket.socket(fileno=os.dup(driver.fileno())) as own:
        timer = threading.Timer(seconds + 1.0, _hang_up, [own])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _reason(error: sa.SQLAlchemyError) -> str:
    """The first line of what the driver says, which has no values in it."""
    cause = error.orig if isinstance(error, sa.DBAPIError) else error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
