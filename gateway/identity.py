"""Who calls: an API key becomes a caller. No I/O.

A key is looked up by its whole salted hash: those of the configuration with its salt, those of the database with that
of the database. Both hashes are computed for every key that is shown, and every key that is refused takes the same
steps to the same words, whether it is unknown, revoked, expired, of a disabled organisation or for another purpose
(A18).
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from gateway.clock import wall_time_s
from gateway.config import Auth, Key
from gateway.config.limit_options import limits_of
from gateway.directory.entries import NO_LIMITS, Limits
from gateway.errors import Forbidden, Overloaded, Unauthenticated
from gateway.keys import hash_key

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a request is charged to and what it may use.

    deployments: names it may call; None: all of them.
    max_parallel: requests in flight at once; None: no limit.
    sensitivity: class of its requests; empty: the default.
    admin: whether it may see how the gateway itself is doing.
    team: of the tenant; empty: none. key_id: public id of a key of the database; empty: it is none.
    limits: of the key itself.
    role: of the admin API; empty: it calls models.
    networks: that it may come from; empty: any.
    expires_at: Unix time in seconds from which it is unknown.
    may_name_flow: whether it says whose requests it passes on.
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
    role: str = ""
    networks: tuple[Network, ...] = ()
    expires_at: float = math.inf
    may_name_flow: bool = False

    def may_call(self, deployment: str) -> bool:
        return self.deployments is None or deployment in self.deployments


ANYBODY = Caller(key_name="", tenant="default", admin=True)
"""The caller when no keys are configured and the server listens on loopback only."""
NOBODY = Caller(key_name="", tenant="", deployments=frozenset())
"""In place of a caller whom nobody knows."""


class Directory(Protocol):
    """The keys of the database, as this process knows them."""

    @property
    def disabled(self) -> Container[str | tuple[str, str]]:
        """Organisations, and teams as organisation and name, whose keys and tokens are refused."""
        ...

    @property
    def is_known(self) -> bool:
        """Whether anything was ever heard of the database."""
        ...

    @property
    def is_fresh(self) -> bool:
        """Whether what is known may still be gone by."""
        ...

    def find(self, key: bytes) -> Caller:
        """Whose key it is, or `NOBODY`."""
        ...


class Tokens(Protocol):
    """What is taken in place of keys."""

    def find(self, token: bytes) -> Caller:
        """Whose token it is.

        Raises:
            Unauthenticated: it is not good.
            Overloaded: that cannot be said now.
        """
        ...


class KeyRing:
    """Knows everybody.

    directory: None where there is no database.
    tokens: None where no issuer of tokens is configured.
    for_admins: lets in keys with a role, and no others, in place of those without.
    wall_s: Unix time.
    """

    def __init__(
        self,
        auth: Auth,
        directory: Directory | None = None,
        *,
        tokens: Tokens | None = None,
        for_admins: bool = False,
        wall_s: Callable[[], float] = wall_time_s,
    ) -> None:
        salt = auth.salt.get_secret_value()
        self._salted = hashlib.sha256(salt.encode())
        self._directory = directory
        self._tokens = tokens
        self._for_admins = for_admins
        self._wall_s = wall_s
        self._callers = {_digest(key, salt): _caller(key) for key in auth.keys}
        self._open = not self._callers and directory is None and tokens is None and not for_admins

    async def admit(self, headers: dict[bytes, bytes], address: str = "") -> Caller:
        """As `identify`, which is asked twice where a moment may change the answer: an issuer has a new key."""
        try:
            return self.identify(headers, address)
        except Unauthenticated as refusal:
            if refusal.again is None:
                raise
            await refusal.again()
        return self.identify(headers, address)

    def identify(self, headers: dict[bytes, bytes], address: str = "") -> Caller:
        """The caller behind `authorization: Bearer`, `x-api-key` or `api-key`.

        address: the client's, for keys that may come from some networks only.

        Raises:
            Unauthenticated: no key or token, or none that is known.
            Forbidden: it may not come from there.
            Overloaded: nothing was heard of the database, or of the token's issuer, for too long.
        """
        if self._open:
            return ANYBODY
        key = _shown(headers)
        digest = self._salted.copy()
        digest.update(key)
        caller = self._callers.get(digest.digest(), NOBODY)
        directory = self._directory
        if directory is None:
            disabled: Container[str | tuple[str, str]] = ()
        else:
            theirs, disabled = directory.find(key), directory.disabled
            caller = theirs if caller is NOBODY else caller
        if self._tokens is not None and caller is NOBODY and key.count(b".") == 2:
            caller = self._tokens.find(key)
        # Every operand is looked at, whatever the others say: no shorter way out tells one refusal from another.
        refused = (
            (caller is NOBODY)
            | (not key)
            | (caller.expires_at <= self._wall_s())
            | (caller.tenant in disabled)
            | ((caller.tenant, caller.team) in disabled)
            | (bool(caller.role) is not self._for_admins)
        )
        if refused:
            raise self._refusal(key, caller)
        if directory is not None and caller.key_id and not directory.is_fresh:
            raise _stale()
        if caller.networks and not _is_inside(address, caller.networks):
            raise _from_elsewhere(caller, address)
        return caller

    def _refusal(self, key: bytes, caller: Caller) -> Unauthenticated | Overloaded:
        if not key:
            message = "No API key given. Send it as `Authorization: Bearer KEY`."
            return Unauthenticated(message, code="missing_api_key")
        if self._directory is not None and not self._directory.is_known:
            return _stale()  # whose it is cannot be said yet
        return Unauthenticated("The API key is not valid.")


def _shown(headers: dict[bytes, bytes]) -> bytes:
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"bearer":
        key = headers.get(b"x-api-key") or headers.get(b"api-key") or b""
    return key.strip()


def _digest(key: Key, salt: str) -> bytes:
    known = key.hash or hash_key(key.key.get_secret_value() if key.key else "", salt)
    return bytes.fromhex(known.removeprefix("sha256:"))


def _caller(key: Key) -> Caller:
    return Caller(
        key_name=key.name,
        tenant=key.tenant,
        deployments=None if "*" in key.deployments else frozenset(key.deployments),
        max_parallel=key.max_parallel,
        sensitivity=key.sensitivity or "",
        admin=key.admin,
        team=key.team or "",
        limits=limits_of(key.limits),
        networks=networks_of(key.networks),
        expires_at=math.inf if key.expires is None else key.expires.timestamp(),
        may_name_flow=key.may_name_flow,
    )


def networks_of(texts: list[str]) -> tuple[Network, ...]:
    """Networks in CIDR notation; a bare address is one of its own.

    Raises:
        ValueError: one of them is none.
    """
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


def _is_inside(address: str, networks: tuple[Network, ...]) -> bool:
    found = address_of(address)
    return found is not None and any(found in network for network in networks)


@lru_cache(maxsize=4096)
def address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """A client's address; None: it is none. One of IPv4 that comes over IPv6 is what it is."""
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, ipaddress.IPv6Address) else found


def _from_elsewhere(caller: Caller, address: str) -> Forbidden:
    message = f"Key {caller.key_name!r} may not be used from {address or 'here'}; see its `networks`."
    return Forbidden(message, code="network_not_allowed")


def _stale() -> Overloaded:
    message = (
        "The gateway has not heard of its database for too long to know whether this key is valid (database.grace_s)."
    )
    return Overloaded(message, code="directory_stale", retry_after_s=5.0)
