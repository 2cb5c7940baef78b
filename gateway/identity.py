"""Who calls: an API key becomes a caller. No I/O."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from gateway.config import Auth
from gateway.directory.entries import NO_LIMITS, Limits
from gateway.errors import Unauthenticated
from gateway.keys import hash_key


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a request is charged to and what it may use.

    deployments: names it may call; None: all of them.
    max_parallel: requests in flight at once; None: no limit.
    sensitivity: class of its requests; empty: the default.
    admin: whether it may see how the gateway itself is doing.
    team: of the tenant; empty: none. key_id: public id of a key of the database; empty: it is none.
    limits: of the key itself.
    """

    key_name: str
    tenant: str
    deployments: frozenset[str] | None = None
    max_parallel: int | None = None
    sensitivity: str = ""
    admin: bool = False
    team: str = ""
    key_id: str = ""
    limits: Limits = NO_LIMITS

    def may_call(self, deployment: str) -> bool:
        return self.deployments is None or deployment in self.deployments


ANYBODY = Caller(key_name="", tenant="default", admin=True)
"""The caller when no keys are configured and the server listens on loopback only."""


class KeyRing:
    """Looks keys up by their whole salted hash; every key that is not known takes the same way out (A18)."""

    def __init__(self, auth: Auth) -> None:
        salt = auth.salt.get_secret_value()
        self._salted = hashlib.sha256(salt.encode())
        self._callers: dict[str, Caller] = {}
        for key in auth.keys:
            digest = key.hash or hash_key(key.key.get_secret_value() if key.key else "", salt)
            self._callers[digest.removeprefix("sha256:")] = Caller(
                key_name=key.name,
                tenant=key.tenant,
                deployments=None if "*" in key.deployments else frozenset(key.deployments),
                max_parallel=key.max_parallel,
                sensitivity=key.sensitivity or "",
                admin=key.admin,
            )

    def identify(self, headers: dict[bytes, bytes]) -> Caller:
        """The caller behind `authorization: Bearer`, `x-api-key` or `api-key`.

        Raises:
            Unauthenticated: no key, or none that is known.
        """
        if not self._callers:
            return ANYBODY
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer":
            key = headers.get(b"x-api-key") or headers.get(b"api-key") or b""
        key = key.strip()
        digest = self._salted.copy()
        digest.update(key)
        caller = self._callers.get(digest.hexdigest())
        if caller is not None and key:
            return caller
        if not key:
            message = "No API key given. Send it as `Authorization: Bearer KEY`."
            raise Unauthenticated(message, code="missing_api_key")
        raise Unauthenticated("The API key is not valid.")
