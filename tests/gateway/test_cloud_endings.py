"""A13 behind clouds: what ends badly frees all it held by itself, with nothing for the collector."""

from __future__ import annotations

import pytest

from tests.endings import REPLICAS, ask, left_by
from tests.engines.anthropic_messages import START, TALK, block, event, named
from tests.engines.clouds import answer, cloud, stream
from tests.harness import Json, chat, config_of, serving, streamed

TEXT = named(START, *block(0, "text", {"type": "text_delta", "text": "So"}, text=""))
FAILED = {"type": "error", "error": {"type": "api_error", "message": "oops"}}
ENDINGS: dict[str, tuple[bytes, Json]] = {
    "good": (stream(TALK), streamed()),
    "no message": (answer({"type": "completion"}), chat()),
    "no JSON": (answer(b"<html>"), chat()),
    "refused": (answer(FAILED, 400), streamed()),
    "not asked": (b"", chat(n=2)),
    "error event": (stream(TEXT + named(event("error", error=FAILED["error"]))), streamed()),
    "bad event": (stream(TEXT + b"data: {\n\n"), streamed()),
    "bad first event": (stream(b"data: {\n\n"), streamed()),
    "too short": (stream(TEXT), streamed()),
    "hang up": (stream(TEXT, ends=False), streamed()),
}
AZURE = {"kind": "azure", "api_key": "k"}
ANTHROPIC = {"kind": "anthropic", "api_key": "k"}
CLOUD: Json = {"pool": {"site": "cloud"}, "attempts": 1, "policy": "round_robin"}
CASES = [(ANTHROPIC, ending) for ending in ENDINGS] + [(AZURE, "refused"), (AZURE, "hang up")]


@pytest.mark.parametrize(("engine", "ending"), CASES)
async def test_a13_no_ending_leaves_a_cycle_of_ours(engine: Json, ending: str) -> None:
    reply, body = ENDINGS[ending]
    async with cloud(reply) as peer:
        config = config_of(*[peer.url] * REPLICAS, engine=engine, **CLOUD)
        async with serving(config) as server:
            assert not await left_by(server, lambda: ask(server, body, hangs_up=ending == "hang up"))
