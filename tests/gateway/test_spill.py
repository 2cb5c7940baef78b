"""Which rungs are open to a call: on-premise, a smaller variant, a cloud. In virtual time, on the real ladder."""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Iterable
from decimal import Decimal
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.catalog import Variant
from gateway.config import Telemetry as Options
from gateway.config.spill_options import OfferOptions, SpillOptions
from gateway.needs import NO_NEEDS, Menu, Needs
from gateway.pools import Pool
from gateway.prices import Price, PriceTable, shipped
from gateway.record import Usage
from gateway.residency import ANYWHERE, Clearance
from gateway.spill import NOBODY_THERE, Climb, Forecast, Ladder, Rung, Step, best_of, watch
from gateway.telemetry import Telemetry, merge, render
from router.load import ReplicaLoad, Work
from router.speed import Speed
from router.types import Features

GPUS, SMALL, CLOUD = Pool("gpus"), Pool("small"), Pool("cloud", "cloud")
PRICES = PriceTable(shipped(), {"m": Price(source="test", input=Decimal(1_000_000), output=Decimal(2_000_000))})
"""So that a token of a prompt costs 1 USD."""
RNG = random.Random(7)
ONE_TOKEN = Features(prompt_tokens=1)
STEP_DOWN = OfferOptions(step_down=True)


def variant(name: str, *pools: Pool, weight: float = 1.0) -> Variant:
    return Variant(name, "m", weight, pools)


def ladder(options: SpillOptions, *variants: Variant, workers: int = 1, **offers: OfferOptions) -> Ladder:
    builds = variants or (variant("big", GPUS, CLOUD), variant("tiny", SMALL))
    offers.setdefault("tiny", STEP_DOWN)
    menu = Menu({one.name: offers.get(one.name, OfferOptions()) for one in builds})
    return Ladder("chat", options, builds, menu, PRICES, workers)


def climb(on: Ladder, clearance: Clearance = ANYWHERE, needs: Needs = NO_NEEDS, tenant: str = "t") -> Climb:
    found = on.climb(RNG, clearance, needs, tenant)
    assert found is not None
    return found


def rungs(
    call: Climb,
    primary: float = 0.1,
    smaller: float = 0.1,
    cloud: float = 0.1,
    *,
    features: Features = ONE_TOKEN,
    retry: bool = False,
) -> list[str]:
    """The pools that are open to the call when its rungs promise these times to the first token."""
    waits = {Rung.PRIMARY: primary, Rung.SMALLER: smaller, Rung.CLOUD: cloud}
    call.open(lambda step: Forecast(waits[step.rung]), features, partial=retry)
    return [place.pool.name for place in call.places]


@pytest.mark.parametrize(
    ("step_down", "primary", "smaller", "cloud", "pools"),
    [
        ("never", 1.0, 0.1, 0.1, ["gpus"]),
        ("never", 1.1, 0.1, 0.1, ["gpus", "cloud"]),
        ("never", math.inf, 0.1, 9.0, ["gpus", "cloud"]),
        ("before", 1.0, 0.1, 0.1, ["gpus"]),
        ("before", 1.1, 1.0, 0.1, ["gpus", "small"]),
        ("before", 1.1, 1.1, 0.1, ["gpus", "small", "cloud"]),
        ("after", 1.1, 0.1, 1.0, ["gpus", "cloud"]),
        ("after", 1.1, 0.1, 1.1, ["gpus", "cloud", "small"]),
        ("after", math.inf, math.inf, math.inf, ["gpus", "cloud", "small"]),
    ],
)
def test_a_rung_opens_when_the_best_before_it_is_over_the_target(
    step_down: str, primary: float, smaller: float, cloud: float, pools: list[str]
) -> None:
    options = SpillOptions.model_validate({"ttft_s": 1, "step_down": step_down})
    assert rungs(climb(ladder(options)), primary, smaller, cloud) == pools


def test_once_open_a_rung_closes_only_under_the_share_of_the_target() -> None:
    on = ladder(SpillOptions(ttft_s=1))
    said = {ttft_s: rungs(climb(on), ttft_s) == ["gpus", "cloud"] for ttft_s in (0.99, 1.01, 0.9, 0.7)}
    assert said == {0.99: False, 1.01: True, 0.9: True, 0.7: True}
    assert rungs(climb(on), 0.69) == ["gpus"]
    assert rungs(climb(on), 0.99) == ["gpus"]


@given(st.lists(st.floats(0.0, 2.0), min_size=1, max_size=200), st.floats(0.1, 1.0))
def test_it_never_flaps(forecasts: list[float], until: float) -> None:
    """Between an opening and the closing after it the prediction has come down all the way, and the other way round."""
    on, was_open = ladder(SpillOptions(ttft_s=1, until=until)), False
    for ttft_s in forecasts:
        is_open = rungs(climb(on), ttft_s) != ["gpus"]
        if is_open != was_open:
            assert ttft_s > 1 if is_open else ttft_s < until or ttft_s <= 1 == until
        was_open = is_open


@given(st.lists(st.tuples(st.sampled_from(["slow", "fast", "t"]), st.floats(0.0, 5.0)), max_size=100))
def test_each_target_has_a_state_of_its_own(calls: list[tuple[str, float]]) -> None:
    options = SpillOptions(ttft_s=1, tenants={"slow": 4, "fast": 0.5}, until=0.5)
    targets, states, on = {"t": 1.0, "slow": 4.0, "fast": 0.5}, {"t": False, "slow": False, "fast": False}, None
    on = ladder(options)
    for tenant, ttft_s in calls:
        target_s = targets[tenant]
        states[tenant] = ttft_s > target_s or (states[tenant] and ttft_s >= 0.5 * target_s)
        call = climb(on, tenant=tenant)
        assert call.target_s == target_s
        assert (rungs(call, ttft_s) != ["gpus"]) == states[tenant]


def test_a_prompt_too_long_for_any_on_premise_replica_goes_alone() -> None:
    """Its own prefill is over the target: that tells nothing of how busy the replicas are."""
    on = ladder(SpillOptions(ttft_s=1))
    long = climb(on)
    long.open(lambda step: Forecast(0.0, 3.0), ONE_TOKEN)
    assert [place.pool.name for place in long.places] == ["gpus", "cloud"]
    assert rungs(climb(on), 0.9) == ["gpus"]


def test_a_call_that_was_refused_by_some_decides_for_itself_alone() -> None:
    on = ladder(SpillOptions(ttft_s=1))
    assert rungs(climb(on), math.inf, retry=True) == ["gpus", "cloud"]
    assert rungs(climb(on), 0.9) == ["gpus"]
    assert rungs(climb(on), 1.1) == ["gpus", "cloud"]
    assert rungs(climb(on), 0.1, retry=True) == ["gpus"]
    assert rungs(climb(on), 0.9) == ["gpus", "cloud"], "it is open still"


def test_with_every_on_premise_replica_down_the_cloud_serves_within_the_limit() -> None:
    on = ladder(SpillOptions(ttft_s=1, max_usd_per_hour=3))
    for _ in range(3):
        call = climb(on)
        assert rungs(call, math.inf) == ["gpus", "cloud"]
        assert call.take("cloud", 0.0)[1] is Rung.CLOUD
    call = climb(on)
    for _ in range(5):
        assert rungs(call, math.inf) == ["gpus"], "it waits on-premise"
    assert call.capped and on.capped == 1, "one call, however often it asks"


def test_as_many_calls_at_once_as_the_limit_pays_for() -> None:
    """A call is counted by what it is expected to cost when it is sent, not when its bill comes."""
    on = ladder(SpillOptions(ttft_s=1, max_usd_per_hour=100), workers=2)
    bills = []
    for _ in range(50):
        call = climb(on)
        if "cloud" in rungs(call, 9.0, features=Features(prompt_tokens=3, output_tokens=2.4)):
            bills.append(call.take("cloud", 0.0)[2])
    assert len(bills) == 7, "of 7 USD each, in the half of 100 that this worker may spend"
    assert on.capped == 43 and on.spilled == {Rung.CLOUD: 7}
    first = bills[0]
    assert first is not None and first.expected_usd == 7
    first.settle(Usage(prompt_tokens=3))
    assert on.purse.spent(0.0) == 45
    assert rungs(climb(on), 9.0, features=Features(prompt_tokens=5)) == ["gpus", "cloud"]
    assert rungs(climb(on), 9.0, features=Features(prompt_tokens=6)) == ["gpus"]


def test_the_cloud_opens_again_when_the_hour_has_passed() -> None:
    on = ladder(SpillOptions(ttft_s=1, max_usd_per_hour=1))
    call = climb(on)
    rungs(call, 9.0)
    call.take("cloud", 30.0)
    assert rungs(climb(on), 9.0, features=replace(ONE_TOKEN, now_s=3640.0)) == ["gpus"]
    assert rungs(climb(on), 9.0, features=replace(ONE_TOKEN, now_s=3665.0)) == ["gpus", "cloud"]


def test_a_call_that_costs_more_than_a_request_may_stays() -> None:
    on = ladder(SpillOptions(ttft_s=1, max_usd_per_request=10))
    assert rungs(climb(on), 9.0, features=Features(prompt_tokens=10)) == ["gpus", "cloud"]
    assert rungs(climb(on), 9.0, features=Features(prompt_tokens=11)) == ["gpus"]
    assert on.capped == 1


@pytest.mark.parametrize("step_down", ["before", "after"])
def test_at_the_limit_a_call_steps_down(step_down: str) -> None:
    on = ladder(SpillOptions.model_validate({"ttft_s": 1, "max_usd_per_request": 0.5, "step_down": step_down}))
    assert rungs(climb(on), 9.0, smaller=9.0) == ["gpus", "small"]


def test_only_what_goes_to_a_cloud_has_a_bill() -> None:
    on = ladder(SpillOptions(ttft_s=1, step_down="before"))
    call = climb(on)
    assert call.take("gpus", 0.0)[1:] == (Rung.PRIMARY, None), "before anything was asked, the first step is open"
    assert not call.spilling
    rungs(call, 9.0, 9.0)
    assert call.spilling
    assert repr(call.route) == "<Route big primary smaller cloud levels={1.0: 2}>"
    assert repr(call) == "<Climb primary smaller cloud target_s=1>"
    named, rung, bill = call.take("small", 0.0)
    assert (named.name, rung, bill) == ("tiny", Rung.SMALLER, None)
    named, rung, bill = call.take("cloud", 0.0)
    assert (named.name, rung) == ("big", Rung.CLOUD) and bill is not None
    assert on.spilled == {Rung.SMALLER: 1, Rung.CLOUD: 1}
    assert repr(on) == "<Ladder chat smaller=1 cloud=1 capped=0 <Purse spent=1 limit=None>>"


def test_a_cloud_without_a_price_is_counted_in_requests_alone() -> None:
    options, big = SpillOptions(ttft_s=1), Variant("big", "no-such-model", 1.0, (GPUS, CLOUD))
    on = Ladder("chat", options, [big], Menu({"big": OfferOptions()}), PRICES)
    call = climb(on)
    assert rungs(call, 9.0) == ["gpus", "cloud"]
    assert call.take("cloud", 0.0)[2] is None
    assert on.spilled == {Rung.CLOUD: 1}


def test_a_variant_with_clouds_alone_serves_those_that_have_none_and_is_never_drawn() -> None:
    other = Pool("elsewhere", "cloud")
    builds = variant("big", GPUS), variant("own", GPUS, CLOUD), variant("api", other, weight=0.0)
    on = ladder(SpillOptions(ttft_s=1), *builds)
    opened = {call.route.variant.name: rungs(call, 9.0) for call in (climb(on) for _ in range(50))}
    assert opened == {"big": ["gpus", "cloud", "elsewhere"], "own": ["gpus", "cloud"]}


def test_variants_are_drawn_by_weight_and_one_without_gets_nothing() -> None:
    builds = variant("a", GPUS, weight=3.0), variant("b", GPUS), variant("off", GPUS, CLOUD, weight=0.0)
    on = ladder(SpillOptions(ttft_s=1), *builds)
    drawn = [climb(on) for _ in range(2000)]
    assert 1400 < sum(call.route.variant.name == "a" for call in drawn) < 1600
    assert all(rungs(call, math.inf) == ["gpus"] for call in drawn)


def test_a_call_that_only_a_cloud_can_serve_goes_there_at_once() -> None:
    builds = variant("big", GPUS), variant("api", CLOUD, weight=0.0)
    on = ladder(SpillOptions(ttft_s=1, max_usd_per_hour=1), *builds, big=OfferOptions(capabilities=[]))
    call = climb(on, needs=Needs(frozenset({"vision"})))
    assert rungs(call) == ["cloud"]
    call.take("cloud", 0.0)
    assert rungs(climb(on, needs=Needs(frozenset({"vision"})))) == [], "nor does this one cost more than it may"
    assert rungs(climb(on)) == ["gpus"]


def test_what_no_variant_can_do_has_no_way() -> None:
    on = ladder(SpillOptions(ttft_s=1), big=OfferOptions(capabilities=[]), tiny=OfferOptions(capabilities=[]))
    assert on.climb(RNG, ANYWHERE, Needs(frozenset({"vision"})), "t") is None


def test_what_only_a_smaller_variant_can_do_is_its_to_do() -> None:
    small = OfferOptions(step_down=True)
    on = ladder(SpillOptions(ttft_s=1, step_down="after"), big=OfferOptions(capabilities=[]), tiny=small)
    assert rungs(climb(on, needs=Needs(frozenset({"tools"})))) == ["small"]


def test_a_pool_that_serves_two_variants_counts_once() -> None:
    on = ladder(SpillOptions(ttft_s=1), variant("big", GPUS), variant("x", CLOUD), variant("y", CLOUD))
    assert rungs(climb(on), 9.0) == ["gpus", "cloud"]


POOLS = [Pool("g1"), Pool("g2"), Pool("c1", "cloud"), Pool("c2", "cloud"), Pool("s1")]


def some(pools: Iterable[Pool]) -> st.SearchStrategy[tuple[Pool, ...]]:
    return st.lists(st.sampled_from(list(pools)), min_size=1, max_size=3, unique_by=id).map(tuple)


@given(
    st.lists(some(POOLS[:4]), min_size=1, max_size=3),
    st.sets(st.sampled_from([pool.name for pool in POOLS])),
    st.lists(st.tuples(*[st.floats(0.0, 3.0) | st.just(math.inf)] * 3), min_size=1, max_size=20),
    st.sampled_from(["never", "before", "after"]),
)
def test_no_pool_that_residency_forbids_is_ever_open(
    pools: list[tuple[Pool, ...]], allowed: set[str], forecasts: list[tuple[float, float, float]], step_down: str
) -> None:
    """R11: whatever is predicted, and whatever other classes of requests have opened before."""
    builds = [variant(f"v{i}", *some_pools) for i, some_pools in enumerate(pools)]
    options = SpillOptions.model_validate({"ttft_s": 1, "step_down": step_down})
    on = ladder(options, *builds, variant("tiny", POOLS[4]))
    secret = Clearance("secret", 1, frozenset(allowed))
    for times in forecasts:
        rungs(climb(on), *times)
        call = on.climb(RNG, secret, NO_NEEDS, "t")
        if call is None:
            assert not any(v.admits(secret) for v in builds) and "s1" not in allowed
            continue
        rungs(call, *times)
        named = {place.pool.name for place in call.places}
        assert named | {place.pool.name for step in call.route.steps for place in step.places} <= allowed


def told(forecast: Forecast) -> tuple[float, float]:
    return round(forecast.wait_s, 9), round(forecast.prefill_s, 9)


def test_the_best_of_replicas_is_the_earliest_first_token() -> None:
    slow, fast = ReplicaLoad("a", Speed(0.01, 0.5)), ReplicaLoad("b", Speed(0.001, 0.1))
    features = Features(prompt_tokens=1000, cached=[900, 0], now_s=5.0)
    assert told(best_of([slow, fast], features)) == (0.1, 1.0)
    assert told(best_of([slow, fast], Features(1000, cached=[990, 0]))) == (0.5, 0.1)
    assert told(best_of([slow, fast], features, [0.0, 3.0])) == (0.5, 1.0)
    fast.begin(2000, 0, 0, 5.0)
    assert told(best_of([slow, fast], features)) == (0.5, 1.0)
    assert best_of([], features) is NOBODY_THERE
    assert NOBODY_THERE.ttft_s == math.inf


async def test_what_ladders_do_is_in_the_metrics() -> None:
    telemetry = Telemetry(Options.model_validate({"access_log": {"format": "off"}}))
    on = ladder(SpillOptions(ttft_s=1, max_usd_per_hour=2))
    watch(telemetry, [on], lambda: 60.0)
    for _ in range(3):
        call = climb(on)
        if "cloud" in rungs(call, 9.0):
            call.take("cloud", 0.0)
    text = render(merge([telemetry.snapshot()]), "").body.decode()
    assert 'headrace_spilled_total{deployment="chat",rung="cloud"} 2' in text
    assert 'headrace_spill_usd_last_hour{deployment="chat"} 2' in text
    assert 'headrace_spill_capped_total{deployment="chat"} 1' in text
    await telemetry.aclose()


class Engines:
    """One replica on-premise that prefills 1,000 tokens a second, one after the other, and a cloud that never waits."""

    def __init__(self) -> None:
        self.here = ReplicaLoad("gpus", Speed(1e-3))
        self.away = ReplicaLoad("cloud", Speed(1e-4, 0.3))
        self.free_s = 0.0
        self._running: list[tuple[float, Work]] = []

    def forecast(self, pools: Iterable[str], features: Features) -> Forecast:
        loads = {"gpus": self.here, "cloud": self.away}
        return best_of([loads[pool] for pool in pools], features)

    def run(self, now_s: float) -> None:
        while self._running and self._running[0][0] <= now_s:
            end_s, work = self._running.pop(0)
            work.first_token(end_s)
            work.leave()

    def send(self, features: Features) -> float:
        """Seconds to the first token."""
        now_s = features.now_s
        self.free_s = max(now_s, self.free_s) + features.prompt_tokens * 1e-3
        self._running.append((self.free_s, self.here.begin(features.prompt_tokens, 0, 1, now_s)))
        return self.free_s - now_s


def overloaded(until: float) -> tuple[list[float], list[bool], Ladder]:
    """Five minutes of twice what the replica can do: its first tokens, whether the cloud was open, the ladder."""
    engines, rng, now_s = Engines(), random.Random(1), 0.0
    on = ladder(SpillOptions(ttft_s=2, until=until), variant("big", GPUS, CLOUD))
    waits: list[float] = []
    states: list[bool] = []
    while now_s < 300.0:
        now_s += rng.expovariate(20.0)
        engines.run(now_s)
        features = Features(prompt_tokens=100, now_s=now_s)
        call = climb(on)
        call.open(partial(outlook, engines, features), features)
        states.append(len(call.places) > 1)
        best = min((place.pool.name for place in call.places), key=lambda one: engines.forecast([one], features).ttft_s)
        if best == "gpus":
            waits.append(engines.send(features))
        call.take(best, now_s)
    return waits, states, on


def test_overload_is_spilled_and_nothing_more() -> None:
    waits, states, on = overloaded(0.7)
    assert len(waits) * 0.1 > 0.95 * 300.0, "on-premise is hardly ever idle for it"
    assert max(waits) <= 2.0 + 1e-6, "first tokens come within the target"
    assert on.spilled[Rung.CLOUD] == len(states) - len(waits) > 2500


def test_hysteresis_makes_changes_few() -> None:
    changes = {
        until: sum(map(operator.ne, states, states[1:])) for until in (0.7, 1.0) for states in [overloaded(until)[1]]
    }
    assert changes[0.7] < 0.25 * changes[1.0]


def outlook(engines: Engines, features: Features, step: Step) -> Forecast:
    return engines.forecast([place.pool.name for place in step.places], features)
