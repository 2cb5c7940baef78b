"""A labeller of a running gateway, and engines that the test plays by hand."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from cache.answer import Answer, assemble
from cache.entry import Judged
from cache.planted import JudgeError
from cache.semantics.seam import Look
from engines.base import Operation
from engines.fake import FakeEngine
from gateway.caching.judge import Labeller, Wish
from gateway.caching.own_calls import OwnCalls
from gateway.clock import RealClock
from gateway.config.cache_options import JudgeOptions
from gateway.prices import PriceTable, shipped
from gateway.prices.overrides import overrides_of
from gateway.residency import ANYWHERE, Clearance
from gateway.wire import Call
from tests.harness import HandEngine, Json, Server, Turn, config_of, engine_by_hand, engine_running, serving, whole

PRICES: Json = {"m": {"input": 1.0, "output": 2.0}}
"""USD for a million tokens."""


def completion(content: str, **more: Any) -> bytes:
    choice: Json = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1000, "completion_tokens": 1, "total_tokens": 1001}
    body = {"id": "x", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage, **more}
    return json.dumps(body).encode()


def answer(content: str) -> Answer:
    found = assemble("chat", completion(content), False)
    assert isinstance(found, Answer)
    return found


def call(content: str = "who was it?", **fields: Any) -> Call:
    body = {"model": "m", "messages": [{"role": "user", "content": content}], **fields}
    return Call(Operation.CHAT, "m", bool(fields.get("stream")), False, json.dumps(body).encode())


def wish(stored: str, fresh: str | None, *, clearance: Clearance = ANYWHERE, again: Call | None = None) -> Wish:
    return Wish(
        cohort="t/m",
        look=Look(candidate="c" * 32, score=0.5),
        asked="who was it?",
        stored=answer(stored),
        source="miss" if again is None else "audit",
        clearance=clearance,
        fresh=None if fresh is None else answer(fresh),
        fresh_id="f" * 32 if again is None else "",
        deployment="m",
        again=again,
    )


def own_calls(server: Server) -> OwnCalls:
    gateway = server.gateway
    prices = PriceTable(shipped(), overrides_of(gateway.config))
    pipeline = gateway.pipeline
    return OwnCalls(pipeline.catalog, pipeline.dispatcher, gateway.telemetry, RealClock(), gateway.rooms, prices)


class Labels:
    """What was told."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[Judged] = asyncio.Queue()
        self.lags: list[float] = []
        self.lost: list[Wish] = []
        self.error = JudgeError()

    def tell(self, judged: Judged) -> None:
        """As the journal does."""
        if judged.source == "planted":
            self.error.hear(judged)
        else:
            self.told.put_nowait(judged)


@asynccontextmanager
async def labelling(
    server: Server, *, planted_share: float = 0.0, seed: int = 1, **options: Any
) -> AsyncIterator[tuple[Labeller, Labels]]:
    labels = Labels()
    judge = JudgeOptions.model_validate({"deployment": "m", "planted_share": planted_share} | options)
    rng = random.Random(seed)
    labeller = Labeller(
        judge,
        own_calls(server),
        labels.tell,
        RealClock(),
        rng,
        error=labels.error,
        max_wrong=0.01,
        lag=labels.lags.append,
        lost=labels.lost.append,
        wall_s=lambda: 7.0,
    )
    labeller.start()
    try:
        yield labeller, labels
    finally:
        await labeller.aclose()


@asynccontextmanager
async def hand_judged(**options: Any) -> AsyncIterator[tuple[HandEngine, Server, Labeller, Labels]]:
    async with (
        engine_by_hand() as engine,
        serving(config_of(engine.url)) as server,
        labelling(server, **options) as (labeller, labels),
    ):
        yield engine, server, labeller, labels


@asynccontextmanager
async def fake_judged(**options: Any) -> AsyncIterator[tuple[FakeEngine, Labeller, Labels]]:
    async with (
        engine_running() as engine,
        serving(config_of(engine)) as server,
        labelling(server, **options) as (labeller, labels),
    ):
        yield engine, labeller, labels


async def judged(engine: HandEngine, verdict: str) -> Turn:
    """Have the engine answer the next question to the judge: `same`, both ways round, `different`, or in these words.
    Returns how it was asked first."""
    turns = []
    for _ in range(2 if verdict == "same" else 1):
        turn = await engine.turn()
        turn.send(whole(completion({"same": "yes", "different": "No."}.get(verdict, verdict))))
        turns.append(turn)
    return turns[0]
