"""Records in a file of SQLite. To be used by one thread; any number of processes may have the file open.

Writers take turns, so records get their numbers in the order in which they become visible: who has read up to a number
misses nothing below it. In WAL mode with `synchronous=NORMAL` what is committed survives the end of any process,
however sudden; a power cut may lose the last commits, never part of one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec

from cache.entry import Added, Judged, Learned, Purged, Quarantined, Record, Selector, Voted
from cache.journal.outbox import Waiting

APPLICATION = 0x48524348
"""Marks the file as ours."""
VERSION = 1
PAGE_BYTES = 4096
BUSY_S = 2.0
"""Longest that another writer is waited for."""
SETTLED_S = 60.0
"""Judgements are kept for so long after a snapshot took their place: until every worker has read them."""
USED_S = 3600.0
MANY_JUDGED = 500
"""Judgements of a cohort that are worth a snapshot."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (
  number INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, origin TEXT NOT NULL, at REAL NOT NULL,
  id TEXT, key BLOB, tenant TEXT, deployment TEXT, model TEXT, cohort TEXT, tags TEXT, epoch INTEGER, expires_at REAL,
  crc INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS records_key ON records (key) WHERE kind = 'added';
CREATE INDEX IF NOT EXISTS records_id ON records (id) WHERE kind = 'added';
CREATE INDEX IF NOT EXISTS records_expires_at ON records (expires_at) WHERE kind = 'added';
CREATE INDEX IF NOT EXISTS records_judged ON records (cohort, number) WHERE kind = 'judged';
CREATE TABLE IF NOT EXISTS learned (
  cohort TEXT PRIMARY KEY, upto INTEGER NOT NULL, labels INTEGER NOT NULL, at REAL NOT NULL, state BLOB NOT NULL);
"""
INSERT = "INSERT INTO records VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
EXPIRED = "DELETE FROM records WHERE kind = 'added' AND expires_at <= :now"
SUPERSEDED = """DELETE FROM records WHERE kind = 'judged' AND at < :now - :settled
  AND number <= (SELECT upto FROM learned WHERE learned.cohort = records.cohort)"""
LONG_USED = "DELETE FROM records WHERE kind = 'used' AND at < :now - :used OR kind = 'voted' AND expires_at <= :now"
# They matter to no entry that is still here.
POINTLESS = """DELETE FROM records WHERE kind IN ('used', 'quarantined', 'objected', 'purged') AND at < :now - :settled
  AND number < coalesce((SELECT min(number) FROM records WHERE kind = 'added'), 9e18)"""
CLEANUP = (EXPIRED, SUPERSEDED, LONG_USED, POINTLESS)

Values: TypeAlias = tuple[str | bytes | int | float | None, ...]


class NotOurs(Exception):
    """Something else wrote the file, or a newer version of Headrace. It is left alone."""


class Damaged(Exception):
    """It is not, or no longer, what SQLite can read."""


class Row(NamedTuple):
    number: int
    kind: str
    origin: str
    cohort: str | None
    crc: int
    body: bytes

    @property
    def whole(self) -> bool:
        try:
            return zlib.crc32(self.body) == self.crc
        except TypeError:
            return False


class RecordFile:
    """Raises `NotOurs`, `Damaged`, `sqlite3.Error` and `OSError`, here and in all it does.

    max_bytes: over them, the oldest entries make room.
    """

    def __init__(self, path: Path, max_bytes: int, origin: str) -> None:
        self._path = path
        self._origin = origin
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._inode = _inode(path)
        self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
        self._db.text_factory = lambda text: text.decode(errors="replace")  # a row may be damaged
        try:
            with self._understood():
                self._prepare(max_bytes)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    def replaced(self) -> bool:
        """Somebody moved the file away, or deleted it."""
        try:
            return _inode(self._path) != self._inode
        except FileNotFoundError:
            return True

    def identity(self, secret: bytes) -> tuple[bytes, bytes]:
        """The file's name, random, and the secret of all workers. secret: becomes that if there is none yet."""
        made = (("name", os.urandom(16)), ("secret", secret))
        with self._writing():
            self._db.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", made)
            found = dict(self._db.execute("SELECT name, value FROM meta").fetchall())
        return bytes(found["name"]), bytes(found["secret"])

    def write(self, waiting: Sequence[Waiting]) -> None:
        """All of them or none."""
        with self._writing():
            for each in waiting:
                self._write(each)

    def make_room(self, size_bytes: int) -> bool:
        """Drop the oldest entries, one in ten. size_bytes: of what has to get in.

        Returns False if there are none, or if it is the disk that is full: nothing is won by dropping them then.
        """
        with self._writing():
            pages, unused, most = (
                self._db.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "max_page_count")
            )
            if (pages - unused) * PAGE_BYTES + 2 * size_bytes < most * PAGE_BYTES / 2:
                return False
            dropped = self._db.execute(
                "DELETE FROM records WHERE number IN (SELECT number FROM records WHERE kind = 'added' ORDER BY number "
                "LIMIT 1 + (SELECT count(*) FROM records WHERE kind = 'added') / 10)"
            )
            return dropped.rowcount > 0

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """All that is read in here is of one moment."""
        with self._understood(), _transaction(self._db, "BEGIN"):
            yield

    def learned(self) -> list[tuple[Learned, int]]:
        """Snapshots of cohorts, each with the number of the last record that it knows of."""
        found = self._db.execute("SELECT cohort, state, labels, at, upto FROM learned").fetchall()
        return [(Learned(cohort, bytes(state), labels, at), upto) for cohort, state, labels, at, upto in found]

    def rows(self, after: int, now: float) -> Iterator[Row]:
        """Records with higher numbers, in order, but for entries that have had their time, and for this worker's own,
        unless they take effect in the order of all workers' alone."""
        found = self._db.execute(
            "SELECT number, kind, origin, cohort, crc, body FROM records "
            "WHERE number > ? AND (expires_at IS NULL OR expires_at > ?) AND (origin <> ? OR kind = 'judged') "
            "ORDER BY number",
            (after, now, self._origin),
        )
        for row in found:
            yield Row(*row)

    def last_number(self) -> int:
        """Of all that ever were."""
        found = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'records'").fetchone()
        return int(found[0]) if found else 0

    def much_judged(self) -> list[str]:
        """Cohorts of which many judgements are in no snapshot."""
        with self._understood():
            found = self._db.execute(
                "SELECT cohort FROM records WHERE kind = 'judged' AND number > "
                "coalesce((SELECT upto FROM learned WHERE learned.cohort = records.cohort), 0) "
                "GROUP BY cohort HAVING count(*) >= ?",
                (MANY_JUDGED,),
            ).fetchall()
        return [cohort for (cohort,) in found]

    def keep_learned(self, learned: Sequence[Learned], upto: int) -> None:
        """upto: the last record that they know of."""
        with self._writing():
            for each in learned:
                self._db.execute(
                    "INSERT INTO learned VALUES (?, ?, ?, ?, ?) ON CONFLICT (cohort) DO UPDATE SET upto = "
                    "excluded.upto, labels = excluded.labels, at = excluded.at, state = excluded.state "
                    "WHERE excluded.upto > learned.upto",
                    (each.cohort, upto, each.labels, each.at, each.state),
                )

    def clean_up(self, now: float) -> None:
        """Drop what nobody needs any more, and give its room back."""
        limits = {"now": now, "settled": SETTLED_S, "used": USED_S}
        for statement in CLEANUP:
            with self._writing():
                self._db.execute(statement, limits)
        with self._understood():
            self._db.execute("PRAGMA incremental_vacuum(1000)").fetchall()

    def _prepare(self, max_bytes: int) -> None:
        one = self._db.execute
        version, application = one("PRAGMA user_version").fetchone()[0], one("PRAGMA application_id").fetchone()[0]
        if application != APPLICATION and one("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            raise NotOurs("it is a database of something else: cache.path must name another file")
        if version > VERSION:
            raise NotOurs(f"a newer version wrote it: it has version {version}, this Headrace reads {VERSION}")
        if not version:
            one("PRAGMA auto_vacuum = INCREMENTAL")
        one("PRAGMA journal_mode = WAL")
        one("PRAGMA synchronous = NORMAL")
        one("PRAGMA secure_delete = ON")  # what is purged is gone from the disk as well
        one(f"PRAGMA journal_size_limit = {max_bytes // 8}")
        one(f"PRAGMA max_page_count = {max(max_bytes // PAGE_BYTES, 64)}")
        if not version:
            with self._writing():
                for statement in SCHEMA.split(";"):
                    one(statement)
                one(f"PRAGMA application_id = {APPLICATION}")
                one(f"PRAGMA user_version = {VERSION}")

    def _write(self, waiting: Waiting) -> None:
        record = waiting.record
        values = (type(record).__struct_config__.tag, self._origin, *_columns(record))
        number = self._db.execute(INSERT, (*values, zlib.crc32(waiting.body), waiting.body)).lastrowid
        match record:
            case Added(entry):
                self._db.execute(
                    "DELETE FROM records WHERE kind = 'added' AND key = ? AND at <= ? AND number < ?",
                    (entry.key, entry.created_at, number),
                )
            case Quarantined(ids):
                self._db.executemany(
                    "DELETE FROM records WHERE kind = 'added' AND id = ?", [(entry_id,) for entry_id in ids]
                )
            case Purged(selector):
                where, wanted = _selected(selector)
                self._db.execute(
                    f"DELETE FROM records WHERE kind = 'added' AND number < ?{where}",  # noqa: S608 - of our own words
                    (number, *wanted),
                )
                if selector.id is None:
                    self._db.execute("DELETE FROM records WHERE kind = 'voted' AND number < ?", (number,))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with self._understood(), _transaction(self._db, "BEGIN IMMEDIATE"):
            yield

    @contextlib.contextmanager
    def _understood(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise Damaged(str(error)) from None
            raise


def is_full(error: Exception) -> bool:
    return isinstance(error, sqlite3.DatabaseError) and _code(error) == sqlite3.SQLITE_FULL


def put_aside(path: Path) -> Path:
    """Move a damaged file away, and what belongs to it; one that was put aside before is gone then. If another process
    was faster, the file is whole and stays.
    """
    aside = path.with_name(path.name + ".damaged")
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_whole(path):
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                path.replace(aside)
    return aside


def _is_whole(path: Path) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=BUSY_S)) as db:
            return bool(db.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")
    except sqlite3.Error:
        return False


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection, begin: str) -> Iterator[None]:
    db.execute(begin)
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
        raise


def _columns(record: Record) -> Values:
    """at, id, key, tenant, deployment, model, cohort, tags, epoch, expires_at."""
    match record:
        case Added(entry):
            tags = "".join(f"\n{tag}\n" for tag in entry.tags)
            owner = (entry.tenant, entry.deployment, entry.model, entry.cohort)
            return (entry.created_at, entry.id, entry.key, *owner, tags, entry.epoch, entry.expires_at)
        case Judged(cohort=cohort):
            return (record.at, None, None, None, None, None, cohort, None, None, None)
        case Voted(key, expires_at=expires_at):
            return (record.at, None, key, *[None] * 6, expires_at)
        case _:
            return (record.at, *[None] * 9)


def _selected(selector: Selector) -> tuple[str, list[str | int]]:
    """A condition on columns, and its values."""
    given = {name: value for name, value in msgspec.structs.asdict(selector).items() if value is not None}
    where = ""
    for name in given:
        match name:
            case "tag":
                where += " AND instr(tags, char(10) || ? || char(10)) > 0"
            case "before_epoch":
                where += " AND epoch < ?"
            case _:
                where += f" AND {name} = ?"
    return where, list(given.values())


def _code(error: sqlite3.DatabaseError) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _inode(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino
