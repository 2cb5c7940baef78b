"""Routes of keys. A key itself is in the answer that made it, and nowhere else ever."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from fastapi import FastAPI, Path, Query, Response
from pydantic import BaseModel, Field

from gateway.config.base import Section
from gateway.database import Database
from gateway.directory.api_keys import MAX_GRACE_S, KeyFilter
from gateway.directory.records import Key, NewKey
from gateway.directory.roles import Role
from gateway.directory.specs import KeySettings, KeySpec
from gateway.directory.store import Directory
from gateway.errors import Forbidden
from gateway.office.api.access import Actor
from gateway.office.api.groups import PAGE, Limit, Of, Owner, Reader, next_of
from gateway.office.api.shapes import body, gives, takes, told
from gateway.office.api.state import OfficeState

_ID = r"^[0-9a-f]{12}$"
KeyId = Annotated[str, Path(pattern=_ID, description="Its public id, 12 hex digits, which stand in it after `sk-hr-`")]


class Rotation(Section):
    """How a key is replaced."""

    grace_s: float = Field(default=86_400.0, ge=0, le=MAX_GRACE_S)
    """How long the old key goes on; 0: it ends now."""


class KeyList(msgspec.Struct):
    """`more`: what to give as `after` for the next page; null: this was the last."""

    data: list[Key]
    more: str | None = None


MODELS: tuple[type[BaseModel], ...] = (KeySpec, KeySettings, Rotation)
STRUCTS: tuple[type[msgspec.Struct], ...] = (Key, NewKey, KeyList)


def add_routes(api: FastAPI, state: OfficeState) -> None:
    _add_reading(api, state)
    _add_changing(api, state)


def _add_reading(api: FastAPI, state: OfficeState) -> None:
    @api.get("/keys", tags=["keys"], responses=gives(KeyList, "By organisation and name"), response_class=Response)
    async def list_keys(
        actor: Reader,
        organisation: Of = None,
        team: Of = None,
        service_account: Of = None,
        name: Of = None,
        role: Role | None = None,
        key_state: Annotated[Literal["active", "expired", "revoked"] | None, Query(alias="state")] = None,
        after: Annotated[str, Query(pattern=r"^(?:[0-9a-f]{12})?$")] = "",
        limit: Limit = PAGE,
    ) -> Response:
        """Keys, without the keys themselves."""
        wanted = KeyFilter(
            actor.within(organisation), team or "", service_account or "", name or "", role, key_state or ""
        )
        found = await state.work(_page, actor, wanted, after, limit)
        return told(KeyList(found, next_of(found, limit, "id")))

    @api.get("/keys/{key_id}", tags=["keys"], responses=gives(Key, "As it is now"), response_class=Response)
    async def get_key(actor: Reader, key_id: KeyId) -> Response:
        """One of them."""
        return told(await state.work(_seen, actor, key_id))


def _add_changing(api: FastAPI, state: OfficeState) -> None:
    made = gives(NewKey, "Made; `key` is shown this once", 201)
    one = gives(Key, "As it is now")

    @api.post(
        "/keys", tags=["keys"], status_code=201, responses=made, openapi_extra=takes(KeySpec), response_class=Response
    )
    async def create_key(actor: Owner, spec: Annotated[KeySpec, body(KeySpec)]) -> Response:
        """Make a key. With a role it is for this API alone, and only an admin makes it."""
        if actor.own is not None:
            actor.within(spec.organisation)
            _must_be_plain(actor, spec.role, "make")
            _must_keep_class(actor, spec.sensitivity, "")
        return told(await state.work(lambda db: Directory(db).keys.create(actor.audited, spec)), 201)

    @api.patch(
        "/keys/{key_id}", tags=["keys"], responses=one, openapi_extra=takes(KeySettings), response_class=Response
    )
    async def update_key(actor: Owner, key_id: KeyId, settings: Annotated[KeySettings, body(KeySettings)]) -> Response:
        """Change what is given; null takes a setting back to its default. In force everywhere within a second."""
        return told(await state.work(_updated, actor, key_id, settings))

    @api.post(
        "/keys/{key_id}/rotate",
        tags=["keys"],
        status_code=201,
        responses=made,
        openapi_extra=takes(Rotation),
        response_class=Response,
    )
    async def rotate_key(actor: Owner, key_id: KeyId, rotation: Annotated[Rotation, body(Rotation)]) -> Response:
        """Make a key that may do the same. The old one goes on for `grace_s`, so that nobody is cut off."""
        return told(await state.work(_rotated, actor, key_id, rotation.grace_s), 201)

    @api.post("/keys/{key_id}/revoke", tags=["keys"], responses=one, response_class=Response)
    async def revoke_key(actor: Owner, key_id: KeyId) -> Response:
        """End a key for good. It works nowhere any more within a second."""
        return told(await state.work(_revoked, actor, key_id))


def _page(database: Database, actor: Actor, wanted: KeyFilter, after: str, limit: int) -> list[Key]:
    if after:
        _seen(database, actor, after)
    return Directory(database).keys.list(wanted, after, limit)


def _seen(database: Database, actor: Actor, key_id: str) -> Key:
    """Raises NotFound: there is none, or it is another organisation's, which is the same."""
    key = Directory(database).keys.get(key_id)
    actor.must_see(key.organisation or "", f"key {key_id}")
    return key


def _updated(database: Database, actor: Actor, key_id: str, settings: KeySettings) -> Key:
    key = _seen(database, actor, key_id)
    _must_be_plain(actor, key.role, "change")
    if "sensitivity" in settings.model_fields_set:
        _must_keep_class(actor, settings.sensitivity, key.sensitivity)
    return Directory(database).keys.update(actor.audited, key_id, settings)


def _rotated(database: Database, actor: Actor, key_id: str, grace_s: float) -> NewKey:
    key = _seen(database, actor, key_id)
    if key_id != actor.key_id:
        _must_be_plain(actor, key.role, "replace")
    return Directory(database).keys.rotate(actor.audited, key_id, grace_s)


def _revoked(database: Database, actor: Actor, key_id: str) -> Key:
    _seen(database, actor, key_id)
    return Directory(database).keys.revoke(actor.audited, key_id)


def _must_be_plain(actor: Actor, role: str, what: str) -> None:
    """Whoever could make or lengthen keys with a role would have that role for as long as it likes."""
    if role and actor.role is not Role.ADMIN:
        raise Forbidden(f"Only an admin may {what} a key with the role {role}.", code="role_not_allowed")


def _must_keep_class(actor: Actor, wanted: str | None, present: str) -> None:
    """Where requests may go is not for those to say whose requests they are."""
    if actor.own is not None and (wanted or "") != present:
        raise Forbidden("Only an admin may set the `sensitivity` of a key.", code="role_not_allowed")
