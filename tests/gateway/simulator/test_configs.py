"""From configurations to what is simulated of them."""

from __future__ import annotations

import pytest

from gateway.config import Config
from gateway.config.load import parse_config
from gateway.simulator.access_trace import Log, Measured
from gateway.simulator.calibrate import Pace, paces_of, typical
from gateway.simulator.configs import fitted, plan_of, scenery
from gateway.simulator.engine import NEVER, EngineCost
from gateway.simulator.plan import CLOUD_TTFT_S, Plan, Price, QueueSpec
from gateway.simulator.run import simulate_plan
from gateway.simulator.trace import Caller, Request, Trace
from tests.gateway.simulator import conversations

FULL = """
server: {workers: 2}
auth:
  keys:
    - {name: batch, hash: "sha256:0000000000000000000000000000000000000000000000000000000000000000", max_parallel: 3}
    - {name: free, hash: "sha256:1111111111111111111111111111111111111111111111111111111111111111"}
pools:
  gpus: {urls: ["http://10.0.0.1:1", "http://10.0.0.2:1"], max_in_flight: 4}
  found: {dns: {name: vllm.svc, port: 8000}}
  away: {urls: ["https://api.example.com"]}
prices: {big: {input: 2.5, output: 10.0}}
tenants: {gold: {weight: 9}, silver: {weight: 3}, default: {priority: 2}}
deployments:
  llama:
    policy: least_requests
    variants:
      full: {pools: [gpus, found], weight: 3}
      off: {pools: [away], weight: 0}
    fallbacks: {overloaded: [big]}
    queue: {max_waiting: 7, max_wait_s: 5, hold_over_s: 9, age_s: 3, weights: {gold: 2}, classes: {batch: 4}}
  big:
    variants: {default: {pools: [away]}}
    queue: {max_waiting: 0}
"""
NOTHING = Log(
    Trace("log", [Request(0.0, 10, 1)], 64), [Measured("found", f"found-{i}", 9, 1, 0, None, 1.0) for i in (0, 1, 1)]
)


def full() -> Plan:
    return plan_of(parse_config(FULL, env={}), scenery(NOTHING, 2.0, 10_000, 512))


def test_pools_become_engines_and_those_that_are_found_are_as_many_as_the_log_names() -> None:
    specs = full().engines
    assert [(spec.pool, spec.max_in_flight, spec.elastic) for spec in specs] == [
        ("gpus", 8, False),
        ("gpus", 8, False),
        ("found", None, False),
        ("found", None, False),
        ("away", None, True),
    ]
    assert [spec.price for spec in specs] == [None] * 4 + [Price(2.5, 10.0)]


def test_limits_are_those_of_all_workers() -> None:
    assert full().key_limits == {"batch": 3}


def test_deployments_become_routes() -> None:
    routes = full().routes
    assert routes["llama"].variants == ((3.0, (0, 1, 2, 3)),)
    assert (routes["llama"].policy, routes["llama"].fallbacks) == ("least_requests", ("big",))
    assert routes["llama"].queue == QueueSpec(
        14, 5.0, 9.0, 3.0, {"gold": 2.0, "silver": 3.0, "default": 1.0}, {"batch": 4, "free": 2}
    )
    assert routes["big"].queue is None


def test_residency_keeps_what_is_sensitive_at_home() -> None:
    at_home = frozenset({0, 1, 2, 3})
    assert full().allowed == {"confidential": at_home, "restricted": at_home}


def test_how_it_is_driven_is_not_the_configurations_matter() -> None:
    plan = full()
    assert (plan.scale, plan.kv_tokens, plan.step_tokens) == (2.0, 10_000, 512)


def test_a_pool_whose_engines_the_gateway_starts_has_as_many_as_it_starts() -> None:
    text = (
        "pools: {own: {engine: {kind: vllm, model: m}, replicas: 3}}\ndeployments: {m: {variants: {d: {pools: [own]}}}}"
    )
    assert len(plan_of(parse_config(text, env={}), scenery(NOTHING, 1.0, 10_000, 512)).engines) == 3


def answers(pool: str, pace: Pace, count: int = 20) -> list[Measured]:
    cost = EngineCost().paced(pace.prefill, pace.decode)
    rows = []
    for i in range(count):
        ttft_s = cost.prefill_s(1000 + i, 100)
        rows.append(Measured(pool, pool, 1000 + i, 101, 100, ttft_s, ttft_s + 100 * cost.decode_s(1, 1, 1000 + i)))
    return rows


def test_the_quickest_answers_tell_the_pace_of_a_pool() -> None:
    measured = answers("slow", Pace(0.5, 0.25)) + answers("fast", Pace(2.0, 4.0)) + answers("new", Pace(), count=4)
    paces = paces_of(measured, EngineCost())
    assert {name: (round(p.prefill, 6), round(p.decode, 6)) for name, p in paces.items()} == {
        "slow": (0.5, 0.25),
        "fast": (2.0, 4.0),
    }
    middle = typical(list(paces.values()))
    assert (round(middle.prefill, 6), round(middle.decode, 6)) == (1.25, 2.125)
    assert typical([]) == Pace()
    assert paces_of([Measured("p", "p", 10, 1, 0, 0.5, 0.5)] * 9, EngineCost())["p"].decode == 1.0


def test_clouds_are_as_quick_as_half_of_their_answers() -> None:
    log = Log(NOTHING.trace, answers("away", Pace()) + answers("gpus", Pace(0.5, 0.5)))
    specs = plan_of(parse_config(FULL, env={}), scenery(log, 1.0, 10_000, 512)).engines
    assert specs[-1].ttft_s == pytest.approx(EngineCost().prefill_s(1009, 100))
    assert all(spec.cost is not None for spec in specs[:3])
    assert [spec.cost.prefill_s(10) for spec in specs[:3] if spec.cost] == [
        pytest.approx(2 * EngineCost().prefill_s(10))
    ] * 3
    assert full().engines[4].ttft_s == CLOUD_TTFT_S


def logged(config: Config, trace: Trace, pace: Pace) -> Log:
    """What the access log would say if the engines had this pace."""
    seen = scenery(NOTHING, 1.0, 768_000, 8192)
    plan = plan_of(config, seen)
    specs = tuple(pace.applied(spec, seen.cost) for spec in plan.engines)
    jobs = simulate_plan(trace, Plan(specs, plan.routes), seed=9)
    measured = [
        Measured(
            plan.engines[job.engine].pool,
            "",
            job.request.prompt_tokens,
            job.request.output_tokens,
            job.cached_tokens,
            job.first_s - job.request.arrival_s,
            job.ended_s - job.request.arrival_s,
        )
        for job in jobs
        if job.ended_s != NEVER
    ]
    return Log(trace, measured)


@pytest.mark.parametrize("rate_per_s", [0.1, 0.4])
def test_engines_are_fitted_to_the_log_although_its_requests_were_batched(rate_per_s: float) -> None:
    """At the higher rate an answer's tokens take several times what they take alone."""
    config = parse_config(
        """
        pools: {gpus: {urls: ["http://10.0.0.1:1", "http://10.0.0.2:1", "http://10.0.0.3:1"]}}
        deployments: {llama: {policy: least_requests, variants: {d: {pools: [gpus]}}}}
        """,
        env={},
    )
    trace = conversations(150, 4, rate_per_s=rate_per_s)
    for request in trace.requests:
        request.caller = Caller(deployment="llama")
    log = logged(config, trace, Pace(0.6, 1.8))
    seen = fitted(log, config, scenery(log, 3.0, 768_000, 8192))
    assert seen.scale == 3.0
    assert seen.paces["gpus"].prefill == pytest.approx(0.6, rel=0.1)
    assert seen.paces["gpus"].decode == pytest.approx(1.8, rel=0.2)
