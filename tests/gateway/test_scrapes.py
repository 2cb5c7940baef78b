"""Engines' own metrics reach the books, and those that do not cost nobody anything (R07)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from engines.fake import FakeEngine
from engines.http import Endpoint, HttpEngine
from gateway.clock import RealClock
from gateway.config import Pool as Options
from gateway.corrections import Corrections
from gateway.pools import Pool
from gateway.replicas import Replica
from gateway.scrapes import FINE, LOOP_PAGE_BYTES, MAX_PAGE_BYTES, MISSING, Page, Scraper
from router.policies import POLICIES
from router.prefix import PrefixIndex
from router.types import Features
from tests.engines.server import Peer, engine_server
from tests.harness import CHAT, engine_running, nobody, settled

RUNNING = b'vllm:num_requests_running{engine="0"} 5.0\n'


class Hurried(RealClock):
    """Pauses are a hundredth of what they are."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 100)


class Site:
    """Replicas, each in a pool of its own, and their scraper."""

    def __init__(self, *urls: str, clock: RealClock | None = None, **options: Any) -> None:
        self.replicas = [replica(f"p{i}", url) for i, url in enumerate(urls)]
        self.pools = {one.pool: Pool(one.pool, replicas=(one,)) for one in self.replicas}
        self.options = {name: Options.model_validate({"urls": list(urls)} | options) for name in self.pools}
        self.clock = clock or Hurried()
        self.corrections = Corrections(lambda: self.replicas, "here")
        self.scraper = Scraper(self.pools, self.options, self.corrections, self.clock, random.Random(1))

    def seen(self, index: int = 0) -> float:
        self.corrections.apply(self.clock.monotonic())
        return self.replicas[index].load.others_in_flight

    async def once(self, index: int = 0) -> str:
        one = self.replicas[index]
        options = self.options[one.pool]
        page = Page(options.engine, options.scrape, one)
        try:
            return await self.scraper.scrape(one, page, 5.0)
        finally:
            await page.aclose()


def replica(pool: str, url: str) -> Replica:
    return Replica(f"{pool}-0", pool, "on-premise", "openai", HttpEngine(Endpoint(pool, url)), url=url)


@asynccontextmanager
async def scraping(site: Site) -> AsyncIterator[Scraper]:
    site.scraper.start()
    try:
        yield site.scraper
    finally:
        await site.scraper.aclose()
        await site.scraper.aclose()


def answering(head: str, body: bytes = b"") -> Callable[[Peer], Awaitable[None]]:
    async def script(peer: Peer) -> None:
        while await peer.request():
            more = "" if "content-length" in head else f"content-length: {len(body)}\r\n"
            await peer.send(f"HTTP/1.1 {head}\r\n{more}\r\n".encode() + body)

    return script


async def hung(peer: Peer) -> None:
    await peer.request()
    await peer.closed()


async def held(engine: FakeEngine, count: int) -> list[asyncio.Task[object]]:
    """Requests that somebody else has at the engine."""
    import httpx

    async def ask() -> object:
        async with httpx.AsyncClient(trust_env=False) as client:
            body = {"model": "m", "messages": [{"role": "user", "content": "one two three four"}]}
            return await client.post(engine.url + CHAT, json=body, timeout=20.0)

    engine.hold()
    tasks = [asyncio.create_task(ask()) for _ in range(count)]
    await engine.arrived(count)
    return tasks


async def test_what_others_have_at_an_engine_is_seen_and_forgotten_when_they_have_gone() -> None:
    async with engine_running() as engine:
        site = Site(engine.url, scrape={"every_s": 1.0})
        others = await held(engine, 3)
        async with scraping(site) as scraper:
            await settled(lambda: [] if site.seen() == 3.0 else [site.seen()], "not seen")
            load = site.replicas[0].load
            assert load.kv_capacity_tokens > 0
            [(labels, age_s)] = scraper.ages()
            assert labels == ("p0", "p0-0")
            assert 0 <= age_s < 10
            engine.release()
            await asyncio.gather(*others)
            await settled(lambda: [] if site.seen() == 0.0 else [site.seen()], "not forgotten")
            assert dict(scraper.outcomes())["p0", FINE] >= 2
            assert "watched=['p0-0']" in repr(scraper)


async def test_what_is_guessed_of_a_kv_cache_has_the_size_that_its_engine_tells() -> None:
    async with engine_running(kv_tokens=4096) as engine:
        site = Site(engine.url)
        slot = site.replicas[0].slot = PrefixIndex().open()
        assert await site.once() == FINE
        site.corrections.apply(site.clock.monotonic())
        assert slot.fits_tokens == 4096


async def test_own_requests_are_not_taken_for_those_of_others() -> None:
    async with engine_running() as engine:
        site = Site(engine.url, engine.url)  # the same engine in two pools
        mine = [site.replicas[0].lease(0.0, 100, 0, 10.0) for _ in range(2)]
        others = await held(engine, 3)
        assert await site.once(0) == FINE
        assert site.seen(0) == 1.0
        assert site.seen(1) == 2.0  # of the other pool, and nobody's page was read here
        assert await site.once(1) == FINE
        assert site.seen(1) == 3.0
        for lease in mine:
            lease.__exit__()
        engine.release()
        await asyncio.gather(*others)


BAD: dict[str, Callable[[Peer], Awaitable[None]]] = {
    "missing": answering("404 Not Found", b"no"),
    "broken": answering("500 Internal Server Error", b"no"),
    "garbage": answering("200 OK", b"\x00\xff{{{vllm:num_requests_running} x\n" * 100),
    "of something else": answering("200 OK", b"process_cpu_seconds_total 1\n"),
    "too long": answering(f"200 OK\r\ncontent-length: {MAX_PAGE_BYTES + 1}", RUNNING),
    "no HTTP": answering("nonsense"),
    "moved nowhere": answering("307 Temporary Redirect\r\nlocation: /metrics/"),
}


@pytest.mark.parametrize("script", BAD.values(), ids=BAD)
async def test_r07_metrics_that_are_no_use_change_nothing(script: Callable[[Peer], Awaitable[None]]) -> None:
    async def once(peer: Peer) -> None:
        await asyncio.wait_for(script(peer), 5.0)

    async with engine_server(once) as url:
        site = Site(url)
        assert await site.once() != FINE
        assert site.seen() == 0.0
        assert [r.breaker.allows(0.0) for r in site.replicas] == [True]
        assert POLICIES["marginal_latency"](random.Random(1)).choose(Features(), [site.replicas[0].load]) == 0


async def test_r07_an_engine_whose_metrics_hang_delays_no_other() -> None:
    async with engine_server(hung) as stuck, engine_running() as engine:
        site = Site(stuck, engine.url, scrape={"every_s": 1.0})
        async with scraping(site) as scraper:
            await settled(lambda: [] if dict(scraper.outcomes()).get(("p1", FINE), 0) >= 5 else ["late"], "waits")
            assert ("p0", FINE) not in dict(scraper.outcomes())


async def test_r07_an_engine_that_hangs_is_given_up_after_two_seconds_and_asked_one_at_a_time() -> None:
    at_once, most = 0, 0

    async def count(peer: Peer) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await hung(peer)
        at_once -= 1

    async with engine_server(count) as url:
        site = Site(url, scrape={"every_s": 1.0, "path": "/metrics"})
        async with scraping(site) as scraper:
            await settled(
                lambda: [] if dict(scraper.outcomes()).get(("p0", "failed")) else ["waits"], "no end", within_s=5.0
            )
        assert most == 1


async def test_r07_an_engine_that_has_no_metrics_is_asked_less_and_less() -> None:
    pauses: list[float] = []

    class Noted(Hurried):
        async def sleep(self, seconds: float) -> None:
            pauses.append(seconds)
            await asyncio.sleep(0.001)

    with nobody() as url:
        site = Site(url, clock=Noted())
        async with scraping(site) as scraper:
            await settled(lambda: [] if dict(scraper.outcomes()).get(("p0", "failed"), 0) >= 9 else ["few"], "few")
    long = [pause_s for pause_s in pauses if pause_s > 1.0]
    assert 5.0 <= long[0] <= 15.0
    assert 30.0 <= long[-1] <= 90.0


async def test_a_page_may_stand_at_another_path_and_another_port() -> None:
    asked: list[bytes] = []

    async def script(peer: Peer) -> None:
        while request := await peer.request():
            path = request.split()[1]
            asked.append(path)
            body = RUNNING if path == b"/prometheus/metrics" else b""
            status = "200 OK" if body else "307 Moved" if path == b"/metrics" else "404 Not Found"
            await peer.send(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)

    async with engine_server(script) as url:
        site = Site(url)
        options = site.options["p0"]
        page = Page(options.engine, options.scrape, site.replicas[0])
        for _ in range(2):
            assert await site.scraper.scrape(site.replicas[0], page, 5.0) == FINE
        await page.aclose()
        assert asked == [b"/metrics", b"/metrics/", b"/prometheus/metrics", b"/prometheus/metrics"]
        port = int(url.rpartition(":")[2])
        there = Site("http://127.0.0.1:1/behind", scrape={"path": "/prometheus/metrics", "port": port})
        assert await there.once() == FINE
        elsewhere = Site(url, scrape={"path": "/mine"})
        assert await elsewhere.once() == MISSING


async def test_the_engines_key_is_sent_along_and_a_page_of_megabytes_is_read_beside_the_loop() -> None:
    heads: list[bytes] = []

    async def script(peer: Peer) -> None:
        while request := await peer.request():
            heads.append(request.lower())
            body = RUNNING + b"# nothing\n" * (LOOP_PAGE_BYTES // 8)
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async with engine_server(script) as url:
        site = Site(url, engine={"api_key": "k1", "headers": {"x-team": "t"}})
        assert await site.once() == FINE
        assert site.seen() == 5.0
        assert b"authorization: bearer k1" in heads[0]
        assert b"x-team: t" in heads[0]


async def test_clouds_and_engines_without_metrics_are_not_asked() -> None:
    for options in ({"site": "cloud"}, {"engine": {"kind": "transformers"}}, {"scrape": {"every_s": None}}):
        site = Site("http://127.0.0.1:1", **options)
        async with scraping(site) as scraper:
            await asyncio.sleep(0)
            assert repr(scraper) == "<Scraper watched=[] {}>"


async def test_replicas_that_come_are_asked_and_those_that_go_are_not() -> None:
    async with engine_running() as one, engine_running() as two:
        site = Site(one.url, scrape={"every_s": 1.0})
        async with scraping(site) as scraper:
            await settled(lambda: [] if list(scraper.ages()) else ["none"], "not asked")
            newcomer = replica("p0", two.url)
            newcomer.name = "p0-1"
            site.pools["p0"].replicas = (newcomer,)
            site.replicas[:] = [newcomer]
            await settled(lambda: [] if "watched=['p0-1']" in repr(scraper) else [scraper], "not asked")
            await settled(
                lambda: [] if [labels for labels, _ in scraper.ages()] == [("p0", "p0-1")] else ["x"], "not asked"
            )
            site.corrections.apply(0.0)
            assert repr(site.corrections) == "<Corrections snapshots=1 peers_at=0>"


async def test_what_goes_wrong_inside_ends_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("made up")

    async with engine_running() as engine:
        site = Site(engine.url, scrape={"every_s": 1.0})
        with monkeypatch.context() as patch:
            patch.setattr(site.corrections, "scraped", fail)
            site.scraper.start()
            await settled(lambda: [] if "cannot be read" in caplog.text else ["silent"], "nothing logged")
        await settled(lambda: [] if list(site.scraper.ages()) else ["none"], "it ended")
        await site.scraper.aclose()
