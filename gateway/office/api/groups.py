"""Routes of organisations, their teams and their service accounts.

Names may hold a slash, so each stands at the end of its path, and the organisation of a team in the query.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Path, Query, Response
from pydantic import BaseModel

from gateway.database import Database
from gateway.directory.records import Organisation, ServiceAccount, Team
from gateway.directory.roles import Role
from gateway.directory.specs import (
    OrganisationSettings,
    OrganisationSpec,
    ServiceAccountSettings,
    ServiceAccountSpec,
    TeamSettings,
    TeamSpec,
)
from gateway.directory.store import Directory
from gateway.errors import InvalidRequest
from gateway.office.api.access import Actor, needs
from gateway.office.api.shapes import body, gives, takes, told
from gateway.office.api.state import OfficeState

NAME = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$"
PAGE = 100
MAX_PAGE = 1000

Named = Annotated[str, Path(max_length=128, pattern=NAME)]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
After = Annotated[str, Query(max_length=128, pattern=NAME.replace("^", "^(?:").replace("$", ")?$"))]
Of = Annotated[str | None, Query(max_length=128, pattern=NAME)]
Reader = Annotated[Actor, needs(Role.ADMIN, Role.VIEWER, Role.TENANT_ADMIN)]
Owner = Annotated[Actor, needs(Role.ADMIN, Role.TENANT_ADMIN)]
Admin = Annotated[Actor, needs(Role.ADMIN)]


class OrganisationList(msgspec.Struct):
    """`more`: what to give as `after` for the next page; null: this was the last."""

    data: list[Organisation]
    more: str | None = None


class TeamList(msgspec.Struct):
    data: list[Team]
    more: str | None = None


class ServiceAccountList(msgspec.Struct):
    data: list[ServiceAccount]
    more: str | None = None


MODELS: tuple[type[BaseModel], ...] = (
    *(OrganisationSpec, OrganisationSettings, TeamSpec, TeamSettings),
    *(ServiceAccountSpec, ServiceAccountSettings),
)
STRUCTS: tuple[type[msgspec.Struct], ...] = (
    *(Organisation, OrganisationList, Team, TeamList, ServiceAccount, ServiceAccountList),
)


def add_routes(api: FastAPI, state: OfficeState) -> None:
    _add_organisations(api, state)
    _add_parts(api, state, "teams", (Team, TeamList), (TeamSpec, TeamSettings))
    _add_parts(
        *(api, state, "service-accounts", (ServiceAccount, ServiceAccountList)),
        (ServiceAccountSpec, ServiceAccountSettings),
    )


def next_of(data: list[Any], limit: int, name: str = "name") -> str | None:
    return getattr(data[-1], name) if len(data) == limit else None


def _add_organisations(api: FastAPI, state: OfficeState) -> None:
    listed = gives(OrganisationList, "By name")
    one = gives(Organisation, "As it is now")

    @api.get("/organisations", tags=["organisations"], responses=listed, response_class=Response)
    async def list_organisations(actor: Reader, after: After = "", limit: Limit = PAGE) -> Response:
        """Who is charged; callers and usage know them as tenants."""
        if actor.own is not None:
            own = await state.work(lambda db: Directory(db).organisations.get(actor.organisation))
            return told(OrganisationList([own]))
        found = await state.work(lambda db: Directory(db).organisations.list(after=("", after), limit=limit))
        return told(OrganisationList(found, next_of(found, limit)))

    @api.post(
        "/organisations",
        tags=["organisations"],
        status_code=201,
        responses=gives(Organisation, "Made", 201),
        openapi_extra=takes(OrganisationSpec),
        response_class=Response,
    )
    async def create_organisation(actor: Admin, spec: Annotated[OrganisationSpec, body(OrganisationSpec)]) -> Response:
        """Make one."""
        made = await state.work(lambda db: Directory(db).organisations.create(actor.audited, spec))
        return told(made, 201)

    @api.get("/organisations/{name:path}", tags=["organisations"], responses=one, response_class=Response)
    async def get_organisation(actor: Reader, name: Named) -> Response:
        """One of them."""
        actor.must_see(name, f"organisation {name!r}")
        return told(await state.work(lambda db: Directory(db).organisations.get(name)))

    @api.patch(
        "/organisations/{name:path}",
        tags=["organisations"],
        responses=one,
        openapi_extra=takes(OrganisationSettings),
        response_class=Response,
    )
    async def update_organisation(
        actor: Admin, name: Named, settings: Annotated[OrganisationSettings, body(OrganisationSettings)]
    ) -> Response:
        """Change what is given; null takes a setting back to its default. `disabled` refuses all of its keys."""
        return told(await state.work(lambda db: Directory(db).organisations.update(actor.audited, name, settings)))


def _add_parts(
    api: FastAPI,
    state: OfficeState,
    path: str,
    shapes: tuple[type[msgspec.Struct], type[msgspec.Struct]],
    bodies: tuple[type[BaseModel], type[BaseModel]],
) -> None:
    """Parts of organisations that differ in nothing but their settings."""
    record, records = shapes
    spec_kind, settings_kind = bodies
    spec_body, settings_body = map(body, bodies)
    word, attribute = path.replace("-", " "), path.replace("-", "_")

    def parts(database: Database) -> Any:
        return getattr(Directory(database), attribute)

    async def list_parts(actor: Reader, organisation: Of = None, after: After = "", limit: Limit = PAGE) -> Response:
        of = _organisation(actor, organisation)
        found = await state.work(lambda db: parts(db).list(of, (of, after), limit))
        return told(records(found, next_of(found, limit)))

    async def create_part(actor: Owner, organisation: Of = None, spec: Any = spec_body) -> Response:
        of = _organisation(actor, organisation)
        return told(await state.work(lambda db: parts(db).create(actor.audited, spec, of)), 201)

    async def get_part(actor: Reader, name: Named, organisation: Of = None) -> Response:
        of = _organisation(actor, organisation)
        return told(await state.work(lambda db: parts(db).get(name, of)))

    async def update_part(actor: Owner, name: Named, organisation: Of = None, change: Any = settings_body) -> Response:
        of = _organisation(actor, organisation)
        return told(await state.work(lambda db: parts(db).update(actor.audited, name, change, of)))

    def add(method: str, at: str, endpoint: Any, doc: str, **extra: Any) -> None:
        api.add_api_route(
            *(at, endpoint),
            methods=[method],
            tags=[word],
            summary=doc,
            description=doc,
            name=f"{method.lower()}_{at.strip('/').partition('/')[0]}{'_one' if 'name' in at else ''}",
            response_class=Response,
            **extra,
        )

    one = gives(record, "As it is now")
    add("GET", f"/{path}", list_parts, f"The {word} of an organisation", responses=gives(records, "By name"))
    add(
        *("POST", f"/{path}", create_part, f"Make one of the {word}"),
        responses=gives(record, "Made", 201),
        status_code=201,
        openapi_extra=takes(spec_kind),
    )
    add("GET", f"/{path}/{{name:path}}", get_part, f"One of the {word}", responses=one)
    add(
        *("PATCH", f"/{path}/{{name:path}}", update_part, "Change what is given; `disabled` refuses all of its keys"),
        responses=one,
        openapi_extra=takes(settings_kind),
    )


def _organisation(actor: Actor, given: str | None) -> str:
    """Whose part it is.

    Raises:
        NotFound: one that this actor may not see. InvalidRequest: nobody said.
    """
    of = actor.within(given)
    if of is None:
        raise InvalidRequest("organisation is missing: say whose it is, `?organisation=NAME`.", param="organisation")
    return of
