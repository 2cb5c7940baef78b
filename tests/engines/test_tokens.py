"""Access tokens: one fetch for everybody, kept, renewed in time, and what happens when there are none."""

from __future__ import annotations

import asyncio
import threading

import pytest

from engines.base import EngineUnreachable
from engines.tokens import LAST_S, REFRESH_BEFORE_S, BearerSigner, Token


class Source:
    """Gives numbered tokens, each for `lifetime_s`; waits for `gate` if there is one."""

    def __init__(self, *lifetimes_s: float) -> None:
        self.lifetimes_s = list(lifetimes_s)
        self.fetched = 0
        self.gate: threading.Event | None = None
        self.failure: Exception | None = None

    def fetch(self) -> Token:
        if self.gate is not None:
            assert self.gate.wait(10)
        self.fetched += 1
        if self.failure is not None:
            raise self.failure
        return Token(f"t{self.fetched}", self.lifetimes_s.pop(0))

    def close(self) -> None:
        pass


async def token(signer: BearerSigner) -> str:
    headers = await signer.headers("POST", "https://x", {}, b"")
    return headers["authorization"]


async def test_a_token_is_fetched_once_and_kept() -> None:
    source = Source(3600)
    signer = BearerSigner(source, "engine.x")
    assert await asyncio.gather(*(token(signer) for _ in range(20))) == ["Bearer t1"] * 20
    assert await token(signer) == "Bearer t1"
    assert source.fetched == 1
    assert repr(signer).startswith("<BearerSigner expires_in=3")
    await signer.aclose()


async def test_a_token_near_its_end_serves_until_the_next_one_is_there() -> None:
    source = Source(REFRESH_BEFORE_S - 1, 3600)
    signer = BearerSigner(source, "engine.x")
    assert await token(signer) == "Bearer t1"
    source.gate = threading.Event()
    assert await token(signer) == "Bearer t1"
    assert repr(signer).startswith("<BearerSigner fetching expires_in=29")
    source.gate.set()
    async with asyncio.timeout(5):
        while await token(signer) != "Bearer t2":
            await asyncio.sleep(0)
    assert source.fetched == 2
    await signer.aclose()


async def test_a_token_that_expires_as_it_comes_is_not_sent() -> None:
    signer = BearerSigner(Source(LAST_S - 1), "engine.x")
    with pytest.raises(EngineUnreachable, match="expired as it came"):
        await token(signer)
    await signer.aclose()


async def test_without_a_token_service_the_setting_is_named_and_the_service_is_left_in_peace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Source(3600)
    source.failure = OSError("no route")
    signer = BearerSigner(source, "engine.azure")
    for _ in range(3):
        with pytest.raises(EngineUnreachable, match=r"OSError: no route; check `engine\.azure`"):
            await token(signer)
    assert source.fetched == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_who_stops_waiting_stops_nobody_else() -> None:
    source = Source(3600)
    source.gate = threading.Event()
    signer = BearerSigner(source, "engine.x")
    first, second = asyncio.create_task(token(signer)), asyncio.create_task(token(signer))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    source.gate.set()
    assert await second == "Bearer t1"


async def test_closing_ends_the_wait() -> None:
    source = Source(3600)
    source.gate = threading.Event()
    signer = BearerSigner(source, "engine.x")
    waiting = asyncio.create_task(token(signer))
    await asyncio.sleep(0)
    await signer.aclose()
    await asyncio.gather(waiting, return_exceptions=True)
    assert waiting.cancelled()
    source.gate.set()


async def test_a_token_that_was_just_fetched_is_not_renewed() -> None:
    signer = BearerSigner(Source(3600), "engine.x")
    refused = {"authorization": await token(signer)}
    assert not signer.renew(refused)
    await signer.aclose()


async def test_a_token_that_has_been_replaced_meanwhile_is_worth_another_try() -> None:
    signer = BearerSigner(Source(3600), "engine.x")
    await token(signer)
    assert signer.renew({"authorization": "Bearer t0"})
    assert await token(signer) == "Bearer t1"
    await signer.aclose()
