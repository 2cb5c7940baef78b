"""The simulated engine: by hand, and against one that goes step by step."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.simulator.endpoint import Endpoint
from gateway.simulator.engine import NEVER, Engine, EngineCost, EngineShape, Job
from gateway.simulator.plan import EngineSpec
from gateway.simulator.trace import Request
from tests.gateway.simulator import ROUND
from tests.gateway.simulator.step_by_step import step_by_step

SHAPE = EngineShape(blocks=1000, block_tokens=16, step_tokens=1000)


def run(requests: list[Request], cost: EngineCost = ROUND, shape: EngineShape = SHAPE, speed: float = 1.0) -> list[Job]:
    """Alone on one engine, times as the engine has them."""
    engine = Engine(cost, shape, speed, {}, 0)
    jobs = [Job(request, 0) for request in requests]
    ahead = list(jobs)
    while ahead or engine.next_s < NEVER:
        if ahead and ahead[0].request.arrival_s < engine.next_s:
            engine.submit(ahead[0], ahead.pop(0).request.arrival_s)
            continue
        now_s = engine.next_s
        first, ended = engine.advance()
        for job in first:
            job.first_s = now_s
        for job in ended:
            job.ended_s = now_s
    assert (engine.running, engine.waiting, engine.cache.pinned) == (0, 0, 0)
    return jobs


def times(jobs: list[Job]) -> list[tuple[float, float]]:
    return [(round(job.first_s, 6), round(job.ended_s, 6)) for job in jobs]


def test_a_request_alone_takes_its_prefill_and_a_step_per_token() -> None:
    assert times(run([Request(2.0, 100, 11)])) == [(2.6, 2.7)]  # 0.5 + 100 * 0.001, then 10 * 0.01


def test_one_token_is_first_and_last() -> None:
    assert times(run([Request(0.0, 100, 1)])) == [(0.6, 0.6)]


def test_half_the_speed_takes_twice_the_time() -> None:
    assert times(run([Request(0.0, 100, 11)], speed=0.5)) == [(1.2, 1.4)]


def test_a_long_prompt_takes_several_steps_and_those_who_decode_get_one_token_in_each() -> None:
    early, late = run([Request(0.0, 100, 4), Request(0.61, 2997, 1)])
    # 0.6 first token; 0.61 step 1 ends as the other comes; then chunks of 999, 999 and, with the other gone, 999
    assert times([early]) == [(0.6, round(0.61 + (0.5 + 0.999 + 0.01) + (0.999 + 0.01), 6))]
    assert times([late]) == [(round(0.61 + 0.5 + 3 * 0.999 + 2 * 0.01, 6),) * 2]


def test_prompts_that_fit_one_step_share_it() -> None:
    first, second = run([Request(0.0, 10, 1), Request(0.1, 400, 1)])
    third = run([Request(0.0, 10, 1), Request(0.1, 400, 1), Request(0.2, 300, 1)])[2]
    assert times([first, second]) == [(0.51, 0.51), (1.41, 1.41)]
    assert times([third]) == [(2.21, 2.21)]  # with the second: 0.51 + (0.5 + 0.4) + (0.5 + 0.3)


def test_who_finds_no_room_in_the_kv_cache_waits_for_the_end_of_another() -> None:
    shape = EngineShape(blocks=10, block_tokens=16, step_tokens=1000)
    first, second = run([Request(0.0, 100, 11), Request(0.1, 100, 11)], shape=shape)
    assert times([first]) == [(0.6, 0.7)]
    assert times([second]) == [(1.3, 1.4)]


def test_the_batch_has_a_limit() -> None:
    shape = EngineShape(blocks=1000, block_tokens=16, step_tokens=1000, max_running=1)
    assert times(run([Request(0.0, 100, 11), Request(0.0, 100, 11)], shape=shape)) == [(0.6, 0.7), (1.3, 1.4)]


def test_what_it_can_never_hold_it_does_not_take() -> None:
    engine = Engine(ROUND, EngineShape(blocks=10, block_tokens=16), 1.0, {}, 0)
    assert engine.takes(Request(0.0, 150, 10))
    assert not engine.takes(Request(0.0, 151, 10))
    assert repr(engine) == "<Engine waiting=0 decoding=0 <BlockCache pinned=0 idle=0 of 10>>"


def test_a_cached_prefix_is_not_computed_again() -> None:
    requests = [Request(0.0, 100, 1, [1, 2, 3, 4, 5, 6]), Request(1.0, 100, 1, [1, 2, 3, 7, 8, 9])]
    jobs = run(requests)
    assert [job.cached_tokens for job in jobs] == [0, 48]
    assert times(jobs)[1] == (1.552, 1.552)  # 0.5 + (100 - 48) * 0.001


def test_attention_over_what_is_cached_still_costs() -> None:
    cost = EngineCost(0.0, 0.0, 1e-6, 0.0, 0.0, 0.0)
    jobs = run([Request(0.0, 100, 1, [1, 2, 3]), Request(1.0, 100, 1, [1, 2, 3])], cost)
    assert times(jobs)[1] == (round(1.0 + 1e-6 * (100**2 - 48**2), 6),) * 2


def test_the_costs_of_a_pace_are_those_over_it() -> None:
    cost = EngineCost().paced(prefill=2.0, decode=0.5)
    assert cost.prefill_s(1000, 500) == pytest.approx(EngineCost().prefill_s(1000, 500) / 2)
    assert cost.decode_s(7, 3, 500) == pytest.approx(EngineCost().decode_s(7, 3, 500) * 2)


def test_an_elastic_endpoint_serves_everybody_alike() -> None:
    endpoint = Endpoint(EngineSpec("cloud", elastic=True, ttft_s=0.5, tpot_s=0.02))
    jobs = [Job(Request(0.0, 100, 11), 0), Job(Request(0.0, 10, 1), 0)]
    assert endpoint.takes(Request(0.0, 10**9, 1))
    for job in jobs:
        endpoint.submit(job, 1.0)
    seen = []
    while endpoint.next_s < NEVER:
        now_s = endpoint.next_s
        first, ended = endpoint.advance()
        seen += [(round(now_s, 6), "first", jobs.index(job)) for job in first]
        seen += [(round(now_s, 6), "last", jobs.index(job)) for job in ended]
    assert seen == [(1.5, "first", 0), (1.5, "first", 1), (1.5, "last", 1), (1.7, "last", 0)]


gaps_s = st.floats(0.0013, 0.5)
workloads = st.lists(st.tuples(gaps_s, st.integers(1, 5000), st.integers(1, 60)), min_size=1, max_size=12).map(
    lambda rows: [
        Request(at_s, prompt, output)
        for at_s, (_gap, prompt, output) in zip(accumulate(row[0] for row in rows), rows, strict=True)
    ]
)


@settings(max_examples=150, deadline=None)
@given(workloads, st.integers(400, 2000), st.sampled_from([0.5, 1.0, 3.0]), st.integers(1, 5))
def test_jumps_come_to_the_same_as_single_steps(
    requests: list[Request], blocks: int, speed: float, max_running: int
) -> None:
    shape = EngineShape(blocks, block_tokens=16, step_tokens=512, max_running=max_running)
    expected = step_by_step(requests, EngineCost(), shape, speed)
    found = [(job.first_s, job.ended_s) for job in run(requests, EngineCost(), shape, speed)]
    assert found == [pytest.approx(pair, abs=1e-6) for pair in expected]
