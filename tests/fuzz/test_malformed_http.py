"""Requests that are none, on the raw socket: refused or cut off, never a fault of ours, never a hang, and not one byte
of what is refused becomes a request at the engine."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable

import pytest

from engines.fake import FakeEngine
from tests.fuzz import corpus, mutations
from tests.fuzz.exchange import TIMEOUTS, Outcome, Seen, check, check_engine, exchange, is_error
from tests.fuzz.reader import End, requests_in
from tests.harness import Server, config_of, engine_running, serving

SEED = 20_261_122
CLIENTS = 64
PATIENT_SHARE = 20
"""One of so many clients that sent half a request waits for what the gateway does; the others go away."""


async def exchanged(
    server: Server, engine: FakeEngine, cases: Iterable[tuple[bytes, ...]]
) -> tuple[list[Outcome], list[tuple[str, bytes]]]:
    """All outcomes, and the calls that the engine got."""
    outcomes: list[Outcome] = []
    seen = Seen(engine)
    waiting = iter(enumerate(cases))

    async def client() -> None:
        for number, pieces in waiting:
            outcomes.append(await exchange(server, *pieces, eof=bool(number % PATIENT_SHARE)))
            seen.take()

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(client())
    await engine.idle()
    seen.take()
    return outcomes, seen.calls


async def fuzzed(count: int, seed: int) -> None:
    async with (
        engine_running(output_tokens=1) as engine,
        serving(config_of(engine, server=TIMEOUTS)) as server,
    ):
        outcomes, calls = await exchanged(server, engine, mutations.requests(seed, count))
        failures = []
        for outcome in outcomes:
            try:
                check(outcome)
            except AssertionError as error:
                failures.append(
                    f"{str(error).splitlines()[0]}: {outcome.sent[:400]!r} got {outcome.statuses} {outcome.rest!r}"
                )
        assert not failures, f"{len(failures)} of {count}, seed {seed}:\n" + "\n".join(failures[:5])
        check_engine(calls, outcomes)
        served = sum(200 in outcome.statuses for outcome in outcomes)
        refused = sum(400 in outcome.statuses for outcome in outcomes)
        assert served > count / 20, "the mutations leave nothing to serve"
        assert refused > count / 4, "the mutations leave nothing to refuse"


async def test_ten_thousand_mutated_requests_are_answered_once_or_refused() -> None:
    await fuzzed(10_000, SEED)


@pytest.mark.e2e
@pytest.mark.parametrize("seed", range(8))
async def test_other_mutated_requests_are_answered_once_or_refused(seed: int) -> None:
    await fuzzed(10_000, seed)


async def test_what_is_unusual_and_whole_is_served_with_exactly_its_body() -> None:
    async with engine_running(output_tokens=1) as engine, serving(config_of(engine, server=TIMEOUTS)) as server:
        for name, data in corpus.SERVED.items():
            outcomes, calls = await exchanged(server, engine, [(data,)])
            assert outcomes[0].statuses == [200], name
            assert calls == [("/v1/chat/completions", corpus.BODY)], name
            check(outcomes[0])


async def test_what_two_readers_could_take_in_two_ways_is_refused_with_all_that_follows() -> None:
    async with engine_running() as engine, serving(config_of(engine, server=TIMEOUTS)) as server:
        cases = [(data + corpus.SMUGGLED,) for data in corpus.REFUSED.values()]
        outcomes, calls = await exchanged(server, engine, cases)
        wrong = {
            name: outcome.statuses
            for name, data in corpus.REFUSED.items()
            for outcome in outcomes
            if outcome.sent == data + corpus.SMUGGLED and (outcome.statuses != [400] or not outcome.closed)
        }
        assert not wrong
        assert all(is_error(outcome.answers[0].body) for outcome in outcomes)
        assert not calls


async def test_a_refused_request_after_a_good_one_leaves_the_good_one_its_answer() -> None:
    async with engine_running(output_tokens=1) as engine, serving(config_of(engine, server=TIMEOUTS)) as server:
        cases = [(corpus.request() + data + corpus.SMUGGLED,) for data in corpus.REFUSED.values()]
        outcomes, calls = await exchanged(server, engine, cases)
        assert {tuple(outcome.statuses) for outcome in outcomes} == {(200, 400)}
        assert calls == [("/v1/chat/completions", corpus.BODY)] * len(cases)


async def test_what_is_too_large_is_refused_before_it_is_all_there() -> None:
    async with engine_running() as engine, serving(config_of(engine, server=TIMEOUTS)) as server:
        for name, data in corpus.TOO_LARGE.items():
            outcomes, calls = await exchanged(server, engine, [(data, corpus.SMUGGLED)])
            assert outcomes[0].statuses == [431], name
            assert outcomes[0].closed, name
            assert not calls, name


async def test_a_header_without_an_end_is_not_held() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server, server.connected() as wire:
        await wire.send(b"GET /version HTTP/1.1\r\nX: ")
        answer = asyncio.create_task(wire.answer())
        sent_bytes = 0
        while not answer.done():
            await wire.send(b"a" * 1000)
            sent_bytes += 1000
            await asyncio.sleep(0)
        assert (await answer).status == 431
        assert sent_bytes < 1_000_000


async def test_odd_and_whole_requests_have_their_status() -> None:
    async with engine_running() as engine, serving(config_of(engine, server=TIMEOUTS)) as server:
        for name, (data, status) in corpus.ANSWERED.items():
            outcome = await exchange(server, data + corpus.get(b"/health/live"))
            assert outcome.statuses == [status, 200], name
            check(outcome)
        assert not engine.requests


async def test_a_body_that_stops_is_refused_in_time() -> None:
    cut = [
        corpus.coded(corpus.CHUNKED, body=b"ffffffffffffffff\r\n" + corpus.BODY),
        corpus.coded(corpus.CHUNKED, body=b"7fffffff\r\n" + corpus.BODY),
        corpus.request(corpus.CHAT, corpus.HOST, b"Content-Length: 1000"),
        corpus.coded(corpus.CHUNKED, body=corpus.chunked(tail=b"")),
        corpus.coded(corpus.CHUNKED, body=corpus.chunked(tail=b"0\r\n")),
        b"GET /version\r\n",
        b"GET",
    ]
    async with engine_running() as engine, serving(config_of(engine, server=TIMEOUTS)) as server:
        outcomes = await asyncio.gather(*(exchange(server, data) for data in cut))
        assert [outcome.statuses for outcome in outcomes] == [[408]] * len(cut)
        assert not engine.requests


@pytest.mark.parametrize("kind", ["with a length", "in many chunks", "an offer of h2c, chunked", "expecting 100"])
async def test_a_client_that_leaves_at_any_byte_of_a_request_calls_no_engine(kind: str) -> None:
    data = corpus.SERVED[kind]
    async with engine_running() as engine, serving(config_of(engine, server=TIMEOUTS)) as server:
        outcomes, calls = await exchanged(server, engine, [(data[:at],) for at in range(1, len(data))])
        cut = [outcome for outcome in outcomes if requests_in(outcome.sent) == ([], End.CUT)]
        assert len(cut) == len(data) - 1
        assert set(itertools.chain(*(outcome.statuses for outcome in cut))) <= {408}
        assert not calls
