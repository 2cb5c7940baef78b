"""Scraper and peers as one object, as a worker has them (R06, R07)."""

from __future__ import annotations

import asyncio
import random

import pytest

from engines.http import Endpoint, HttpEngine
from gateway.clock import RealClock
from gateway.company import Company
from gateway.config import Config
from gateway.config import Telemetry as Options
from gateway.config.secrets import secrets_of
from gateway.pools import Pool
from gateway.process.board import Board, Turn
from gateway.replicas import Replica
from gateway.telemetry import Telemetry, merge, render
from tests.harness import engine_running, settled
from tests.valkey import valkey_running


def company(url: str, redis: str | None = None, *, peers: bool = True) -> tuple[Company, Replica]:
    replica = Replica("p-0", "p", "on-premise", "fake", HttpEngine(Endpoint("p-0", url)), url=url)
    config = Config.model_validate(
        {
            "pools": {"p": {"urls": [url], "scrape": {"every_s": 0.05}}},
            "redis": None if redis is None else {"url": redis, "peers": peers},
        }
    )
    pools = {"p": Pool("p", replicas=(replica,))}
    return Company(config, pools, lambda: [replica], RealClock(), random.Random(1)), replica


@pytest.mark.may_block("reads the machine's name, once")
async def test_what_peers_and_engines_tell_is_in_the_books_and_in_the_metrics() -> None:
    board = Board.create(2)
    board.put(0, 0)
    board.put(1, 0)
    async with engine_running() as engine, valkey_running() as valkey:
        (one, mine), (two, theirs) = company(engine.url, valkey.url), company(engine.url)
        telemetry = await asyncio.to_thread(Telemetry, Options.model_validate({"access_log": {"format": "off"}}))
        one.watch(telemetry)
        assert not one.is_blind()
        await one.start(Turn(board, 0))
        await two.start(Turn(board, 1))
        with theirs.lease(0.0, 50, 0, 10.0), theirs.lease(0.0, 50, 0, 10.0):
            await settled(lambda: [] if mine.load.others_in_flight == 2.0 else [mine.load], "not seen")
            await settled(lambda: [] if mine.load.kv_capacity_tokens else [mine.load], "not scraped")
            text = render(merge([telemetry.snapshot()]), "").body.decode()
            assert "\nheadrace_peers 1" in text
            assert '\nheadrace_peers_degraded{place="board"} 0' in text
            assert '\nheadrace_peers_degraded{place="redis"} 0' in text
            assert '\nheadrace_engine_scrapes_total{pool="p",scrape="fine"} ' in text
            assert '\nheadrace_engine_scrape_age_seconds{pool="p",replica="p-0"} ' in text
        await settled(lambda: [] if mine.load.others_in_flight == 0.0 else [mine.load], "not forgotten")
        for each in (one, two):
            await each.aclose()
            await each.aclose()
        await telemetry.aclose()
    board.close()


@pytest.mark.may_block("reads the machine's name, once")
async def test_a14_workers_that_were_seen_last_count_while_redis_is_away() -> None:
    """Else each of them would take a larger share of the limits."""
    async with engine_running() as engine, valkey_running() as valkey:
        (one, mine), (two, theirs) = company(engine.url, valkey.url), company(engine.url, valkey.url)
        assert one.workers() == 1
        for each in (one, two):
            await each.start()
        with theirs.lease(0.0, 50, 0, 10.0):
            await settled(lambda: None if one.workers() == 2 and mine.load.others_in_flight else one.workers(), "")
            valkey.freeze()
            await settled(lambda: mine.load.others_in_flight, "the peer is not forgotten", 10.0)
            assert one.workers() == 2
            valkey.thaw()
        await two.aclose()
        await settled(lambda: None if one.workers() == 1 else one.workers(), "still seen", 10.0)
        await one.aclose()


@pytest.mark.may_block("reads the machine's name, once")
async def test_alone_it_has_no_peers_and_sees_all_there_is() -> None:
    async with engine_running() as engine:
        one, _ = company(engine.url)
        await one.start()
        assert one.peers is None
        assert not one.is_blind()
        await one.aclose()


def test_the_password_of_redis_is_a_secret() -> None:
    config = Config.model_validate({"redis": {"url": "rediss://user:p%40ss@redis.internal:6380/0"}})
    assert secrets_of(config) == ["p%40ss", "p@ss"]


@pytest.mark.may_block("reads the machine's name, once")
async def test_a_redis_that_is_for_the_limits_alone_is_no_place_to_meet() -> None:
    one, _ = company("http://127.0.0.1:1", "redis://127.0.0.1:1", peers=False)
    await one.start()
    assert one.peers is None
    await one.aclose()
