"""Routes of pools."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI

from gateway.directory.roles import Role
from gateway.office.api.access import Actor, needs
from gateway.office.api.state import OfficeState
from gateway.pool_report import PoolList


def add_routes(api: FastAPI, state: OfficeState) -> None:
    @api.get("/pools", tags=["pools"])
    async def get_pools(_actor: Annotated[Actor, needs(Role.ADMIN, Role.OPERATOR, Role.VIEWER)]) -> PoolList:
        """Pools and their replicas, summed over all workers."""
        return await state.pools()
