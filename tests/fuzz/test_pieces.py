"""How a request is cut into segments changes nothing."""

from __future__ import annotations

import asyncio
import re

import pytest

from tests.fuzz import corpus
from tests.fuzz.exchange import Answer, Outcome, Seen, exchange
from tests.harness import config_of, engine_running, serving

STREAM = corpus.BODY.replace(b'"max_tokens":1', b'"max_tokens":2,"stream":true')
PIPELINED = b"".join(
    [
        corpus.request(),
        corpus.get(b"/version"),
        corpus.coded(corpus.CHUNKED, body=corpus.in_chunks(STREAM)),
        corpus.get(b"/nothing", method=b"HEAD"),
        corpus.request(corpus.CHAT, corpus.HOST, corpus.LENGTH, b"Connection: close"),
    ]
)
CASES = {
    "with a length": corpus.request(),
    "in chunks": corpus.SERVED["in many chunks"],
    "with trailers": corpus.SERVED["trailers"],
    "a stream": corpus.request(corpus.CHAT, corpus.HOST, b"Content-Length: %d" % len(STREAM), body=STREAM),
    "an offer of h2c": corpus.SERVED["an offer of h2c, chunked"],
    "a whole URL": corpus.SERVED["a whole URL"],
    "pipelined": PIPELINED,
}


def told(outcome: Outcome) -> list[tuple[int, set[str], bytes]]:
    """Answers but for what differs from one to the next: ids and times."""
    return [(answer.status, set(answer.headers), _body(answer)) for answer in outcome.answers]


def _body(answer: Answer) -> bytes:
    return re.sub(rb'"(id|created)":("[^"]*"|\d+)', rb"", answer.body)


@pytest.mark.parametrize("kind", CASES)
async def test_a_request_cut_in_two_at_any_byte_has_the_same_answer(kind: str) -> None:
    data = CASES[kind]
    async with engine_running(output_tokens=2, kv_tokens=16_000) as engine, serving(config_of(engine)) as server:
        whole = told(await exchange(server, data))
        seen = Seen(engine)
        seen.take()
        calls = list(seen.calls)
        for first in range(1, len(data), 64):
            cuts = range(first, min(first + 64, len(data)))
            outcomes = await asyncio.gather(*(exchange(server, data[:at], data[at:]) for at in cuts))
            assert [told(outcome) for outcome in outcomes] == [whole] * len(cuts)
            seen.calls.clear()
            seen.take()
            assert sorted(seen.calls) == sorted(calls * len(cuts))


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("size", [1, 2, 3, 17])
async def test_a_request_in_small_pieces_has_the_same_answer(kind: str, size: int) -> None:
    data = CASES[kind]
    async with engine_running(output_tokens=2) as engine, serving(config_of(engine)) as server:
        whole = told(await exchange(server, data))
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert told(await exchange(server, *pieces)) == whole
        half = len(engine.requests) // 2
        assert [r.body for r in engine.requests[:half]] == [r.body for r in engine.requests[half:]]


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    async with engine_running(output_tokens=2) as engine, serving(config_of(engine)) as server:
        outcome = await exchange(server, PIPELINED)
    assert outcome.statuses == [200, 200, 200, 404, 200]
    assert outcome.answers[-1].headers["connection"] == "close"
    assert not outcome.rest
    assert b"[DONE]" in outcome.answers[2].body
