"""A21: whatever tenants ask, in whatever order and at once, nobody is given what was said to another, unless the
deployment shares its answers and enough tenants were told the same."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cache.journal import sqlite
from tests.gateway.caching.scribe import PLAIN, Given, Scribe, ask, key_of, keys_of, scribe_running
from tests.harness import Json, chat, config_of, serving

EXAMPLES = 80
"""Not shrunk where one fails: that takes longer than a test may."""
TENANTS = {"a1": "a", "a2": "a", "b": "b", "c": "c", "d": "d"}
CLASSES = ("public", "confidential")
CONFIRMATIONS = {"own": None, "shared-1": 1, "shared-2": 2}
"""By deployment; None: it does not share."""
QUESTIONS = (PLAIN, f"{PLAIN} too", "said but once")
CONTROLS: tuple[Json, ...] = ({}, {}, {"cache_control": "no-cache"}, {"x_headrace_cache_ttl": "60"})


class Asked(NamedTuple):
    """which: of two gateways of that epoch; all share a file."""

    key: str
    deployment: str
    question: str
    sensitivity: str
    epoch: int
    stream: bool
    controls: int
    which: int

    @property
    def tenant(self) -> str:
        return TENANTS[self.key]

    @property
    def topic(self) -> tuple[object, ...]:
        """What two calls must have in common for one to get the answer to the other."""
        return self.deployment, self.question, self.sensitivity, self.epoch


TOPIC = (sorted(CONFIRMATIONS), QUESTIONS, CLASSES, (0, 1))
WAYS = st.tuples(st.sampled_from(sorted(TENANTS)), st.booleans(), st.integers(0, len(CONTROLS) - 1), st.integers(0, 1))


@st.composite
def mixes(draw: st.DrawFn) -> list[list[Asked]]:
    """Calls one after the other, some of them at once, about few things that are nearly the same."""
    topics = [draw(st.tuples(*map(st.sampled_from, TOPIC)))]
    for place in draw(st.lists(st.integers(0, len(TOPIC) - 1), max_size=2)):
        topics.append((*topics[0][:place], draw(st.sampled_from(TOPIC[place])), *topics[0][place + 1 :]))
    calls = st.builds(lambda topic, way: Asked(way[0], *topic, *way[1:]), st.sampled_from(topics), WAYS)
    return draw(st.lists(st.lists(calls, min_size=1, max_size=3), min_size=8, max_size=14))


def config(scribe: Scribe, file: Path, epoch: int) -> Json:
    found = config_of(scribe.url, keys=keys_of(**TENANTS), cache={"enabled": True, "store": "sqlite"})
    found["cache"] |= {"path": str(file), "epoch": epoch}
    found["deployments"] = {
        name: {"variants": {"v": {"pools": ["p"], "model": "m"}}}
        | ({"cache": {"share": "all", "confirmations": count}} if count else {})
        for name, count in CONFIRMATIONS.items()
    }
    return found


@dataclass
class Ledger:
    """Of what the engine said to whom, as the clients know it."""

    topics: dict[str, tuple[object, ...]] = field(default_factory=dict)
    tenants: dict[str, str] = field(default_factory=dict)
    votes: dict[tuple[object, ...], set[str]] = field(default_factory=lambda: defaultdict(set))

    def note(self, call: Asked, got: Given) -> None:
        """An answer that the engine gave to this call."""
        assert got.mark not in self.topics, "one answer was made for two calls"
        self.topics[got.mark], self.tenants[got.mark] = call.topic, call.tenant
        self.votes[*call.topic, got.text].add(call.tenant)

    def check(self, call: Asked, got: Given) -> bool:
        """Returns whether it is another tenant's answer, rightly so."""
        assert self.topics[got.mark] == call.topic, "an answer to another question"
        if self.tenants[got.mark] == call.tenant:
            return False
        confirmations = CONFIRMATIONS[call.deployment]
        assert confirmations is not None, f"{call} got what was said to {self.tenants[got.mark]}"
        assert len(self.votes[*call.topic, got.text]) > confirmations, f"{call} got what too few were told"
        return True


async def play(
    clients: dict[tuple[int, int], httpx.AsyncClient], scribe: Scribe, mix: list[list[Asked]], salt: int
) -> set[str]:
    """Raises AssertionError if anybody got what is not for him. Returns what else came to pass."""
    ledger, seen = Ledger(), set()
    for batch in mix:
        answers = await asyncio.gather(*(_one(clients[call.epoch, call.which], call, salt) for call in batch))
        told = list(zip(batch, answers, strict=True))
        for call, got in told:
            assert scribe.said[got.mark] == got.text, "not what the engine said"
            if got.source == "miss":
                ledger.note(call, got)
        for call, got in told:
            if got.source != "miss":
                assert got.source == "hit"
                seen.add("another's answer" if ledger.check(call, got) else "its own answer")
    return seen


async def _one(client: httpx.AsyncClient, call: Asked, salt: int) -> Given:
    body = chat(f"{call.question} {salt}", stream=call.stream) | {"model": call.deployment}
    headers = key_of(call.key) | {"x_headrace_sensitivity": call.sensitivity} | CONTROLS[call.controls]
    return await ask(client, body, **headers)


async def test_a21_no_mix_of_calls_gives_anybody_what_was_said_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "TAIL_S", 0.001)
    loop, salts, seen = asyncio.get_running_loop(), itertools.count(), set[str]()
    async with AsyncExitStack() as stack:
        scribe = await stack.enter_async_context(scribe_running())
        clients = {}
        for epoch, which in itertools.product((0, 1), (0, 1)):
            server = await stack.enter_async_context(serving(config(scribe, tmp_path / "cache.sqlite", epoch)))
            clients[epoch, which] = await stack.enter_async_context(server.client())

        @settings(max_examples=EXAMPLES, phases=[Phase.generate], database=None, deadline=None)
        @given(mixes())
        def holds(mix: list[list[Asked]]) -> None:
            playing = play(clients, scribe, mix, next(salts))
            seen.update(asyncio.run_coroutine_threadsafe(playing, loop).result())

        await asyncio.to_thread(holds)
    assert seen == {"another's answer", "its own answer"}, "the mixes are too thin"


def test_a21_the_check_would_find_a_leak() -> None:
    """Answers that are shared without any confirmation are what it complains about."""
    call = Asked("b", "own", PLAIN, "public", 0, False, 0, 0)
    ledger = Ledger()
    ledger.note(call._replace(key="a1"), Given("miss", "mark-1", "x", ""))
    assert not ledger.check(call._replace(key="a2"), Given("hit", "mark-1", "x", ""))
    with pytest.raises(AssertionError, match="said to a"):
        ledger.check(call, Given("hit", "mark-1", "x", ""))
    with pytest.raises(AssertionError, match="another question"):
        ledger.check(call._replace(key="a1", sensitivity="confidential"), Given("hit", "mark-1", "x", ""))
