"""Figures of runs, worked by hand."""

from __future__ import annotations

import pytest

from gateway.simulator.access_trace import Measured
from gateway.simulator.engine import EngineCost, Job
from gateway.simulator.plan import EngineSpec, Plan, Price, Route
from gateway.simulator.plot import cdf_svg
from gateway.simulator.report import Outcome, Slo, jain, measured_figures, medians, outcome, quantile
from gateway.simulator.trace import Caller, Request
from tests.gateway.simulator import ROUND

PLAN = Plan((EngineSpec("0"),), {"": Route("random", ((1.0, (0,)),))}, cost=ROUND)


def job(arrival_s: float, ttft_s: float, tpot_s: float, tokens: int = 11, tenant: str = "", prompt: int = 100) -> Job:
    done = Job(Request(arrival_s, prompt, tokens, caller=Caller(tenant)), 0)
    done.first_s = arrival_s + ttft_s
    done.ended_s = done.first_s + tpot_s * (tokens - 1)
    done.cached_tokens = prompt // 4
    return done


def test_the_figures_of_a_run() -> None:
    refused = Job(Request(0.0, 100, 1))
    found = outcome(
        [job(0.0, 1.0, 0.1), job(10.0, 3.0, 0.05), job(4.0, 1.5, 0.2, tokens=1), refused], PLAN, Slo()
    ).figures
    expected = {
        "mean_ttft_s": 5.5 / 3,
        "p50_ttft_s": 1.5,
        "p90_ttft_s": 3.0,
        "mean_tpot_s": 0.075,
        "p50_tpot_s": 0.05,
        "mean_e2e_s": (2.0 + 3.5 + 1.5) / 3,
        "p99_e2e_s": 3.5,
        "slo_share": 2 / 4,
        "goodput_rps": 2 / 13.5,
        "hit_rate": 0.25,
        "completed": 3,
        "completed_share": 0.75,
        "output_tokens_per_s": 23 / 13.5,
        "fairness": 1.0,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert "price_usd" not in found


def test_the_target_of_a_long_prompt_is_twice_what_it_takes_alone() -> None:
    slo = Slo(ttft_s=2.0, prefills=2.0, tpot_s=0.1)
    assert slo.met(job(0.0, 2.99, 0.1, prompt=1000), ROUND)  # 2 * (0.5 + 1000 * 0.001)
    assert not slo.met(job(0.0, 3.01, 0.1, prompt=1000), ROUND)
    assert not slo.met(job(0.0, 1.0, 0.101), ROUND)
    assert slo.met(job(0.0, 1.0, 9.0, tokens=1), ROUND)


def test_tenants_that_fare_alike_are_treated_fairly() -> None:
    alike = [job(0.0, 1.2, 0.02, tenant="a"), job(0.0, 1.2, 0.02, tenant="b"), job(5.0, 1.2, 0.02, tenant="b")]
    assert outcome(alike, PLAN, Slo()).figures["fairness"] == pytest.approx(1.0)
    # alone each would take 0.6 + 10 * 0.01: "a" has its full speed, "b" a seventh
    apart = [job(0.0, 0.6, 0.01, tenant="a"), job(0.0, 3.9, 0.1, tenant="b")]
    assert outcome(apart, PLAN, Slo()).figures["fairness"] == pytest.approx((8 / 7) ** 2 / (2 * (1 + 1 / 49)))


def test_jains_index() -> None:
    assert jain([1.0, 1.0, 1.0, 1.0]) == 1.0
    assert jain([1.0, 0.0, 0.0, 0.0]) == 0.25
    assert jain([]) is None


def test_the_price_is_that_of_the_engine_that_answered() -> None:
    specs = (EngineSpec("0"), EngineSpec("1", price=Price(2.0, 10.0)))
    plan = Plan(specs, PLAN.routes)
    here, away = job(0.0, 1.0, 0.1, tokens=100), job(0.0, 1.0, 0.1, tokens=100, prompt=1000)
    away.engine = 1
    assert outcome([here, away], plan, Slo()).figures["price_usd"] == pytest.approx(0.003)


def test_a_run_of_nothing_has_no_figures_but_zeros() -> None:
    found = outcome([], PLAN, Slo())
    assert found.figures["completed"] == 0
    assert {v for k, v in found.figures.items() if k != "completed"} == {None}
    assert found.curves == {"ttft": [], "tpot": [], "e2e": []}


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.2, 1), (0.21, 2), (0.5, 3), (0.99, 5), (1.0, 5)])
def test_quantiles_are_values_that_occurred(share: float, value: float) -> None:
    assert quantile([1, 2, 3, 4, 5], share) == value


def test_medians_are_taken_figure_by_figure_of_what_is_known() -> None:
    runs = [
        Outcome({"a": 1.0, "b": None, "c": None}, {"ttft": [1.0, 5.0]}),
        Outcome({"a": 9.0, "b": 4.0, "c": None}, {"ttft": [2.0, 9.0]}),
        Outcome({"a": 2.0, "b": 6.0, "c": None}, {"ttft": [0.0, 7.0]}),
    ]
    assert medians(runs) == Outcome({"a": 2.0, "b": 5.0, "c": None}, {"ttft": [1.0, 7.0]})


def test_a_log_has_the_same_figures_as_far_as_it_tells() -> None:
    answers = [Measured("p", "p-0", 100, 11, 50, 1.0, 2.0), Measured("p", "p-0", 300, 5, 50, None, 4.0)]
    found = measured_figures(answers)
    assert found["mean_tpot_s"] == pytest.approx(0.1)
    assert (found["mean_ttft_s"], found["mean_e2e_s"]) == (1.0, 3.0)
    assert (found["hit_rate"], found["completed"]) == (0.25, 2)
    assert measured_figures([])["hit_rate"] is None


def test_a_prompt_that_is_cached_in_part_takes_less() -> None:
    assert EngineCost().prefill_s(1000, 500) < EngineCost().prefill_s(1000)


def test_a_plot_has_a_curve_for_each_name_and_no_markup_of_its_own() -> None:
    curves = {f"policy {i} <&>": [0.0, 0.5, 20.0 + i] for i in range(12)} | {"empty": []}
    svg = cdf_svg("TTFT <b>", curves)
    assert svg.count("<polyline") == 12
    assert svg.count("stroke-dasharray") == 2 * 2
    assert "policy 11 &lt;&amp;&gt;" in svg
    assert "<b>" not in svg
    assert "empty" not in svg
    assert "<polyline" not in cdf_svg("nothing", {})
