"""Tokens become callers. A token that was seen before costs one hash and one lookup."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.clock import Clock, wall_time_s
from gateway.config.jwt_options import JwtIssuer
from gateway.errors import Overloaded, Unauthenticated
from gateway.identity import Caller
from gateway.jwt.claims import check_times, read_caller
from gateway.jwt.compact import Malformed, Parts, take_apart
from gateway.jwt.fetch import HttpFetch
from gateway.jwt.keepsake import Keepsake
from gateway.jwt.keys import Key
from gateway.jwt.source import KeySource

MAX_SEEN = 10_000
"""Tokens remembered, of about 1 KB each."""
SEEN_S = 300.0
"""How long one is remembered at most, even if it is good for longer."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was found out about a token; good until the Unix time `until_s`, and as long as its key is."""

    caller: Caller
    source: KeySource
    key: Key
    until_s: float


class Verifier:
    """Checks tokens of the configured issuers. Used from one event loop.

    folder: where keys are kept for a restart while their issuer is away; None: nowhere.
    wall_s: Unix time in seconds, which tokens go by.
    """

    def __init__(
        self,
        issuers: Sequence[JwtIssuer],
        clock: Clock,
        rng: random.Random,
        folder: Path | None = None,
        wall_s: Callable[[], float] = wall_time_s,
    ) -> None:
        self.sources = [
            KeySource(one, HttpFetch(one), clock, rng, Keepsake(folder, one) if folder is not None else None, wall_s)
            for one in issuers
        ]
        self._by_issuer: dict[str, list[tuple[frozenset[str], KeySource]]] = {}
        for source in self.sources:
            entry = (frozenset(source.options.audience), source)
            self._by_issuer.setdefault(source.options.issuer, []).append(entry)
        self._wall_s = wall_s
        self._seen: OrderedDict[bytes, _Seen] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Verifier seen={len(self._seen)} {self.sources}>"

    async def start(self) -> None:
        """Fetch the keys from now on. Returns when each issuer has answered, or has had the time for it."""
        for source in self.sources:
            source.start()
        await asyncio.gather(*(source.answered() for source in self.sources))

    async def aclose(self) -> None:
        for source in self.sources:
            await source.aclose()

    def find(self, token: bytes) -> Caller:
        """Whose token it is.

        Raises:
            Unauthenticated: it is not good. Where `again` is set, it may be after that.
            Overloaded: the keys of its issuer are not known.
        """
        digest = hashlib.sha256(token).digest()
        seen = self._seen.get(digest)
        if seen is not None:
            if seen.key.listed and seen.source.good and self._wall_s() < seen.until_s:
                self._seen.move_to_end(digest)
                return seen.caller
            del self._seen[digest]
        seen = self._seen[digest] = self._check(token)
        if len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)
        return seen.caller

    def ages(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """By the name of an issuer: seconds since its keys were fetched."""
        return [((source.options.name,), source.age_s) for source in self.sources]

    def _check(self, token: bytes) -> _Seen:
        try:
            parts = take_apart(token)
        except Malformed:
            raise _invalid() from None
        source, intended = self._source(parts)
        key = _key(source, parts)
        if not key.signed(parts.signed, parts.signature):
            raise _invalid()
        # Only from here on is it said what is wrong: the issuer made this token.
        now_s, options = self._wall_s(), source.options
        check_times(parts.registered, now_s, options.leeway_s)
        if not intended:
            message = "The token is for another service: its `aud` has none of `auth.jwt[].audience`."
            raise Unauthenticated(message, code="invalid_token")
        caller = read_caller(options, parts.payload, parts.registered)
        return _Seen(caller, source, key, min(caller.expires_at, now_s + SEEN_S))

    def _source(self, parts: Parts) -> tuple[KeySource, bool]:
        """Whose keys are to check the token, and whether it is for one of its audiences."""
        entries = self._by_issuer.get(parts.registered.iss)
        if entries is None:
            raise _invalid()
        for audiences, source in entries:
            if parts.names(audiences):
                return source, True
        return entries[0][1], False


def _key(source: KeySource, parts: Parts) -> Key:
    key = source.find(parts.header.alg, parts.header.kid)
    if not source.good:
        message = f"The keys of the token's issuer cannot be fetched (`auth.jwt`, {source.options.name!r}). Try again."
        raise Overloaded(message, code="issuer_unavailable")
    if key is None:
        supported = parts.header.alg in source.options.algorithms
        raise _invalid(source if supported and source.ask() else None)
    return key


def _invalid(source: KeySource | None = None) -> Unauthenticated:
    """One text for all that cannot be believed. `source`: which keys are being fetched that may change that."""
    error = Unauthenticated("The token is not valid.", code="invalid_token")
    error.again = source.answered if source is not None else None
    return error
