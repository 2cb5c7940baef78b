"""Whole runs: real policies, books and queue in front of simulated engines."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import pytest

from gateway.simulator.engine import NEVER, Job
from gateway.simulator.plan import EngineSpec, Plan, QueueSpec, Route, Setting
from gateway.simulator.run import Simulation, simulate, simulate_plan
from gateway.simulator.trace import Caller, Request, Trace
from router.policies import POLICIES
from tests.gateway.simulator import ROUND, conversations, trace_of

ONE = Setting((1.0,), (0.0,), cost=ROUND)


def ttfts(jobs: list[Job]) -> list[float]:
    return [round(job.first_s - job.request.arrival_s, 6) for job in sorted(jobs, key=lambda j: j.request.arrival_s)]


def refused(jobs: list[Job]) -> int:
    return sum(job.ended_s == NEVER for job in jobs)


def by(tenant: str = "", *, key: str = "", deployment: str = "", sensitivity: str = "") -> Caller:
    return Caller(tenant, key, deployment, sensitivity)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_request_is_answered_once_and_twice_alike(policy: str) -> None:
    trace = conversations(40, 3)
    setting = Setting((1.0, 1.0, 0.5), (0.0, 0.0, 0.08), scale=3.0, kv_tokens=100_000)
    jobs = simulate(trace, setting, policy, seed=1)
    again = simulate(trace, setting, policy, seed=1)
    assert sorted(job.request.arrival_s for job in jobs) == [r.arrival_s for r in trace.arrivals(1, 3.0)]
    assert refused(jobs) == 0
    assert all(job.request.arrival_s < job.first_s <= job.ended_s for job in jobs)
    assert [(job.engine, job.ended_s) for job in jobs] == [(job.engine, job.ended_s) for job in again]


def test_the_seed_makes_a_difference() -> None:
    trace = conversations(40, 3)
    one, other = (simulate(trace, Setting(), "random", seed=seed) for seed in (1, 2))
    assert [job.engine for job in one] != [job.engine for job in other]


def test_the_round_trip_is_part_of_what_a_client_sees() -> None:
    near, far = (simulate(trace_of(Request(0.0, 100, 11)), replace(ONE, rtts_s=(rtt,)), "random", 1) for rtt in (0, 1))
    assert [ttfts(near), ttfts(far)] == [[0.6], [1.6]]
    assert [round(jobs[0].ended_s, 6) for jobs in (near, far)] == [0.7, 1.7]


def test_routing_to_where_the_prefix_is_beats_taking_turns() -> None:
    trace = conversations(300, 5, rate_per_s=0.8)
    setting = Setting((1.0,) * 4, (0.0,) * 4, kv_tokens=400_000)
    means, hits = {}, {}
    for policy in ("round_robin", "marginal_latency"):
        jobs = simulate(trace, setting, policy, seed=1)
        means[policy] = fmean(ttfts(jobs))
        hits[policy] = sum(job.cached_tokens for job in jobs)
    assert means["marginal_latency"] < 0.7 * means["round_robin"]
    assert hits["marginal_latency"] > 1.5 * hits["round_robin"]


def test_predicted_prefixes_come_close_to_exact_ones() -> None:
    trace = conversations(150, 4)
    settings = [Setting((1.0,) * 4, (0.0,) * 4, knowing=knowing) for knowing in ("exact", "predicted")]
    exact, predicted = (fmean(ttfts(simulate(trace, setting, "marginal_latency", 1))) for setting in settings)
    assert predicted == pytest.approx(exact, rel=0.2)


def test_what_is_over_the_limit_is_refused() -> None:
    trace = trace_of(*(Request(0.01 * i, 100, 11) for i in range(5)))
    jobs = simulate(trace, replace(ONE, max_in_flight=2), "random", 1)
    assert (len(jobs), refused(jobs)) == (5, 3)
    assert all(job.engine == -1 for job in jobs if job.ended_s == NEVER)


def test_what_is_over_the_limit_waits_if_there_is_a_queue() -> None:
    trace = trace_of(*(Request(0.01 * i, 100, 11) for i in range(3)))
    jobs = simulate(trace, replace(ONE, max_in_flight=1, queue=QueueSpec()), "random", 1)
    assert ttfts(jobs) == [0.6, 1.29, 1.98]  # each begins when the one before it has ended: 0.7 each


def test_a_wait_that_is_too_long_is_refused_and_so_is_what_the_queue_has_no_room_for() -> None:
    trace = trace_of(*(Request(0.01 * i, 100, 11) for i in range(4)))
    impatient = simulate(trace, replace(ONE, max_in_flight=1, queue=QueueSpec(max_wait_s=0.5)), "random", 1)
    assert refused(impatient) == 3
    narrow = simulate(trace, replace(ONE, max_in_flight=1, queue=QueueSpec(max_waiting=1)), "random", 1)
    assert (len(narrow), refused(narrow)) == (4, 2)


def test_while_the_prompts_ahead_take_too_long_the_queue_holds_requests_back() -> None:
    trace = trace_of(*(Request(float(i), 100, 1) for i in range(6)), Request(6.0, 900, 1), Request(6.1, 100, 1))
    held = replace(ONE, queue=QueueSpec(hold_over_s=0.05))
    simulation = Simulation(held.plan("random"), 16, seed=1)
    assert ttfts(simulation.run(trace.requests))[-1] == pytest.approx(1.9, abs=0.11)  # looked at every 0.1 s


def test_tenants_share_the_queue_fairly() -> None:
    flood = [Request(0.001 * i, 100, 1, caller=by("heavy")) for i in range(40)]
    trace = trace_of(*flood, Request(0.5, 100, 1, caller=by("light")))
    jobs = simulate(trace, replace(ONE, max_in_flight=1, queue=QueueSpec()), "random", 1)
    light = next(job for job in jobs if job.request.caller.tenant == "light")
    assert light.first_s < 3.0  # of some 24 seconds


def test_who_waits_when_all_is_over_is_refused() -> None:
    """An engine that may have nothing in flight never answers, so that nothing frees up."""
    spec = QueueSpec(max_wait_s=1e9)
    plan = Plan((EngineSpec("a", max_in_flight=1),), {"": Route("random", ((1.0, ()),), queue=spec)})
    simulation = Simulation(plan, 16, seed=1)
    simulation._front.arrive(Request(0.0, 10, 1), 0.0)
    simulation._front.close()
    assert len(simulation._front.refused) == 1


def test_a_prompt_that_no_engine_can_hold_is_refused() -> None:
    jobs = simulate(trace_of(Request(0.0, 5000, 1), Request(1.0, 100, 1)), replace(ONE, kv_tokens=2000), "random", 1)
    assert [job.ended_s == NEVER for job in jobs] == [True, False]


def plan(routes: dict[str, Route], *engines: EngineSpec) -> Plan:
    return Plan(engines, routes, cost=ROUND)


def test_deployments_have_their_own_engines_and_variants_go_by_weight() -> None:
    routes = {"a": Route("round_robin", ((3.0, (0,)), (1.0, (1,)))), "b": Route("round_robin", ((1.0, (2,)),))}
    both = plan(routes, EngineSpec("0"), EngineSpec("1"), EngineSpec("2"))
    asked = [Request(float(i), 10, 1, caller=by(deployment="a" if i % 2 else "b")) for i in range(400)]
    jobs = simulate_plan(trace_of(*asked), both, 1)
    counts = [sum(job.engine == engine for job in jobs) for engine in range(3)]
    assert counts[2] == 200
    assert 2.0 < counts[0] / counts[1] < 4.5


def test_a_deployment_that_is_not_there_refuses() -> None:
    jobs = simulate_plan(
        trace_of(Request(0.0, 10, 1, caller=by(deployment="gone"))),
        plan({"a": Route("random", ((1.0, (0,)),))}, EngineSpec("0")),
        1,
    )
    assert refused(jobs) == 1


def test_a_fallback_answers_when_all_are_full() -> None:
    routes = {"a": Route("random", ((1.0, (0,)),), fallbacks=("b",)), "b": Route("random", ((1.0, (1,)),))}
    both = plan(routes, EngineSpec("0", max_in_flight=1), EngineSpec("1", max_in_flight=1))
    asked = [Request(0.01 * i, 10, 1, caller=by(deployment="a")) for i in range(3)]
    jobs = simulate_plan(trace_of(*asked), both, 1)
    assert [job.engine for job in jobs] == [0, 1, -1]


def test_a_key_has_its_limit_and_gives_back_what_it_held() -> None:
    limited = replace(plan({"": Route("random", ((1.0, (0,)),))}, EngineSpec("0")), key_limits={"k": 1})
    arrivals = (0.0, 0.1, 5.0)
    asked = [Request(at_s, 10, 1, caller=by(key="k")) for at_s in arrivals] + [Request(0.2, 10, 1)]
    jobs = simulate_plan(trace_of(*sorted(asked, key=lambda r: r.arrival_s)), limited, 1)
    assert [job.request.arrival_s for job in jobs if job.ended_s == NEVER] == [0.1]


def test_sensitive_requests_go_only_where_they_may() -> None:
    routes = {"": Route("random", ((1.0, (0,)), (1.0, (1, 2))))}
    kept = replace(
        plan(routes, EngineSpec("0"), EngineSpec("1"), EngineSpec("2")),
        allowed={"secret": frozenset({2}), "none": frozenset()},
    )
    names = ["secret", "public", "none"] * 20
    asked = [Request(float(i), 10, 1, caller=by(sensitivity=name)) for i, name in enumerate(names)]
    jobs = simulate_plan(trace_of(*asked), kept, 1)
    where = {name: {job.engine for job in jobs if job.request.caller.sensitivity == name} for name in set(names)}
    assert where == {"secret": {2}, "public": {0, 1, 2}, "none": {-1}}


def test_a_cloud_takes_what_the_engines_do_not() -> None:
    routes = {"": Route("random", ((1.0, (0, 1)),))}
    hybrid = plan(routes, EngineSpec("0", max_in_flight=1), EngineSpec("1", elastic=True, ttft_s=0.25, tpot_s=0.1))
    jobs = simulate_plan(trace_of(*(Request(0.001 * i, 100, 2) for i in range(50))), hybrid, 1)
    away = [job for job in jobs if job.engine == 1]
    assert len(away) == 49
    assert {round(job.first_s - job.request.arrival_s, 6) for job in away} == {0.25}
    assert {round(job.ended_s - job.first_s, 6) for job in away} == {0.1}


def test_an_empty_trace_has_no_jobs() -> None:
    assert simulate(Trace("none", [], 16), ONE, "random", 1) == []
