"""What may be said of organisations, teams, service accounts and keys: by the command line, and as bodies of the API.

Each part of `…Settings` may be changed later. In a change what is not given stays; null takes it back to its default.
Limits and metadata are changed one by one in the same way (RFC 7396).
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field, model_validator

from gateway.config.base import Name, Section
from gateway.config.limit_options import LimitOptions

MAX_METADATA_BYTES = 4096
Role = Literal["", "admin", "operator", "viewer", "tenant-admin"]


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ValueError(f"not a network in CIDR notation like 10.0.0.0/8: {error}") from None


def _plain(text: str) -> str:
    """No control characters, invisible ones or halves of surrogates: it is shown on terminals and in headers."""
    if not text.isprintable():
        raise ValueError("it has characters that cannot be shown")
    return text


Network = Annotated[str, Field(max_length=64), AfterValidator(_network)]
Plain = Annotated[str, AfterValidator(_plain)]
Scalar = Annotated[Plain, Field(max_length=512)] | bool | int | float
Metadata = Annotated[dict[Annotated[Name, Field(max_length=64)], Scalar | None], Field(max_length=32)]


class Described(Section):
    """What all of them have."""

    metadata: Metadata | None = None
    """Anything of yours, at most 32 values and 4096 bytes."""


class Named(Described):
    """What is to be made, and has a name that never changes."""

    name: Name
    """Once among its like in an organisation. Callers and usage records know an organisation's as the tenant."""


class OrganisationSettings(Described):
    """Who is charged."""

    limits: LimitOptions | None = None
    """What all its keys may use together."""
    weight: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Its share of engines that are full, relative to others'; 1 unless given."""
    priority: Annotated[int, Field(ge=0, le=9)] | None = None
    """Its class in the queue; a lower one goes first; 0 unless given."""
    when_store_lost: Literal["open", "closed", "slice"] | None = None
    """While the store of the limits does not answer: `open` admits everything, `closed` nothing, `slice` the share of
    each worker, which is the default."""
    log_content: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of its calls whose prompts and answers are kept; 0 unless given."""
    disabled: bool | None = None
    """Whether its keys are refused."""


class TeamSettings(Described):
    """A part of an organisation."""

    limits: LimitOptions | None = None
    """What all its keys may use together."""
    disabled: bool | None = None
    """Whether its keys are refused."""


class ServiceAccountSettings(Described):
    """A program, or whatever else is no person and has keys."""

    description: Annotated[Plain, Field(max_length=512)] | None = None
    """What it is for."""
    disabled: bool | None = None
    """Whether its keys are refused."""


class KeySettings(Described):
    """What a key may do."""

    name: Name | None = None
    """Shown in logs in place of the key; once in an organisation."""
    team: Name | None = None
    """Of the organisation; none: the key belongs to the organisation alone."""
    service_account: Name | None = None
    """Whose it is; none: a person's."""
    deployments: Annotated[list[Name], Field(max_length=256)] | None = None
    """Deployments that it may call; none: all."""
    networks: Annotated[list[Network], Field(max_length=64)] | None = None
    """Networks in CIDR notation that it may be used from; empty: any."""
    expires: AwareDatetime | None = None
    """When it stops working; none: never."""
    limits: LimitOptions | None = None
    """What it may use."""
    sensitivity: Name | None = None
    """Sensitivity class of its requests; none: the default."""


class KeySpec(KeySettings):
    """A key that is to be made."""

    name: Name
    """Shown in logs in place of the key; once in an organisation."""
    organisation: Name | None = None
    """Who is charged. Needed, but for a role over all organisations."""
    role: Role = ""
    """Empty: for model calls. Else for the admin API alone: `admin`, `operator`, `viewer`, `tenant-admin`."""

    @model_validator(mode="after")
    def _consistent(self) -> KeySpec:
        if self.organisation is None and self.role in ("", "tenant-admin"):
            kind = "a key for model calls" if not self.role else "a tenant-admin"
            raise ValueError(f"organisation is missing: {kind} belongs to one")
        if self.organisation is not None and self.role in ("admin", "operator", "viewer"):
            raise ValueError(f"organisation: the role {self.role} is for all organisations; tenant-admin is for one")
        if self.role and (self.team or self.deployments or self.sensitivity):
            raise ValueError("team, deployments and sensitivity are for model calls, and a key with a role makes none")
        return self


class OrganisationSpec(OrganisationSettings, Named):
    """An organisation that is to be made."""


class TeamSpec(TeamSettings, Named):
    """A team that is to be made."""


class ServiceAccountSpec(ServiceAccountSettings, Named):
    """A service account that is to be made."""
