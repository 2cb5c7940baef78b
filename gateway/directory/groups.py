"""Organisations, teams and service accounts: what keys belong to."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, Table, and_, insert, select, update

from gateway.database import Database
from gateway.directory.audit import Actor, Event
from gateway.directory.change import changing
from gateway.directory.problems import Taken, askable, check_name, not_there
from gateway.directory.records import changed, differing, for_audit, values_of
from gateway.directory.specs import Described, Named
from gateway.directory.tables import keys, organisations

Record = TypeVar("Record", bound=msgspec.Struct)
MAX_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Kind(Generic[Record]):
    """table: its rows are named by `name`, and by `organisation` if it is `inside` one.
    owns: column of the keys that names one; empty: what becomes of it changes no key.
    """

    word: str
    table: Table
    record: Callable[[Row[Any], float], Record]
    inside: bool = True
    owns: str = ""

    def at(self, organisation: str, name: str) -> ColumnElement[bool]:
        here = self.table.c.name == name
        return and_(self.table.c.organisation == organisation, here) if self.inside else here


class Groups(Generic[Record]):
    """All of one kind. Names were checked by the specifications; `organisation` is empty for organisations."""

    def __init__(self, database: Database, kind: Kind[Record], wall_s: Callable[[], float]) -> None:
        self._database = database
        self._kind = kind
        self._wall_s = wall_s

    def create(self, actor: Actor, spec: Named, organisation: str = "") -> Record:
        """
        Raises:
            Taken: there is one of that name.
            NotThere: there is no such organisation.
        """
        kind, name = self._kind, spec.name
        with changing(self._database, actor, self._wall_s) as change:
            if kind.inside:
                require(change.connection, organisations, "organisation", organisation)
            if self._row(change.connection, organisation, name) is not None:
                article = "an" if kind.word[0] in "aeiou" else "a"
                raise Taken(f"there is {article} {kind.word} {name!r} already{self._within(organisation)}")
            values = values_of(spec, kind.table, {}) | ({"organisation": organisation} if kind.inside else {})
            change.connection.execute(insert(kind.table).values(**values, **change.stamps(created=True)))
            record = self._found(change.connection, organisation, name)
            change.done(self._event("create", organisation, name, None, for_audit(record)))
        return record

    def update(self, actor: Actor, name: str, settings: Described, organisation: str = "") -> Record:
        """What is not given stays. What changes nothing leaves no entry.

        Raises:
            NotThere: there is none of that name.
        """
        kind = self._kind
        with changing(self._database, actor, self._wall_s) as change:
            old = self._found(change.connection, organisation, name)
            row = self._row(change.connection, organisation, name)
            assert row is not None
            values = changed(values_of(settings, kind.table, row._asdict()), row._asdict())
            if not values:
                return old
            where = kind.at(organisation, name)
            change.connection.execute(update(kind.table).where(where).values(**values, **change.stamps()))
            new = self._found(change.connection, organisation, name)
            if kind.owns and "disabled" in values:
                owned = and_(keys.c.organisation == organisation, keys.c[kind.owns] == name)
                change.connection.execute(update(keys).where(owned).values(seq=change.seq))
            change.done(self._event("update", organisation, name, *differing(old, new)))
        return new

    def get(self, name: str, organisation: str = "") -> Record:
        """
        Raises:
            NotThere: there is none of that name.
        """
        with self._database.read() as connection:
            return self._found(connection, organisation, name)

    def list(
        self, organisation: str | None = None, after: tuple[str, str] = ("", ""), limit: int | None = None
    ) -> builtins.list[Record]:
        """By organisation and name; `after`: those of the last one of the page before."""
        table = self._kind.table
        order = [table.c.organisation, table.c.name] if self._kind.inside else [table.c.name]
        query = select(table).order_by(*order).limit(min(limit or MAX_PAGE, MAX_PAGE))
        if organisation is not None and self._kind.inside:
            query = query.where(table.c.organisation == askable(organisation))
        if after[1]:
            query = query.where(later(order, after if self._kind.inside else after[1:]))
        with self._database.read() as connection:
            return [self._kind.record(row, 0.0) for row in connection.execute(query)]

    def every(self, organisation: str | None = None) -> Iterator[Record]:
        """All pages."""
        page = self.list(organisation)
        yield from page
        while len(page) == MAX_PAGE:
            last = page[-1]
            page = self.list(organisation, (getattr(last, "organisation", ""), getattr(last, "name", "")))
            yield from page

    def _row(self, connection: Connection, organisation: str, name: str) -> Row[Any] | None:
        check_name(self._kind.word, name)
        if self._kind.inside:
            check_name("organisation", organisation)
        return connection.execute(select(self._kind.table).where(self._kind.at(organisation, name))).one_or_none()

    def _found(self, connection: Connection, organisation: str, name: str) -> Record:
        row = self._row(connection, organisation, name)
        if row is not None:
            return self._kind.record(row, 0.0)
        known = select(self._kind.table.c.name).limit(MAX_PAGE)
        if self._kind.inside:
            known = known.where(self._kind.table.c.organisation == organisation)
        raise not_there(self._kind.word, name, connection.scalars(known), self._within(organisation))

    def _within(self, organisation: str) -> str:
        return f" in the organisation {organisation!r}" if self._kind.inside else ""

    def _event(self, verb: str, organisation: str, name: str, before: Any, after: Any) -> Event:
        action = f"{self._kind.word.replace(' ', '_')}.{verb}"
        return Event(action, name, organisation if self._kind.inside else name, before, after)


def require(connection: Connection, table: Table, word: str, name: str, organisation: str = "") -> None:
    """
    Raises:
        NotThere: there is none of that name.
    """
    check_name(word, name)
    within = [table.c.organisation == organisation] if organisation else []
    if connection.scalar(select(table.c.name).where(table.c.name == name, *within)) is None:
        known = connection.scalars(select(table.c.name).where(*within).limit(MAX_PAGE))
        raise not_there(word, name, known, f" in the organisation {organisation!r}" if organisation else "")


def later(columns: builtins.list[Any], values: tuple[str, ...]) -> ColumnElement[bool]:
    """Rows that come after these values in the order of the columns."""
    first, *rest = columns
    after: ColumnElement[bool] = first > values[0]
    return after | and_(first == values[0], later(rest, values[1:])) if rest else after
