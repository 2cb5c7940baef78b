"""What is simulated: the engines, and how the gateway in front of them decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gateway.simulator.engine import EngineCost, EngineShape

CLOUD_TTFT_S = 0.5
CLOUD_TPOT_S = 0.02
"""Of an endpoint of which nothing is known."""
Knowing = Literal["exact", "predicted"]


@dataclass(frozen=True, slots=True)
class Price:
    """USD for a million tokens."""

    input_usd: float = 0.0
    output_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine, or one endpoint behind which there are as many as it takes.

    speed:   its share of the speed that the costs are for.
    cost:    its own costs; None: those of the plan.
    rtt_s:   its round trip.
    max_in_flight: requests that it is sent at once; None: no limit.
    elastic: whether it takes any number of requests without slowing down, and caches no prefixes. `ttft_s` and `tpot_s`
             are for such a one.
    """

    name: str
    speed: float = 1.0
    rtt_s: float = 0.0
    max_in_flight: int | None = None
    price: Price | None = None
    cost: EngineCost | None = None
    pool: str = ""
    elastic: bool = False
    ttft_s: float = CLOUD_TTFT_S
    tpot_s: float = CLOUD_TPOT_S


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """Where requests wait in the gateway while no engine has a place for them; as the section `queue` of a deployment.

    hold_over_s: an engine has no place while the prompts ahead there are predicted to take longer than this.
    classes: by the name of a key.
    """

    max_waiting: int = 1000
    max_wait_s: float = 60.0
    hold_over_s: float = 2.0
    age_s: float = 10.0
    weights: Mapping[str, float] = field(default_factory=dict)
    classes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route:
    """How the requests for one deployment go.

    variants:  weight, and the engines that are chosen among.
    fallbacks: deployments that are asked in its place when no engine has a place.
    queue:     None: such requests are refused at once.
    """

    policy: str
    variants: tuple[tuple[float, Sequence[int]], ...]
    fallbacks: tuple[str, ...] = ()
    queue: QueueSpec | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a run needs besides the trace and the seed.

    routes:     by deployment; one that is named "" takes every request that names none.
    key_limits: by the name of a key, its requests in flight at most.
    allowed:    by sensitivity class, the only engines that may see such a request; a class that is not named: all.
    scale:      the trace is played at this many times its speed.
    knowing:    how the gateway knows what the engines hold.
    """

    engines: tuple[EngineSpec, ...]
    routes: Mapping[str, Route]
    key_limits: Mapping[str, int] = field(default_factory=dict)
    allowed: Mapping[str, frozenset[int]] = field(default_factory=dict)
    scale: float = 1.0
    kv_tokens: int = 1500 * 512
    step_tokens: int = 8192
    max_running: int = 256
    knowing: Knowing = "exact"
    cost: EngineCost = field(default_factory=EngineCost)

    def shape(self, block_tokens: int) -> EngineShape:
        return EngineShape(self.kv_tokens // block_tokens, block_tokens, self.step_tokens, self.max_running)


@dataclass(frozen=True, slots=True)
class Setting:
    """Engines for one deployment, and how hard they are driven: what policies are compared on.

    speeds, rtts_s, prices: one per engine; no prices: nothing is said of money.
    max_in_flight: requests at one engine at most.
    queue: None: nobody waits in the gateway, and what is over `max_in_flight` is refused.
    """

    speeds: tuple[float, ...] = (1.0,) * 8
    rtts_s: tuple[float, ...] = (0.0,) * 8
    scale: float = 1.0
    kv_tokens: int = 1500 * 512
    step_tokens: int = 8192
    knowing: Knowing = "exact"
    prices: tuple[Price, ...] = ()
    max_in_flight: int | None = None
    queue: QueueSpec | None = None
    cost: EngineCost = field(default_factory=EngineCost)

    def plan(self, policy: str) -> Plan:
        everyone = tuple(range(len(self.speeds)))
        specs = (
            EngineSpec(
                f"engine-{i:02}",
                self.speeds[i],
                self.rtts_s[i],
                self.max_in_flight,
                self.prices[i] if self.prices else None,
            )
            for i in everyone
        )
        return Plan(
            tuple(specs),
            {"": Route(policy, ((1.0, everyone),), queue=self.queue)},
            scale=self.scale,
            kv_tokens=self.kv_tokens,
            step_tokens=self.step_tokens,
            knowing=self.knowing,
            cost=self.cost,
        )
