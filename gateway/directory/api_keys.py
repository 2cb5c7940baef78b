"""Keys: made, changed, replaced, revoked. A key is shown once; what is kept is its salted digest."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, func, insert, or_, select, update

from gateway.database import Database
from gateway.database.schema import settings as made_once
from gateway.directory.audit import Actor, Event, utc
from gateway.directory.change import Change, changing
from gateway.directory.groups import MAX_PAGE, later, require
from gateway.directory.problems import Invalid, NotThere, Taken, askable
from gateway.directory.records import Key, NewKey, Values, changed, differing, for_audit, key_record, values_of
from gateway.directory.specs import KeySettings, KeySpec
from gateway.directory.tables import SALT, keys, organisations, service_accounts, teams
from gateway.keys import digest_of, key_id, new_key

MAX_GRACE_S = 30 * 86_400.0
"""Longest that a key may go on beside the one in its place."""
_COPIED = (
    *("name", "organisation", "team", "service_account", "role", "deployments", "networks", "limits", "sensitivity"),
    *("metadata", "expires_at"),
)


class KeyFilter(NamedTuple):
    """None or empty: any; an `organisation` that is empty: none. state: active, expired or revoked."""

    organisation: str | None = None
    team: str = ""
    service_account: str = ""
    name: str = ""
    role: str | None = None
    state: str = ""
    replaced_by: str = ""


ANY = KeyFilter()


class Keys:
    """A key is named by its id, or by itself: so one that was found somewhere can be revoked."""

    def __init__(self, database: Database, wall_s: Callable[[], float]) -> None:
        self._database = database
        self._wall_s = wall_s

    def create(self, actor: Actor, spec: KeySpec) -> NewKey:
        """
        Raises:
            NotThere: there is no such organisation, team or service account.
            Taken: the organisation has a key of that name.
            Invalid: what was given does not go together.
        """
        with changing(self._database, actor, self._wall_s) as change:
            if spec.organisation is not None:
                require(change.connection, organisations, "organisation", spec.organisation)
            values = values_of(spec, keys, {})
            values = {"organisation": None, "team": None, "service_account": None, "expires_at": 0.0} | values
            self._check(change, values)
            return self._add(change, values)

    def update(self, actor: Actor, key: str, settings: KeySettings) -> Key:
        """What is not given stays.

        Raises:
            NotThere, Taken, Invalid: as `create`; also Invalid if it is revoked or was replaced.
        """
        with changing(self._database, actor, self._wall_s) as change:
            row = self._usable(change, key, "changed")
            self._not_replaced(row, "change")
            if "name" in settings.model_fields_set and settings.name is None:
                raise Invalid("name: a key has one")
            values = changed(values_of(settings, keys, row._asdict()), row._asdict())
            if not values:
                return key_record(row, change.at_s)
            self._check(change, row._asdict() | values, row)
            return self._write(change, "key.update", row, values)

    def rotate(self, actor: Actor, key: str, grace_s: float, settings: KeySettings | None = None) -> NewKey:
        """Make another key that may do the same, but for what `settings` say; this one ends after `grace_s`.

        Raises:
            NotThere, Invalid: as `update`; also Invalid if it has expired.
        """
        if not 0 <= grace_s <= MAX_GRACE_S:
            raise Invalid(f"a grace of {grace_s:,.0f} s is not taken: it takes 0 to {MAX_GRACE_S:,.0f} s")
        with changing(self._database, actor, self._wall_s) as change:
            row = self._usable(change, key, "rotated")
            self._not_replaced(row, "rotate")
            if 0 < row.expires_at <= change.at_s:
                raise Invalid(f"the key {row.id} has expired at {utc(row.expires_at)}: make a new one")
            copied: Values = {name: row._mapping[name] for name in _COPIED}
            if settings is not None:
                copied |= values_of(settings, keys, copied)
            self._check(change, copied, row)
            made = self._add(change, copied)
            ends_s = change.at_s + grace_s
            old: Values = {"replaced_by": made.record.id}
            if grace_s == 0:
                old["revoked_at"] = change.at_s
            elif row.expires_at == 0 or row.expires_at > ends_s:
                old["expires_at"] = ends_s
            self._write(change, "key.rotate", row, old)
            return made

    def revoke(self, actor: Actor, key: str) -> Key:
        """End it, for good. One that is revoked stays as it is.

        Raises:
            NotThere: there is no such key.
        """
        with changing(self._database, actor, self._wall_s) as change:
            row = self._row(change.connection, key)
            if row.revoked_at:
                return key_record(row, change.at_s)
            return self._write(change, "key.revoke", row, {"revoked_at": change.at_s})

    def get(self, key: str) -> Key:
        """
        Raises:
            NotThere: there is no such key.
        """
        with self._database.read() as connection:
            return key_record(self._row(connection, key), self._wall_s())

    def list(self, wanted: KeyFilter = ANY, after: str = "", limit: int | None = None) -> builtins.list[Key]:
        """By organisation and name; `after`: id of the last one of the page before.

        Raises:
            NotThere: there is no key `after`.
        """
        now_s = self._wall_s()
        order = [func.coalesce(keys.c.organisation, ""), keys.c.name, keys.c.id]
        query = _where(select(keys), wanted, now_s).order_by(*order).limit(min(limit or MAX_PAGE, MAX_PAGE))
        with self._database.read() as connection:
            if after:
                last = self._row(connection, after)
                query = query.where(later(order, (last.organisation or "", last.name, last.id)))
            return [key_record(row, now_s) for row in connection.execute(query)]

    def every(self, wanted: KeyFilter = ANY) -> Iterator[Key]:
        """All pages."""
        page = self.list(wanted)
        yield from page
        while len(page) == MAX_PAGE:
            page = self.list(wanted, page[-1].id)
            yield from page

    def _add(self, change: Change, values: Values) -> NewKey:
        text = new_key()
        salt = change.connection.scalars(select(made_once.c.value).where(made_once.c.name == SALT)).one()
        identity = key_id(text)
        change.connection.execute(
            insert(keys).values(
                **values,
                **change.stamps(created=True),
                id=identity,
                digest=digest_of(text, salt),
                created_by=change.actor.name,
            )
        )
        record = key_record(self._row(change.connection, identity), change.at_s)
        change.done(Event("key.create", identity, record.organisation or "", None, for_audit(record)))
        return NewKey(text, record)

    def _write(self, change: Change, action: str, row: Row[Any], values: Values) -> Key:
        change.connection.execute(update(keys).where(keys.c.id == row.id).values(**values, **change.stamps()))
        old = key_record(row, change.at_s)
        new = key_record(self._row(change.connection, row.id), change.at_s)
        change.done(Event(action, row.id, new.organisation or "", *differing(old, new)))
        return new

    def _usable(self, change: Change, key: str, what: str) -> Row[Any]:
        row = self._row(change.connection, key)
        if row.revoked_at:
            raise Invalid(f"the key {row.id} was revoked at {utc(row.revoked_at)} and cannot be {what}: make a new one")
        return row

    def _not_replaced(self, row: Row[Any], do: str) -> None:
        """What is left of its grace is never made longer."""
        if row.replaced_by:
            raise Invalid(f"the key {row.id} was replaced by {row.replaced_by} already: {do} that one")

    def _row(self, connection: Connection, key: str) -> Row[Any]:
        identity = key_id(key)
        if len(identity) == 12 and identity.isascii() and identity.isalnum():
            row = connection.execute(select(keys).where(keys.c.id == identity)).one_or_none()
            if row is not None:
                return row
            raise NotThere(f"there is no key {identity}")
        raise NotThere("there is no such key: name it by its id, 12 hex digits, which stand in the key after sk-hr-")

    def _check(self, change: Change, values: Values, row: Row[Any] | None = None) -> None:
        """What a key says of others has to be there; `row`: what it is so far.

        Raises:
            NotThere, Taken, Invalid: it is not.
        """
        organisation = values["organisation"] or ""
        for table, word, column in ((teams, "team", "team"), (service_accounts, "service account", "service_account")):
            if name := values[column]:
                if not organisation:
                    raise Invalid(f"{column}: a key of no organisation has none")
                require(change.connection, table, word, name, organisation)
        if values.get("role") and (values["team"] or values.get("deployments") or values.get("sensitivity")):
            raise Invalid("team, deployments and sensitivity are for model calls, and a key with a role makes none")
        if (row is None or row.expires_at != values["expires_at"]) and 0 < values["expires_at"] <= change.at_s:
            raise Invalid(f"expires: {utc(values['expires_at'])} has passed; to end a key, revoke it")
        if row is None or row.name != values["name"]:
            self._check_name(change.connection, organisation, values["name"])

    def _check_name(self, connection: Connection, organisation: str, name: str) -> None:
        same = and_(_of(organisation), keys.c.name == name)
        current = and_(keys.c.revoked_at == 0, keys.c.replaced_by == "")
        other = connection.scalar(select(keys.c.id).where(same, current))
        if other is not None:
            within = f" in the organisation {organisation!r}" if organisation else ""
            raise Taken(
                f"there is a key {name!r} already{within}, with the id {other}: rotate that one, or take another name"
            )


def _of(organisation: str) -> ColumnElement[bool]:
    return keys.c.organisation == askable(organisation) if organisation else keys.c.organisation.is_(None)


def _where(query: Select[Any], wanted: KeyFilter, now_s: float) -> Select[Any]:
    if wanted.organisation is not None:
        query = query.where(_of(wanted.organisation))
    for name in ("team", "service_account", "name", "replaced_by"):
        if value := getattr(wanted, name):
            query = query.where(keys.c[name] == askable(value))
    if wanted.role is not None:
        query = query.where(keys.c.role == wanted.role)
    over = and_(keys.c.expires_at > 0, keys.c.expires_at <= now_s)
    states = {
        "active": and_(keys.c.revoked_at == 0, or_(keys.c.expires_at == 0, keys.c.expires_at > now_s)),
        "expired": and_(keys.c.revoked_at == 0, over),
        "revoked": keys.c.revoked_at > 0,
    }
    return query.where(states[wanted.state]) if wanted.state else query
