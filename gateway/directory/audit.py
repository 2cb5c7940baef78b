"""Who changed what, and when: a chain, in which no link can be changed or taken out without its being seen.

The hash of an entry is the SHA-256 of all else in it, the hash of the entry before included, as JSON with sorted keys,
no spaces and only ASCII. Numbers run from 1 without gaps. Who can write to the database can make the whole chain anew,
or cut its end off with its head: so keep a number and its hash elsewhere, and verify against it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, Row, Select, insert, select, update

from gateway.clock import wall_time_s
from gateway.database import Database
from gateway.directory.problems import askable
from gateway.directory.tables import NO_HASH, audit, heads

Json = dict[str, object]
"""A record as JSON has it."""
LONG_S = 3600.0
"""Longest that reading all of the log may take."""
_CHUNK = 1000
_MAX_CHARS = 256


class Actor(NamedTuple):
    """Who changes something.

    name:       `os:USER` at the command line; of the admin API the key or the token's subject.
    address:    where the request came from; empty at the command line.
    request_id: of the admin API's request.
    """

    name: str
    address: str = ""
    request_id: str = ""


class Event(NamedTuple):
    """What was done, as `KIND.VERB`, to what. `before` and `after`: what changed, or all of it if it is new."""

    action: str
    subject: str
    organisation: str = ""
    before: Json | None = None
    after: Json | None = None


class AuditEntry(msgspec.Struct, frozen=True):
    """One link. `at` is in UTC, with microseconds."""

    seq: int
    at: str
    actor: str
    address: str
    request_id: str
    action: str
    subject: str
    organisation: str
    before: Json | None
    after: Json | None
    previous: str
    hash: str


class Anchor(NamedTuple):
    """What somebody noted of the log: the hash that an entry had."""

    seq: int
    hash: str


class Verdict(msgspec.Struct, frozen=True):
    """entries: how many are in order, from the first. head: hash of the last of them. broken_at: number of the first
    that is not; None: all are. reason: what is wrong with it."""

    entries: int
    head: str
    broken_at: int | None = None
    reason: str = ""


class AuditFilter(NamedTuple):
    """Empty or None: any. `until` is excluded."""

    organisation: str | None = None
    actor: str = ""
    action: str = ""
    subject: str = ""
    since: datetime | None = None
    until: datetime | None = None


EVERYTHING = AuditFilter()


def utc(instant_s: float) -> str:
    return datetime.fromtimestamp(instant_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def append(connection: Connection, actor: Actor, done: Event, at_s: float | None = None) -> None:
    """Add an entry, in the transaction of the change that it tells of. Waits for whoever is writing one."""
    head = connection.execute(select(heads.c.audit, heads.c.audit_hash).with_for_update()).one()
    entry: Json = {
        "seq": head.audit + 1,
        "at": utc(wall_time_s() if at_s is None else at_s),
        "actor": _clean(actor.name),
        "address": _clean(actor.address),
        "request_id": _clean(actor.request_id),
        "action": done.action,
        "subject": _clean(done.subject),
        "organisation": done.organisation,
        "before": done.before,
        "after": done.after,
        "previous": head.audit_hash,
    }
    digest = _hash(entry)
    texts = {name: None if entry[name] is None else canonical(entry[name]) for name in ("before", "after")}
    connection.execute(insert(audit).values(**{**entry, **texts, "hash": digest}))
    connection.execute(update(heads).values(audit=entry["seq"], audit_hash=digest))


def canonical(value: object) -> str:
    """The one JSON text of a value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


class AuditLog:
    """Reading it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self, wanted: AuditFilter = EVERYTHING, before: int | None = None, limit: int = 100) -> list[AuditEntry]:
        """The newest first; `before`: only those with smaller numbers, for the next page."""
        query = _where(select(audit), wanted).order_by(audit.c.seq.desc()).limit(limit)
        if before is not None:
            query = query.where(audit.c.seq < before)
        with self._database.read() as connection:
            return [_entry(row) for row in connection.execute(query)]

    def export(self, wanted: AuditFilter = EVERYTHING) -> Iterator[AuditEntry]:
        """The oldest first, all of them, however many there are."""
        query = _where(select(audit), wanted).order_by(audit.c.seq)
        with (
            self._database.read(LONG_S) as connection,
            connection.execution_options(yield_per=_CHUNK).execute(query) as rows,
        ):
            for row in rows:
                yield _entry(row)

    def verify(self, anchor: Anchor | None = None) -> Verdict:
        """Compute the chain again, up to the first link that is broken."""
        with self._database.read(LONG_S) as connection:
            head = connection.execute(select(heads.c.audit, heads.c.audit_hash)).one()
            verdict = Verdict(0, NO_HASH)
            query = select(audit).order_by(audit.c.seq)
            with connection.execution_options(yield_per=_CHUNK).execute(query) as rows:
                for row in rows:
                    verdict = _extended(verdict, row, anchor)
                    if verdict.broken_at is not None:
                        return verdict
        return _ended(verdict, Anchor(head.audit, head.audit_hash), anchor)


def _extended(verdict: Verdict, row: Row[tuple[object, ...]], anchor: Anchor | None) -> Verdict:
    """The verdict with one more link, or with the reason why it is none."""
    number = verdict.entries + 1
    reason = ""
    try:
        entry = _entry(row)
    except ValueError:
        return _broken(verdict, "what it holds is no JSON")
    if entry.seq != number:
        reason = f"entries are missing: the next one has the number {entry.seq}"
    elif entry.previous != verdict.head:
        reason = f"it follows the hash {entry.previous}, and the entry before has {verdict.head}"
    elif entry.hash != _hash(_without_hash(entry)):
        reason = "its content does not have its hash: it was changed"
    elif anchor is not None and anchor.seq == number and anchor.hash != entry.hash:
        reason = f"its hash is {entry.hash}, and {anchor.hash} was noted: the log was written anew"
    return _broken(verdict, reason) if reason else Verdict(number, entry.hash)


def _ended(verdict: Verdict, head: Anchor, anchor: Anchor | None) -> Verdict:
    if verdict.entries < head.seq:
        return _broken(verdict, f"entries are missing at the end: there were {head.seq}")
    if head != (verdict.entries, verdict.head):
        return Verdict(head.seq, verdict.head, head.seq + 1, "it was put in: the log did not get so far")
    if anchor is not None and anchor.seq > verdict.entries:
        return _broken(verdict, f"entries are missing at the end: number {anchor.seq} was noted")
    return verdict


def _broken(verdict: Verdict, reason: str) -> Verdict:
    return Verdict(verdict.entries, verdict.head, verdict.entries + 1, reason)


def _where(query: Select[tuple[object, ...]], wanted: AuditFilter) -> Select[tuple[object, ...]]:
    for column in (audit.c.actor, audit.c.action, audit.c.subject):
        if value := getattr(wanted, column.name):
            query = query.where(column == askable(value))
    if wanted.organisation is not None:
        query = query.where(audit.c.organisation == askable(wanted.organisation))
    if wanted.since is not None:
        query = query.where(audit.c.at >= utc(wanted.since.timestamp()))
    return query if wanted.until is None else query.where(audit.c.at < utc(wanted.until.timestamp()))


def _entry(row: Row[tuple[object, ...]]) -> AuditEntry:
    found = row._asdict()
    for name in ("before", "after"):
        found[name] = None if found[name] is None else json.loads(found[name])
    return AuditEntry(**found)


def _without_hash(entry: AuditEntry) -> Json:
    return {name: getattr(entry, name) for name in entry.__struct_fields__ if name != "hash"}


def _hash(entry: Json) -> str:
    return hashlib.sha256(canonical(entry).encode()).hexdigest()


def _clean(text: str) -> str:
    """Texts that others chose: of one line, and none that a database or a terminal stumbles over."""
    return "".join(char if char.isprintable() else "?" for char in text)[:_MAX_CHARS]
