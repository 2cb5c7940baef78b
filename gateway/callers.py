"""Whom a worker knows, and what each of them may use: keys, tokens, the directory of the database, shares, limits."""

from __future__ import annotations

import random
from collections.abc import Callable

from gateway.clock import Clock
from gateway.config import Config
from gateway.directory.entries import OrganisationEntry, TeamEntry
from gateway.directory.feed_client import feed_of
from gateway.identity import KeyRing
from gateway.jwt import tokens_of
from gateway.limits.build import open_ledger
from gateway.limits.build import watch as watch_limits
from gateway.limits.ledger import LimitLedger
from gateway.standing import Standing
from gateway.telemetry import Telemetry, series


class Callers:
    """One for each worker.

    feed: path of the socket at which the office tells of the database's keys; empty: there is no office.
    workers: how many there are in all gateways, as far as is known.
    """

    def __init__(self, config: Config, clock: Clock, rng: random.Random, feed: str, workers: Callable[[], int]) -> None:
        self._feed = feed_of(config, feed, clock, rng)
        self._ring = None if self._feed is None else self._feed.ring
        self._tokens = tokens_of(config.auth, clock, rng)
        self.identity = KeyRing(config.auth, self._ring, tokens=self._tokens)
        self.standing = Standing(config.tenants, self.organisation)
        self.ledger: LimitLedger = open_ledger(
            config, clock, organisation=self.organisation, team=self.team, workers=workers
        )
        if self._ring is not None:
            self._ring.on_change.append(self.ledger.planner.forget)

    def organisation(self, name: str) -> OrganisationEntry | None:
        """What the directory has by that name."""
        return None if self._ring is None else self._ring.organisations.get(name)

    def team(self, organisation: str, name: str) -> TeamEntry | None:
        return None if self._ring is None else self._ring.teams.get((organisation, name))

    def tell(self, telemetry: Telemetry) -> None:
        """From now on its metrics are theirs."""
        watch_limits(telemetry, self.ledger)
        if self._ring is not None:
            telemetry.watch(series.DIRECTORY_KEYS.name, self._ring.count)
            telemetry.watch(series.DIRECTORY_AGE.name, self._ring.age)
        if self._tokens is not None:
            telemetry.watch(series.ISSUER_KEYS_AGE.name, self._tokens.ages)

    async def start(self) -> None:
        """Returns when they are known, as far as anybody can tell of them now."""
        await self.ledger.start()
        if self._feed is not None:
            await self._feed.start()
        if self._tokens is not None:
            await self._tokens.start()

    async def aclose(self) -> None:
        """Give back what is leased, and hear of nobody any more."""
        await self.ledger.aclose()
        if self._feed is not None:
            await self._feed.aclose()
        if self._tokens is not None:
            await self._tokens.aclose()
