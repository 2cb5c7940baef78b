"""Organisations, teams and keys as every worker knows them. The wire form is msgpack."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, array_like=True):
    """See `gateway.config.limit_options.LimitOptions`. Money is in billionths of a US dollar."""

    requests_per_minute: int | None = None
    requests_per_day: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    parallel: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    nano_usd_per_day: int | None = None
    nano_usd_per_month: int | None = None
    nano_usd_per_day_soft: int | None = None
    nano_usd_per_month_soft: int | None = None


NO_LIMITS = Limits()


class OrganisationEntry(msgspec.Struct, frozen=True, array_like=True):
    """Who is charged; callers know it as the tenant."""

    name: str
    limits: Limits = NO_LIMITS
    weight: float = 1.0
    priority: int = 0
    when_store_lost: str = "slice"
    log_content: float = 0.0
    disabled: bool = False


class TeamEntry(msgspec.Struct, frozen=True, array_like=True):
    organisation: str
    name: str
    limits: Limits = NO_LIMITS
    disabled: bool = False


class KeyEntry(msgspec.Struct, frozen=True, array_like=True):
    """A key that may be used.

    id:          public, 12 hex digits. digest: salted SHA-256 of the key, 32 bytes.
    team:        empty: it belongs to the organisation alone.
    role:        of the admin API; empty: the key is for model calls.
    deployments: names that it may call; None: all.
    networks:    in CIDR, from which it may come; empty: from anywhere.
    expires_at:  Unix time in seconds; 0.0: never.
    service_account: whose it is; empty: a person's.
    """

    id: str
    digest: bytes
    name: str
    organisation: str
    team: str = ""
    role: str = ""
    deployments: list[str] | None = None
    networks: list[str] = []
    expires_at: float = 0.0
    limits: Limits = NO_LIMITS
    sensitivity: str = ""
    service_account: str = ""


class Snapshot(msgspec.Struct, frozen=True, array_like=True):
    """All that is in use.

    seq:  the last change that it holds.
    salt: comes before a key under its digest.
    """

    seq: int
    salt: str
    organisations: list[OrganisationEntry]
    teams: list[TeamEntry]
    keys: list[KeyEntry]


class Changes(msgspec.Struct, frozen=True, array_like=True):
    """What became of a snapshot: each entry takes the place of the one of its name or id, if there was one.

    gone: ids of keys that are not in use any more: revoked, or their team or service account is disabled.
    """

    seq: int
    organisations: list[OrganisationEntry]
    teams: list[TeamEntry]
    keys: list[KeyEntry]
    gone: list[str]
