"""Routes of the response cache: what it did, what it holds, what is wrong or has to go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Depends, FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field

from cache.entry import Selector
from gateway.api.openapi import ErrorAnswer
from gateway.caching.desk import Desk
from gateway.caching.feedback import Feedback, FeedbackTaken
from gateway.caching.report import CacheReport, EntryReport, Purge
from gateway.errors import InvalidRequest, NotFound
from gateway.identity import Caller

Identify = Callable[[Request], Awaitable[Caller]]


class PurgeWanted(BaseModel):
    """Entries that agree with all that is given."""

    model_config = ConfigDict(extra="forbid", strict=True)

    tenant: str | None = None
    deployment: str | None = None
    model: str | None = Field(None, description="As answers name it.")
    tag: str | None = None
    id: str | None = None
    before_epoch: int | None = Field(None, description="Of earlier epochs than this one.")
    everything: bool = Field(False, description="With nothing else given: all entries.")
    dry_run: bool = Field(False, description="Only say what would go.")

    def selector(self) -> Selector:
        """
        Raises:
            InvalidRequest: nothing is given, and not everything is meant.
        """
        given = self.model_dump(exclude={"everything", "dry_run"}, exclude_none=True)
        if bool(given) is self.everything:
            message = "Say what is to be purged: tenant, deployment, model, tag, id or before_epoch; or `everything`."
            raise InvalidRequest(message)
        return Selector(**given)


def add_cache_routes(
    api: FastAPI, desk: Callable[[], Desk | None], identify: Identify, identify_admin: Identify
) -> None:
    """desk: gives None where the cache is off. identify_admin: refuses keys that are not for administration."""
    refused: dict[int | str, dict[str, Any]] = {401: {"model": ErrorAnswer, "description": "No valid API key"}}
    unknown = refused | {404: {"model": ErrorAnswer, "description": "No such entry, or the cache is off"}}
    for_admins = unknown | {403: {"model": ErrorAnswer, "description": "The key is not for administration"}}

    def found() -> Desk:
        there = desk()
        if there is None:
            raise NotFound("The response cache is off; `cache.enabled` turns it on.", code="cache_off")
        return there

    async def known(request: Request) -> Caller:
        return await identify(request)

    async def admin(request: Request) -> Caller:
        return await identify_admin(request)

    # Asked before the body is looked at.
    with_key, with_admin_key = Depends(known), Depends(admin)

    async def give_feedback(entry_id: str, feedback: Feedback, caller: Caller = with_key) -> FeedbackTaken:
        """Say whether an answer from the cache fits what was asked. `entry_id` is that of `x-headrace-cache-id`.

        One that is wrong is not served any more, by no worker, nor is what was taken for the same answer. Takes a key
        of the tenant that owns the answer. One that all tenants share is kept from those that say so, and from all
        once two have said so.
        """
        return await found().feedback(caller, entry_id, wrong=feedback.wrong)

    for prefix in ("/v1", ""):
        path = f"{prefix}/cache/{{entry_id}}/feedback"
        api.post(path, tags=["cache"], include_in_schema=bool(prefix), responses=unknown)(give_feedback)

    @api.get("/admin/cache", tags=["cache"], responses=for_admins)
    async def get_cache(caller: Caller = with_admin_key) -> CacheReport:
        """What the response cache did and what it has learned, summed over all workers."""
        return await found().overall()

    @api.get("/admin/cache/entries/{entry_id}", tags=["cache"], responses=for_admins)
    async def get_entry(entry_id: str, caller: Caller = with_admin_key) -> EntryReport:
        """One entry. Its texts are only for keys of the tenant that owns it; others get their SHA-256."""
        return await found().inspect(entry_id, caller)

    @api.post("/admin/cache/purge", tags=["cache"], responses=for_admins)
    async def purge(wanted: PurgeWanted, caller: Caller = with_admin_key) -> Purge:
        """Forget entries, in every worker and in the store."""
        by = f"{caller.tenant}/{caller.key_name}"
        return await found().purge(wanted.selector(), by, dry_run=wanted.dry_run)
