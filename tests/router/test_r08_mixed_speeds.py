"""Engines of different speeds under one policy, in virtual time (R08)."""

from __future__ import annotations

import random

import pytest

from router.load import ReplicaLoad
from router.policies import POLICIES
from router.types import Features
from tests.router.fcfs import Engine, poisson, serve

MEAN_TOKENS = 1000


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rtt_s", [0.0, 0.08])
@pytest.mark.parametrize(("busy", "decode_s"), [(1.0, 0.0), (1.0, 0.3), (1.3, 0.0), (1.3, 3.0)])
def test_each_replicas_share_of_the_tokens_follows_its_measured_speed(
    busy: float, decode_s: float, rtt_s: float, seed: int
) -> None:
    """R08: three engines at speeds 1, 1 and 0.5, the slow one behind a round trip, with as much to do as they can.

    With less to do the fast ones get more than that, since an idle fast engine is the better choice.
    """
    rng = random.Random(seed)
    fast, slow = 1e-4, 2e-4
    engines = [Engine(fast, decode_s=decode_s), Engine(fast, decode_s=decode_s)]
    engines.append(Engine(slow, rtt_s=rtt_s, decode_s=2 * decode_s))
    loads = [ReplicaLoad(f"replica-{i}") for i in range(3)]
    policy = POLICIES["marginal_latency"](random.Random(seed))
    per_s = busy * sum(1 / engine.s_per_token for engine in engines) / MEAN_TOKENS
    sent = serve(
        poisson(rng, per_s, (100, 2 * MEAN_TOKENS - 100), 3000),
        engines,
        loads,
        lambda now_s, tokens: policy.choose(Features(tokens, 10.0, now_s=now_s), loads),
    )
    measured = [1 / (load.speed.prefill_s(MEAN_TOKENS, 0) / MEAN_TOKENS) for load in loads]
    for tokens, speed in zip(sent, measured, strict=True):
        assert tokens / sum(sent) == pytest.approx(speed / sum(measured), rel=0.15)
    assert measured[2] / measured[0] == pytest.approx(0.5, rel=0.1)
