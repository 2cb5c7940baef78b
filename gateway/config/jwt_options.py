"""Who else may vouch for callers: issuers of JSON Web Tokens, such as an OpenID Connect provider."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.config.base import Name, Section, Url

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Asymmetric ones alone: with a symmetric one, whoever can check a token could make one."""
Role = Literal["admin", "operator", "viewer", "tenant-admin"]
Claim = str | list[str]
PUBLIC_ISSUERS = frozenset(
    {
        "https://accounts.google.com",
        "https://token.actions.githubusercontent.com",
        "https://gitlab.com",
        "https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0",
    }
)
"""They sign tokens for everybody in the world, some for any audience that is asked for."""


class JwtClaims(Section):
    """Which claims of a token say what. A list is a path into nested claims: `[kubernetes.io, namespace]`."""

    name: Claim = "sub"
    """Who it is, for logs and limits per key; shown after the name of the entry: `NAME/alice`."""
    tenant: Claim | None = None
    """Who is charged; a token without this claim is refused. None: `tenant` of the entry says it."""
    team: Claim | None = None
    """Which of the tenant's teams; a token without this claim belongs to none."""
    deployments: Claim | None = None
    """Which deployments may be called: a list, or names with spaces between them; a token without this claim may call
    none. None: `deployments` of the entry says it alone."""
    role: Claim | None = None
    """What `roles` looks at: a text or a list of them."""


class JwtIssuer(Section):
    """An issuer whose tokens are taken in place of keys. Its public keys are fetched in the background."""

    name: Name
    """For logs and metrics, and before the names of its callers."""
    issuer: Url
    """Exactly what its tokens have as `iss`."""
    audience: Annotated[list[str], Field(min_length=1, max_length=32)]
    """A token is taken if its `aud` has one of these. Tokens for another service must not open this one."""
    jwks_url: Url | None = None
    """Where its keys are; none: its `.well-known/openid-configuration` says it."""
    algorithms: Annotated[list[Algorithm], Field(min_length=1)] = ["RS256", "ES256", "EdDSA"]
    """Signatures that are taken."""
    require: dict[str, Annotated[list[str], Field(min_length=1)]] = {}
    """Claims that a token must have besides, each with one of these values. Issuers that vouch for everybody, such as
    Google, need it."""
    claims: JwtClaims = JwtClaims()
    """Which claims of a token say what."""
    tenant: Name | None = None
    """Who is charged for all of its tokens, where no claim says it."""
    deployments: list[str] = ["*"]
    """Deployments that its tokens may call at most; `*` for all."""
    sensitivity: Name | None = None
    """Sensitivity class of its callers' requests, one of `residency.classes`; none: `residency.default`."""
    roles: dict[str, Role] = {}
    """Roles of the admin API, by values of the claim `claims.role`; the first that a token has counts. A token with a
    role calls no model, as a key with one."""
    leeway_s: Annotated[float, Field(ge=0, le=300)] = 30.0
    """How far its clock may be off: allowed for `exp`, `nbf` and `iat`."""
    refresh_s: Annotated[float, Field(ge=1)] = 300.0
    """How often its keys are fetched. A key that it no longer lists stops working then."""
    grace_s: Annotated[float, Field(ge=0)] = 86_400.0
    """How long its last known keys are good for while they cannot be fetched."""
    ca_file: str | None = None
    """PEM bundle to trust for its `https`, in place of the system's."""
    token_file: str | None = None
    """A file with a bearer token to send to `issuer` and `jwks_url`, read anew each time; Kubernetes' API server asks
    for one."""
