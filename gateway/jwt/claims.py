"""What a token says of its caller, in the words of this gateway. No I/O."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from urllib.parse import quote

import msgspec

from gateway.config.jwt_options import JwtIssuer
from gateway.errors import Unauthenticated
from gateway.identity import Caller
from gateway.jwt.compact import Registered

MAX_NAME_CHARS = 255
"""Of a caller's name, the longest that OpenID Connect allows for `sub`."""
_is_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}").fullmatch
"""As names of the configuration: they stand in metrics, cache keys and the keys of limits."""

ClaimPath = str | Sequence[str]
_decode = msgspec.json.Decoder(dict[str, object]).decode


def check_times(registered: Registered, now_s: float, leeway_s: float) -> None:
    """now_s: Unix time.

    Raises:
        Unauthenticated: it has expired, or is not valid yet.
    """
    if now_s >= registered.exp + leeway_s:
        message = f"The token expired at {_shown(registered.exp)}. Get a new one."
        raise Unauthenticated(message, code="expired_token")
    for claim, since in (("nbf", registered.nbf), ("iat", registered.iat)):
        if since is not None and now_s < since - leeway_s:
            message = (
                f"The token is not valid before {_shown(since)} (`{claim}`). Compare the clocks of issuer and gateway."
            )
            raise Unauthenticated(message, code="invalid_token")


def _shown(unix_s: float) -> str:
    try:
        return datetime.datetime.fromtimestamp(unix_s, datetime.UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{unix_s:g}"


def read_caller(options: JwtIssuer, payload: bytes, registered: Registered) -> Caller:
    """Whose a token is whose signature is good. Its name is `ISSUER/SUBJECT`; its tenant is empty only for a role over
    all tenants.

    Raises:
        Unauthenticated: a claim that must be there is not, or cannot be used.
    """
    try:
        reading = _Reading(options, _decode(payload))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # in claims that `Registered` passes over
        raise Unauthenticated(f"The token's claims are not JSON: {error}.", code="invalid_token") from None
    reading.must_be_let_in()
    role = reading.role()
    return Caller(
        key_name=reading.name(),
        tenant=reading.tenant(role),
        deployments=reading.deployments(),
        sensitivity=options.sensitivity or "",
        team=reading.team(),
        role=role,
        expires_at=registered.exp + options.leeway_s,
    )


class _Reading:
    def __init__(self, options: JwtIssuer, payload: dict[str, object]) -> None:
        self._options = options
        self._payload = payload

    def must_be_let_in(self) -> None:
        for claim, values in self._options.require.items():
            held = self._payload.get(claim)
            if isinstance(held, bool):
                held = "true" if held else "false"
            if not any(one in values for one in (held if isinstance(held, list) else [held])):
                message = f"The token's claim `{claim}` has none of the values that are let in (`auth.jwt[].require`)."
                raise Unauthenticated(message, code="invalid_token")

    def name(self) -> str:
        """Percent-encoded where it is not plain text, so that no two subjects share a name."""
        found = self._one("name", self._options.claims.name)
        if not found:
            raise _missing("name", self._options.claims.name)
        name = f"{self._options.name}/{quote(found, safe='@:+|,=/')}"
        if len(name) > MAX_NAME_CHARS:
            raise _unusable("name", self._options.claims.name, f"is longer than {MAX_NAME_CHARS} characters")
        return name

    def tenant(self, role: str) -> str:
        """Never made up: what nobody is charged for is refused, unless it is a role over all tenants."""
        path, fixed = self._options.claims.tenant, self._options.tenant
        found = self._one("tenant", path) if path is not None else fixed
        if path is not None and found:
            return _checked("tenant", path, found)
        if found or role not in ("", "tenant-admin"):
            return found or ""
        if path is None:
            message = "The token has no role that is known, and nothing says its tenant (`auth.jwt[].tenant`)."
            raise Unauthenticated(message, code="invalid_token")
        raise _missing("tenant", path)

    def team(self) -> str:
        path = self._options.claims.team
        found = self._one("team", path) if path is not None else ""
        return _checked("team", path, found) if path is not None and found else ""

    def deployments(self) -> frozenset[str] | None:
        """Those that both the token and the configuration name."""
        allowed = self._options.deployments
        most = None if "*" in allowed else frozenset(allowed)
        path = self._options.claims.deployments
        if path is None:
            return most
        found = self._many("deployments", path)
        if "*" in found:
            return most
        return frozenset(found) if most is None else most & frozenset(found)

    def role(self) -> str:
        path = self._options.claims.role
        held = frozenset(self._many("role", path)) if path is not None else frozenset()
        return next((role for value, role in self._options.roles.items() if value in held), "")

    def _one(self, what: str, path: ClaimPath) -> str:
        """A text, or the only one of a list; empty if there is none."""
        found = _at(self._payload, path)
        if isinstance(found, list) and len(found) == 1:
            found = found[0]
        if found is None or found == []:
            return ""
        if not isinstance(found, str):
            raise _unusable(what, path, "is not one text")
        return found

    def _many(self, what: str, path: ClaimPath) -> list[str]:
        """Of a list, or of a text with spaces as OAuth has scopes."""
        found = _at(self._payload, path)
        if found is None:
            return []
        if isinstance(found, str):
            return [found, *found.split()]
        if isinstance(found, list):
            return [one for one in found if isinstance(one, str)]
        raise _unusable(what, path, "is neither a text nor a list")


def _at(payload: dict[str, object], path: ClaimPath) -> object:
    found: object = payload
    for part in (path,) if isinstance(path, str) else path:
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _checked(what: str, path: ClaimPath, found: str) -> str:
    if _is_name(found) is None:
        raise _unusable(what, path, "may have letters, digits and ._:/@+- only, and 128 of them")
    return found


def _missing(what: str, path: ClaimPath) -> Unauthenticated:
    message = f"The token has no claim {_dotted(path)}, which says its {what} (`auth.jwt[].claims.{what}`)."
    return Unauthenticated(message, code="invalid_token")


def _unusable(what: str, path: ClaimPath, why: str) -> Unauthenticated:
    message = f"The token's claim {_dotted(path)}, which says its {what} (`auth.jwt[].claims.{what}`), {why}."
    return Unauthenticated(message, code="invalid_token")


def _dotted(path: ClaimPath) -> str:
    return f"`{path}`" if isinstance(path, str) else f"`{' > '.join(path)}`"
