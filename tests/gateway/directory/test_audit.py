"""The log of changes is a chain, and what is done to it afterwards shows."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, insert, select, update

from gateway.database import Database, open_database
from gateway.directory.audit import Actor, Anchor, AuditFilter, AuditLog, Event, append
from gateway.directory.problems import Refused
from gateway.directory.specs import KeySettings, KeySpec, OrganisationSettings, OrganisationSpec
from gateway.directory.store import Directory
from gateway.directory.tables import audit, heads
from tests.gateway.directory.conftest import ALICE, Wall

TEXT = st.text(max_size=20)
JSON = st.dictionaries(
    TEXT,
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    max_size=4,
)
EVENTS = st.builds(
    Event,
    st.sampled_from(["key.create", "key.revoke"]),
    TEXT,
    st.sampled_from(["", "acme"]),
    st.none() | JSON,
    st.none() | JSON,
)


@contextmanager
def filled(events: list[tuple[Event, str]]) -> Iterator[Database]:
    with tempfile.TemporaryDirectory() as folder:
        database = open_database(f"sqlite:///{folder}/h.db")
        for event, who in events:
            with database.write() as connection:
                append(connection, Actor(who), event)
        try:
            yield database
        finally:
            database.close()


def test_every_change_says_who_when_what_and_how_it_was(directory: Directory, wall: Wall) -> None:
    actor = Actor("key:0123456789ab", "192.0.2.1", "req-1")
    directory.organisations.create(actor, OrganisationSpec(name="acme", weight=2))
    wall.now_s += 1.5
    directory.organisations.update(actor, "acme", OrganisationSettings(weight=3))
    key = directory.keys.create(ALICE, KeySpec(name="k", organisation="acme")).record
    directory.keys.update(ALICE, key.id, KeySettings(sensitivity="secret"))
    new = directory.keys.rotate(ALICE, key.id, 60.0).record
    directory.keys.revoke(ALICE, new.id)
    entries = list(directory.audit.export())
    told = [(entry.seq, entry.action, entry.subject, entry.organisation, entry.actor) for entry in entries]
    assert told == [
        (1, "organisation.create", "acme", "acme", "key:0123456789ab"),
        (2, "organisation.update", "acme", "acme", "key:0123456789ab"),
        (3, "key.create", key.id, "acme", "os:alice"),
        (4, "key.update", key.id, "acme", "os:alice"),
        (5, "key.create", new.id, "acme", "os:alice"),
        (6, "key.rotate", key.id, "acme", "os:alice"),
        (7, "key.revoke", new.id, "acme", "os:alice"),
    ]
    assert (entries[1].before, entries[1].after) == ({"weight": 2.0}, {"weight": 3.0})
    assert (entries[1].at, entries[1].address, entries[1].request_id) == (
        *("2027-01-15T08:00:01.500000Z", "192.0.2.1", "req-1"),
    )
    assert (entries[3].before, entries[3].after) == ({"sensitivity": ""}, {"sensitivity": "secret"})
    assert entries[5].after == {"replaced_by": new.id, "expires_at": "2027-01-15T08:01:01.500000Z"}
    assert directory.audit.verify() == type(directory.audit.verify())(7, entries[-1].hash)


def test_the_chain_can_be_checked_with_nothing_but_sha256(directory: Directory) -> None:
    """The recipe of the documentation, written out."""
    directory.organisations.create(ALICE, OrganisationSpec(name="acme", metadata={"city": "Zürich"}))
    directory.organisations.update(ALICE, "acme", OrganisationSettings(weight=0.1))
    previous = "0" * 64
    for number, line in enumerate(map(msgspec.json.encode, directory.audit.export()), 1):
        entry = json.loads(line)
        found = entry.pop("hash")
        assert (entry["seq"], entry["previous"]) == (number, previous)
        previous = hashlib.sha256(json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        assert found == previous


def test_a_change_that_is_refused_or_fails_leaves_no_entry(directory: Directory, database: Database) -> None:
    directory.organisations.create(ALICE, OrganisationSpec(name="acme"))
    with pytest.raises(Refused):
        directory.organisations.create(ALICE, OrganisationSpec(name="acme"))
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        append(connection, ALICE, Event("key.create", "x"))
        raise ZeroDivisionError
    assert directory.audit.verify().entries == 1
    assert directory.snapshot().seq == 1


def test_texts_of_others_are_one_plain_line_each(directory: Directory) -> None:
    directory.organisations.create(Actor("os:a\nb\x00\x1b[31m", "x\r\ny", "r" * 1000), OrganisationSpec(name="acme"))
    (entry,) = directory.audit.list()
    assert (entry.actor, entry.address, len(entry.request_id)) == ("os:a?b??[31m", "x??y", 256)


def test_entries_are_found_by_whom_what_and_when(directory: Directory, wall: Wall) -> None:
    for number in range(6):
        actor = Actor(f"os:user{number % 2}")
        directory.organisations.create(actor, OrganisationSpec(name=f"o{number}"))
        wall.now_s += 60
    found = directory.audit

    def at(minute: int) -> datetime:
        return datetime(2027, 1, 15, 8, minute, tzinfo=UTC)

    def numbers(before: int | None = None, limit: int = 100, **wanted: object) -> list[int]:
        return [entry.seq for entry in found.list(AuditFilter(**wanted), before, limit)]  # type: ignore[arg-type]

    assert numbers() == [6, 5, 4, 3, 2, 1]
    assert (numbers(limit=2), numbers(before=5, limit=2)) == ([6, 5], [4, 3])
    assert numbers(actor="os:user1") == [6, 4, 2]
    assert (numbers(organisation="o3"), numbers(subject="o0"), numbers(action="key.create")) == ([4], [1], [])
    assert numbers(since=at(1), until=at(3)) == [3, 2]
    assert [entry.seq for entry in found.export(AuditFilter(actor="os:user0"))] == [1, 3, 5]


def test_writers_at_once_leave_one_chain_without_gaps_and_numbers_in_order(database_url: str) -> None:
    """Two gateways with two threads each."""
    databases = [open_database(database_url) for _ in range(2)]
    directories = [Directory(database) for database in databases for _ in range(2)]

    def create(number: int) -> None:
        for count in range(10):
            directories[number].organisations.create(ALICE, OrganisationSpec(name=f"o{number}-{count}"))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(create, range(4)))
    verdict = directories[0].audit.verify()
    assert (verdict.entries, verdict.broken_at) == (40, None)
    changes = directories[0].changes_since(0)
    assert changes is not None
    assert (changes.seq, len(changes.organisations)) == (40, 40)
    for database in databases:
        database.close()


def test_who_follows_the_numbers_misses_none_while_others_write(database_url: str) -> None:
    """A number that is seen is never followed by a smaller one."""
    databases = [open_database(database_url) for _ in range(3)]
    directories = [Directory(database) for database in databases]

    def create(number: int) -> None:
        for count in range(25):
            directories[number].organisations.create(ALICE, OrganisationSpec(name=f"o{number}-{count}"))

    seen: list[str] = []
    seq = 0
    with ThreadPoolExecutor(2) as threads:
        writers = [threads.submit(create, number) for number in range(2)]
        while seq < 50 and not any(writer.done() and writer.exception() for writer in writers):
            changes = directories[2].changes_since(seq)
            assert changes is not None
            assert changes.seq >= seq
            seen += [entry.name for entry in changes.organisations]
            seq = changes.seq
    assert len(seen) == len(set(seen)) == 50
    for database in databases:
        database.close()


# what was done to it


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(EVENTS, TEXT), min_size=1, max_size=6), st.data())
def test_whatever_is_changed_is_found_at_its_place(events: list[tuple[Event, str]], data: st.DataObject) -> None:
    with filled(events) as database:
        log = AuditLog(database)
        whole = log.verify()
        assert (whole.entries, whole.broken_at) == (len(events), None)
        place = data.draw(st.integers(1, len(events)), label="place")
        column = data.draw(
            st.sampled_from([column.name for column in audit.c if column.name not in ("seq", "hash", "previous")])
        )
        with database.write() as connection:
            old = connection.scalar(select(audit.c[column]).where(audit.c.seq == place))
            new = data.draw(TEXT.filter(lambda text: text != old), label="new")
            if column in ("before", "after"):
                new = json.dumps({"forged": new})
            connection.execute(update(audit).where(audit.c.seq == place).values({column: new}))
        assert log.verify().broken_at == place


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 8), st.data())
def test_an_entry_taken_out_is_found_where_it_was(count: int, data: st.DataObject) -> None:
    place = data.draw(st.integers(1, count))
    with filled([(Event("key.create", str(number)), "a") for number in range(count)]) as database:
        with database.write() as connection:
            connection.execute(delete(audit).where(audit.c.seq == place))
        verdict = AuditLog(database).verify()
        assert (verdict.broken_at, verdict.entries) == (place, place - 1)
        assert "missing" in verdict.reason


def test_an_entry_put_in_with_a_hash_that_fits_it_is_found(directory: Directory, database: Database) -> None:
    for number in range(3):
        directory.organisations.create(ALICE, OrganisationSpec(name=f"o{number}"))
    with database.write() as connection:
        connection.execute(update(audit).where(audit.c.seq == 2).values(actor="os:bob"))
        entry: dict[str, Any] = connection.execute(select(audit).where(audit.c.seq == 2)).one()._asdict()
        del entry["hash"]
        entry["after"] = json.loads(entry["after"])
        forged = json.dumps(entry, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(forged.encode()).hexdigest()
        connection.execute(update(audit).where(audit.c.seq == 2).values(hash=digest))
    verdict = directory.audit.verify()
    assert (verdict.broken_at, verdict.reason.startswith("it follows the hash")) == (3, True)


def test_what_is_no_json_any_more_is_told(directory: Directory, database: Database) -> None:
    directory.organisations.create(ALICE, OrganisationSpec(name="a"))
    with database.write() as connection:
        connection.execute(update(audit).values(after="{"))
    assert directory.audit.verify().reason == "what it holds is no JSON"


def test_a_log_made_anew_shows_against_what_was_noted(directory: Directory, database: Database) -> None:
    for number in range(3):
        directory.organisations.create(ALICE, OrganisationSpec(name=f"o{number}"))
    noted = Anchor(3, directory.audit.verify().head)
    directory.organisations.create(ALICE, OrganisationSpec(name="later"))
    assert directory.audit.verify(noted).broken_at is None
    with database.write() as connection:
        begun = select(func.min(audit.c.previous)).scalar_subquery()
        connection.execute(update(heads).values(audit=0, audit_hash=begun))
        connection.execute(delete(audit))
    for number in range(3):
        with database.write() as connection:
            append(connection, ALICE, Event("organisation.create", f"forged{number}"))
        if number < 2:
            assert directory.audit.verify(noted).reason == "entries are missing at the end: number 3 was noted"
    assert directory.audit.verify().broken_at is None
    assert directory.audit.verify(noted).broken_at == 3
    assert "was noted: the log was written anew" in directory.audit.verify(noted).reason


def test_entries_behind_the_head_do_not_pass_for_part_of_the_log(directory: Directory, database: Database) -> None:
    directory.organisations.create(ALICE, OrganisationSpec(name="a"))
    with database.write() as connection:
        row = connection.execute(select(audit)).one()._asdict()
        connection.execute(insert(audit).values(**{**row, "seq": 2}))
    assert directory.audit.verify().broken_at == 2


def test_instants_are_in_utc(directory: Directory) -> None:
    directory.organisations.create(ALICE, OrganisationSpec(name="a"))
    at = directory.audit.list()[0].at
    assert datetime.fromisoformat(at).timestamp() == 1_800_000_000.0
