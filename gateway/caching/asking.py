"""The seam between the pipeline and the response cache."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol

import msgspec

from cache.asked import Question
from gateway.catalog import Deployment
from gateway.http import Request, Sink
from gateway.identity import Caller
from gateway.record import Record
from gateway.residency import Clearance
from gateway.wire import Call

EVERYBODY: Final = "*"
"""In place of a tenant: of answers that several were given."""

Make = Callable[[Sink], Awaitable[None]]
"""Has an engine answer into a sink."""


class Asking(NamedTuple):
    """A call that may be answered from the cache. sink: where the answer is to go."""

    caller: Caller
    call: Call
    deployment: Deployment
    clearance: Clearance
    request: Request
    sink: Sink
    record: Record


class Place(msgspec.Struct, frozen=True):
    """question: its keys hold whom it belongs to. tenant: of its answers; cohort: what shares a bound with them."""

    question: Question
    tenant: str
    cohort: str


def cohort_of(tenant: str, deployment: str) -> str:
    """What shares a bound on wrong answers. Both names may hold slashes; no name holds a percent sign."""
    return f"{tenant.replace('/', '%2F')}/{deployment}"


def names_in(cohort: str) -> tuple[str, str]:
    """The tenant and the deployment of a cohort."""
    tenant, _, deployment = cohort.partition("/")
    return tenant.replace("%2F", "/"), deployment


class Cache(Protocol):
    async def serve(self, asking: Asking, make: Make) -> None:
        """Answer a call from what is kept, or have an engine answer it.

        Raises:
            ApiError: there is no answer, and nothing but comments was sent.
        """
