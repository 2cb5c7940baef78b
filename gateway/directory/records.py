"""Organisations, teams, service accounts and keys: as people and the admin API read them, and as tables keep them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
from sqlalchemy import Row, Table

from gateway.config.limit_options import LimitOptions
from gateway.directory.audit import utc
from gateway.directory.entries import NO_LIMITS, Limits
from gateway.directory.problems import Invalid
from gateway.directory.specs import MAX_METADATA_BYTES, Described

NANO = 10**9
Values = dict[str, Any]
"""What columns of a table get."""
Shown = dict[str, int | str]
"""Limits in the configuration's words: money in USD, as text."""
_KNOWN_OTHERWISE = ("created_at", "created_by", "updated_at", "state")
Metadata = dict[str, str | int | float | bool]


class Organisation(msgspec.Struct, frozen=True, kw_only=True):
    """Instants here and below are in ISO 8601, UTC."""

    name: str
    limits: Shown
    weight: float
    priority: int
    when_store_lost: str
    log_content: float
    disabled: bool
    metadata: Metadata
    created_at: str
    updated_at: str


class Team(msgspec.Struct, frozen=True, kw_only=True):
    organisation: str
    name: str
    limits: Shown
    disabled: bool
    metadata: Metadata
    created_at: str
    updated_at: str


class ServiceAccount(msgspec.Struct, frozen=True, kw_only=True):
    organisation: str
    name: str
    description: str
    disabled: bool
    metadata: Metadata
    created_at: str
    updated_at: str


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """All but the key itself, which nobody has kept.

    state:       active, expired or revoked; also active while its organisation, team or service account is disabled.
    deployments: null: all. replaced_by: id of the key that was made of it by `rotate`.
    """

    id: str
    name: str
    organisation: str | None
    team: str | None
    service_account: str | None
    role: str
    state: str
    deployments: list[str] | None
    networks: list[str]
    limits: Shown
    sensitivity: str
    metadata: Metadata
    expires_at: str | None
    revoked_at: str | None
    replaced_by: str | None
    created_by: str
    created_at: str
    updated_at: str


class NewKey(msgspec.Struct, frozen=True):
    """A key that was made just now: `key` is shown once, and kept by nobody."""

    key: str
    record: Key

    def __repr__(self) -> str:
        return f"NewKey(key=**********, record={self.record!r})"


def organisation_record(row: Row[Any], _now_s: float) -> Organisation:
    return Organisation(
        **_common(row),
        weight=row.weight,
        priority=row.priority,
        when_store_lost=row.when_store_lost,
        log_content=row.log_content,
        limits=shown_limits(row.limits),
        disabled=row.disabled,
    )


def team_record(row: Row[Any], _now_s: float) -> Team:
    return Team(**_common(row), organisation=row.organisation, limits=shown_limits(row.limits), disabled=row.disabled)


def service_account_record(row: Row[Any], _now_s: float) -> ServiceAccount:
    return ServiceAccount(
        **_common(row), organisation=row.organisation, description=row.description, disabled=row.disabled
    )


def key_record(row: Row[Any], now_s: float) -> Key:
    state = "expired" if 0 < row.expires_at <= now_s else "active"
    return Key(
        **_common(row),
        id=row.id,
        organisation=row.organisation,
        team=row.team,
        service_account=row.service_account,
        role=row.role,
        state="revoked" if row.revoked_at else state,
        deployments=None if row.deployments is None else json.loads(row.deployments),
        networks=json.loads(row.networks),
        limits=shown_limits(row.limits),
        sensitivity=row.sensitivity,
        expires_at=_instant(row.expires_at),
        revoked_at=_instant(row.revoked_at),
        replaced_by=row.replaced_by or None,
        created_by=row.created_by,
    )


def _common(row: Row[Any]) -> Values:
    return {
        "name": row.name,
        "metadata": json.loads(row.metadata),
        "created_at": utc(row.created_at),
        "updated_at": utc(row.updated_at),
    }


def _instant(at_s: float) -> str | None:
    return utc(at_s) if at_s else None


def for_audit(record: msgspec.Struct) -> dict[str, object]:
    """A record without what says nothing of who wanted what."""
    found: dict[str, object] = msgspec.to_builtins(record)
    return {name: value for name, value in found.items() if name not in _KNOWN_OTHERWISE}


def differing(before: msgspec.Struct, after: msgspec.Struct) -> tuple[dict[str, object], dict[str, object]]:
    """What changed, as it was and as it is."""
    old, new = for_audit(before), for_audit(after)
    changed = [name for name in new if old[name] != new[name]]
    return {name: old[name] for name in changed}, {name: new[name] for name in changed}


def values_of(settings: Described, table: Table, old: Mapping[str, Any]) -> Values:
    """What the columns get of what was given; `old`: what is in those that are changed in part."""
    values: Values = {}
    for name in settings.model_fields_set & set(_COLUMNS):
        values |= _COLUMNS[name](getattr(settings, name), old)
    for name in settings.model_fields_set - set(_COLUMNS):
        value, column = getattr(settings, name), table.c[name]
        values[name] = column.default.arg if value is None and column.default is not None else value  # type: ignore[attr-defined]
    return values


def changed(values: Values, old: Mapping[str, Any]) -> Values:
    """Those that are not so already."""
    return {name: value for name, value in values.items() if old[name] != value}


def _limits(given: LimitOptions | None, old: Mapping[str, Any]) -> Values:
    found: Values = {} if given is None else json.loads(old.get("limits", "{}"))
    for name in given.model_fields_set if given is not None else ():
        value = getattr(given, name)
        kept = name.replace("usd_", "nano_usd_")
        found[kept] = int(value * NANO) if isinstance(value, Decimal) else value
    return {"limits": _without_nulls(found)}


def _metadata(given: Metadata | None, old: Mapping[str, Any]) -> Values:
    found: Values = {} if given is None else json.loads(old.get("metadata", "{}")) | given
    text = _without_nulls(found)
    if len(text) > MAX_METADATA_BYTES:
        raise Invalid(f"metadata would have {len(text):,} bytes in JSON; at most {MAX_METADATA_BYTES:,} are kept")
    return {"metadata": text}


def _without_nulls(found: Values) -> str:
    return json.dumps({name: value for name, value in found.items() if value is not None}, sort_keys=True)


def _deployments(given: list[str] | None, _old: Mapping[str, Any]) -> Values:
    return {"deployments": None if given is None else json.dumps(given)}


def _networks(given: list[str] | None, _old: Mapping[str, Any]) -> Values:
    return {"networks": json.dumps(given or [])}


def _expires(given: datetime | None, _old: Mapping[str, Any]) -> Values:
    return {"expires_at": given.timestamp() if given is not None else 0.0}


_COLUMNS: dict[str, Callable[[Any, Mapping[str, Any]], Values]] = {
    "limits": _limits,
    "metadata": _metadata,
    "deployments": _deployments,
    "networks": _networks,
    "expires": _expires,
}
"""Settings that are not kept as they are given."""


def kept_limits(text: str) -> Limits:
    """What a column of limits holds, as workers know it."""
    return NO_LIMITS if text == "{}" else Limits(**json.loads(text))


def shown_limits(text: str) -> Shown:
    """In the order of the configuration's reference."""
    kept = json.loads(text)
    return {
        name.removeprefix("nano_"): _usd(kept[name]) if name.startswith("nano_") else kept[name]
        for name in Limits.__struct_fields__
        if name in kept
    }


def _usd(nano: int) -> str:
    return f"{(Decimal(nano) / NANO).normalize():f}"
