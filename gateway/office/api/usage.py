"""Routes that tell who used what, and what it cost. A tenant-admin's own organisation is all that there is for it."""

from __future__ import annotations

import datetime
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Response

from gateway.directory.roles import Role
from gateway.errors import InvalidRequest
from gateway.office.api.access import Actor, needs
from gateway.office.api.state import OfficeState
from gateway.usage.lookup import CallList, calls_of
from gateway.usage.report import By, Report, csv_of, report
from gateway.usage.report import Query as UsageQuery

WITHIN_S = 20.0
"""Longest that a report may take here: others wait for the same thread. `headrace usage` has more time."""

Reader = Annotated[Actor, needs(Role.ADMIN, Role.VIEWER, Role.TENANT_ADMIN)]
_Text = Annotated[str | None, Query(max_length=128)]


def _wanted(
    actor: Reader,
    by: Annotated[str, Query(max_length=128)] = "tenant",
    since: Annotated[datetime.date | None, Query(alias="from")] = None,
    until: Annotated[datetime.date | None, Query(alias="to")] = None,
    tenant: _Text = None,
    team: _Text = None,
    key: _Text = None,
    deployment: _Text = None,
) -> UsageQuery:
    return UsageQuery(_groups(by), since, until, actor.within(tenant), team, key, deployment)


Wanted = Annotated[UsageQuery, Depends(_wanted)]


def add_routes(api: FastAPI, state: OfficeState) -> None:
    @api.get("/usage", tags=["usage"], response_model_exclude_none=True)
    async def get_usage(query: Wanted) -> Report:
        """Calls, tokens and money, by day, month, tenant, team, key, deployment or variant, or several of these.

        `from` and `to` are days in UTC, both included. Money is exact, and text.
        """
        return await state.work(report, query, WITHIN_S)

    @api.get("/usage.csv", tags=["usage"], response_class=Response, responses={200: {"content": {"text/csv": {}}}})
    async def get_usage_csv(query: Wanted) -> Response:
        """The same as CSV with a head."""
        return Response(csv_of(await state.work(report, query, WITHIN_S)), media_type="text/csv; charset=utf-8")

    @api.get("/usage/calls", tags=["usage"])
    async def get_calls(actor: Reader, request_id: Annotated[str, Query(min_length=1, max_length=128)]) -> CallList:
        """What is kept of the calls with this `x-request-id`: one, unless a client gave the same id several times."""
        return await state.work(calls_of, request_id, actor.own)


def _groups(text: str) -> tuple[By, ...]:
    try:
        return tuple(dict.fromkeys(By(part.strip()) for part in text.split(",") if part.strip()))
    except ValueError:
        raise InvalidRequest(f"by is {text!r}; it takes {', '.join(By)}, several with commas.", param="by") from None
