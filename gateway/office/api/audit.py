"""Routes of the audit log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from fastapi import Depends, FastAPI, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, BaseModel

from gateway.database import Database
from gateway.directory.audit import Anchor, AuditEntry, AuditFilter, AuditLog, Verdict
from gateway.directory.roles import Role
from gateway.errors import InvalidRequest
from gateway.office.api.access import Actor, needs
from gateway.office.api.groups import MAX_PAGE, PAGE, Limit, Of, Reader
from gateway.office.api.shapes import gives, told
from gateway.office.api.state import OfficeState

Text = Annotated[str, Query(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")]
Seer = Annotated[Actor, needs(Role.ADMIN, Role.VIEWER)]


class AuditList(msgspec.Struct):
    """`more`: what to give as `before` for the next page; null: this was the last."""

    data: list[AuditEntry]
    more: int | None = None


MODELS: tuple[type[BaseModel], ...] = ()
STRUCTS: tuple[type[msgspec.Struct], ...] = (AuditEntry, AuditList, Verdict)


def _wanted(
    actor: Reader,
    organisation: Of = None,
    by: Annotated[str, Query(max_length=256, alias="actor", pattern=r"^[^\x00-\x1f\x7f]*$")] = "",
    action: Text = "",
    subject: Text = "",
    since: Annotated[AwareDatetime | None, Query(alias="from")] = None,
    until: Annotated[AwareDatetime | None, Query(alias="to")] = None,
) -> AuditFilter:
    return AuditFilter(
        organisation=actor.within(organisation),
        actor=by,
        action=action,
        subject=subject,
        since=since,
        until=until,
    )


Wanted = Annotated[AuditFilter, Depends(_wanted)]


def add_routes(api: FastAPI, state: OfficeState) -> None:
    @api.get("/audit", tags=["audit"], responses=gives(AuditList, "The newest first"), response_class=Response)
    async def list_audit(
        wanted: Wanted, before: Annotated[int | None, Query(ge=1, le=2**53)] = None, limit: Limit = PAGE
    ) -> Response:
        """Who changed what, and when. `from` is included, `to` is not; both need a zone."""
        found = await state.work(lambda db: AuditLog(db).list(wanted, before, limit))
        return told(AuditList(found, found[-1].seq if len(found) == limit else None))

    @api.get(
        "/audit.jsonl",
        tags=["audit"],
        response_class=StreamingResponse,
        responses={200: {"description": "One entry a line", "content": {"application/jsonl": {}}}},
    )
    async def export_audit(wanted: Wanted) -> StreamingResponse:
        """All of it, one entry a line, the newest first."""
        first = await state.work(_page, wanted)
        return StreamingResponse(_lines(state, wanted, first), media_type="application/jsonl")

    @api.get("/audit/verify", tags=["audit"], responses=gives(Verdict, "What was found"), response_class=Response)
    async def verify_audit(
        _actor: Seer,
        seq: Annotated[int | None, Query(ge=1, le=2**53)] = None,
        noted: Annotated[str | None, Query(alias="hash", pattern=r"^[0-9a-f]{64}$")] = None,
    ) -> Response:
        """Whether any entry was changed or taken out. `seq` and `hash`: of an entry that you noted earlier."""
        if (seq is None) != (noted is None):
            raise InvalidRequest("seq and hash go together: the number of an entry and the hash that it had.")
        anchor = Anchor(seq, noted) if seq is not None and noted is not None else None
        return told(await state.work(lambda db: AuditLog(db).verify(anchor)))


async def _lines(state: OfficeState, wanted: AuditFilter, page: list[AuditEntry]) -> AsyncIterator[bytes]:
    while page:
        yield b"".join(msgspec.json.encode(entry) + b"\n" for entry in page)
        last = page[-1].seq
        page = await state.work(_page, wanted, last)


def _page(database: Database, wanted: AuditFilter, before: int | None = None) -> list[AuditEntry]:
    return AuditLog(database).list(wanted, before, MAX_PAGE)
