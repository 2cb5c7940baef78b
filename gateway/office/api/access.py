"""Who uses the admin API, and what their role lets them do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import Depends, Request

from gateway.directory import audit
from gateway.directory.roles import Role
from gateway.errors import Forbidden, NotFound

OPEN = frozenset({"/health/live", "/docs", "/openapi.json"})
"""Paths that need no key: they tell nothing of this installation."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who sent a request of the admin API.

    name:         of the key, or of the holder of the token; it stands in the audit log.
    organisation: that the key belongs to.
    key_id:       public id of the key; empty: it was a token.
    address:      where the request came from. request_id: as in the logs.
    """

    name: str
    role: Role
    organisation: str
    key_id: str
    address: str
    request_id: str

    @property
    def audited(self) -> audit.Actor:
        """As it stands in the audit log."""
        return audit.Actor(self.name, self.address, self.request_id)

    @property
    def own(self) -> str | None:
        """The only organisation whose objects are there for this one; None: all are."""
        return self.organisation if self.role is Role.TENANT_ADMIN else None

    def within(self, organisation: str | None) -> str | None:
        """The organisation to filter by, where `organisation` was asked for; None: by none.

        Raises:
            NotFound: it is another's.
        """
        if self.own is None:
            return organisation
        if organisation is not None:
            self.must_see(organisation, f"organisation {organisation!r}")
        return self.own

    def must_see(self, organisation: str, what: str) -> None:
        """Others' objects are not there at all.

        Raises:
            NotFound: `what` belongs to an organisation that this one may not see.
        """
        if self.own is not None and organisation != self.own:
            raise NotFound(f"There is no {what}.")


def needs(*roles: Role) -> Any:
    """For `Annotated[Actor, needs(Role.ADMIN, ...)]`: whoever sent the request, if it has one of these roles.

    The parameter's request is refused with 403 otherwise. Without a valid key no route is reached at all.
    """
    allowed = frozenset(roles)
    named = " or ".join(roles)

    def actor_of(request: Request) -> Actor:
        actor: Actor = request.scope["actor"]
        if actor.role not in allowed:
            message = f"{request.method} {request.scope['path'][:200]} needs the role {named}; yours is {actor.role}."
            raise Forbidden(message, code="role_not_allowed")
        return actor

    return Depends(actor_of)
