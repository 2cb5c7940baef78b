"""When a call may leave the on-premise replicas of its variant: for a smaller variant, or a cloud. No I/O, no clock."""

from __future__ import annotations

import enum
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from gateway.config.spill_options import SpillOptions
from gateway.needs import Menu, Needs
from gateway.prices import PriceTable, cost
from gateway.purse import Bill, Purse
from gateway.record import Usage
from gateway.residency import Clearance
from gateway.telemetry import Telemetry, series
from router.load import ReplicaLoad
from router.types import Features

if TYPE_CHECKING:
    from gateway.catalog import Variant
    from gateway.pools import Pool


class Rung(enum.StrEnum):
    """primary: the on-premise pools of the variant drawn. smaller: those of variants to step down to."""

    PRIMARY = "primary"
    SMALLER = "smaller"
    CLOUD = "cloud"


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A pool, and the variant as which it is asked."""

    variant: Variant
    pool: Pool


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A rung's places, of those that the call may have."""

    rung: Rung
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of the first token at the best replica of a step.

    wait_s:    what is ahead of the call: queue, backlog and fixed time. Infinite: nobody is there to be asked.
    prefill_s: of its own prompt.
    """

    wait_s: float = math.inf
    prefill_s: float = 0.0

    @property
    def ttft_s(self) -> float:
        return self.wait_s + self.prefill_s


NOBODY_THERE = Forecast()


def best_of(loads: Sequence[ReplicaLoad], features: Features, queue_s: Sequence[float] = ()) -> Forecast:
    """The earliest first token that any of the replicas is predicted to give.

    queue_s: by replica, the wait for a place at it; empty: all have one.
    """
    best, best_s = NOBODY_THERE, math.inf
    for i, load in enumerate(loads):
        wait_s = load.backlog_s(features.now_s) + load.speed.fixed_s + (queue_s[i] if queue_s else 0.0)
        prefill_s = load.speed.prefill_s(features.prompt_tokens, features.cached_at(i))
        if wait_s + prefill_s < best_s:
            best, best_s = Forecast(wait_s, prefill_s), wait_s + prefill_s
    return best


class Route:
    """The steps that calls of one kind can take, the first one always. Shared by all calls of that kind.

    levels: by target, how many steps beyond the first were open for the last call.
    """

    __slots__ = ("levels", "steps", "variant")

    def __init__(self, variant: Variant, steps: tuple[Step, ...]) -> None:
        self.variant = variant
        self.steps = steps
        self.levels: dict[float, int] = {}

    def __repr__(self) -> str:
        return f"<Route {self.variant.name} {' '.join(step.rung for step in self.steps)} levels={self.levels}>"


Outlook = Callable[[Step], Forecast]
"""What the best replica of a step promises a call."""

_NOTHING_KNOWN = Features()


class Climb:
    """One call on the ladder.

    places: where it may be sent now, as of the last `open`; before that, the first step.
    capped: whether money has kept it from a cloud.
    """

    __slots__ = ("_features", "_ladder", "_rungs", "capped", "places", "route", "target_s")

    def __init__(self, ladder: Ladder, route: Route, target_s: float) -> None:
        self._ladder = ladder
        self._features = _NOTHING_KNOWN
        self.route = route
        self.target_s = target_s
        self.capped = False
        self.places: tuple[Place, ...] = ()
        self._rungs: tuple[Rung, ...] = ()
        self._stand_on([route.steps[0]])

    def __repr__(self) -> str:
        rungs = " ".join(dict.fromkeys(self._rungs))
        return f"<Climb {rungs} target_s={self.target_s:g}{' capped' if self.capped else ''}>"

    @property
    def spilling(self) -> bool:
        """Whether more than the first step is open."""
        return bool(self._rungs) and self._rungs[-1] is not Rung.PRIMARY

    def open(self, outlook: Outlook, features: Features, *, partial: bool = False) -> tuple[Place, ...]:
        """Where the call may be sent: the first step, and each one after it while the best before it is not enough.

        partial: the call is not told of every replica, because some were asked before. So it decides for itself alone.
        """
        ladder, steps = self._ladder, self.route.steps
        before, level = self.route.levels.get(self.target_s, 0), 0
        self._features = features
        taken = [steps[0]]
        first = best = outlook(steps[0]) if steps[0].places else NOBODY_THERE
        for number, step in enumerate(steps[1:], 1):
            if ladder.is_enough(best.ttft_s, self.target_s, was_open=number <= before):
                break
            level = number
            affordable = self._within_limits(step, features.now_s)
            if affordable.places:
                taken.append(affordable)
                best = min(best, outlook(affordable), key=lambda forecast: forecast.ttft_s)
        if not partial and first.prefill_s <= self.target_s:
            self.route.levels[self.target_s] = level  # else it is the prompt's own length: no other call is like it
        self._stand_on(taken)
        return self.places

    def take(self, pool: str, now_s: float) -> tuple[Variant, Rung, Bill | None]:
        """It goes to a pool that is open to it: as which variant, on which rung, and the bill that has to be settled.

        The bill is settled once, with what was used in the end: with nothing where nothing was sent.
        """
        at = next(i for i, place in enumerate(self.places) if place.pool.name == pool)
        variant, rung = self.places[at].variant, self._rungs[at]
        return variant, rung, self._ladder.sent(rung, variant, self._expected(), now_s)

    def _within_limits(self, step: Step, now_s: float) -> Step:
        if step.rung is not Rung.CLOUD:
            return step
        ladder, usage = self._ladder, self._expected()
        places = tuple(p for p in step.places if ladder.affords(p.variant, usage, now_s))
        if not places and not self.capped:
            self.capped = True
            ladder.capped += 1
        return Step(step.rung, places)

    def _expected(self) -> Usage:
        features = self._features
        return Usage(prompt_tokens=features.prompt_tokens, completion_tokens=round(features.output_tokens))

    def _stand_on(self, steps: Sequence[Step]) -> None:
        """A pool that serves several variants counts once, as the first of them."""
        found: dict[str, tuple[Place, Rung]] = {}
        for step in steps:
            for place in step.places:
                found.setdefault(place.pool.name, (place, step.rung))
        self.places = tuple(place for place, _ in found.values())
        self._rungs = tuple(rung for _, rung in found.values())


class Ladder:
    """Of one deployment in one worker: which steps there are, which are open, and what they cost.

    menu:    what the variants offer.
    prices:  by the engines' model names.
    workers: of this gateway; each may spend an equal share.
    spilled: requests sent to each rung beyond the first. capped: calls that money kept from a cloud.
    """

    def __init__(
        self,
        name: str,
        options: SpillOptions,
        variants: Sequence[Variant],
        menu: Menu,
        prices: PriceTable,
        workers: int = 1,
    ) -> None:
        self.name = name
        self.spilled: Counter[Rung] = Counter()
        self.capped = 0
        self._options = options
        self._variants = variants
        self._menu = menu
        self._prices = {v.name: prices.find(v.engine_model) for v in variants}
        hourly, single = options.max_usd_per_hour, options.max_usd_per_request
        self.purse = Purse(None if hourly is None else _exact(hourly) / workers)
        self._most_usd = None if single is None else _exact(single)
        self._routes: dict[_Kind, tuple[Route, ...]] = {}

    def __repr__(self) -> str:
        spilled = " ".join(f"{rung}={count}" for rung, count in self.spilled.items())
        return f"<Ladder {self.name} {spilled} capped={self.capped} {self.purse!r}>"

    def climb(self, rng: random.Random, clearance: Clearance, needs: Needs, tenant: str) -> Climb | None:
        """A call's way up, its variant drawn by weight. None: no variant can serve it, or may."""
        found = self._menu.fitting([v for v in self._variants if v.admits(clearance)], needs)
        kind = (clearance.pools, tuple(v.name for v in found))
        routes = self._routes.get(kind)
        if routes is None:
            routes = self._routes[kind] = self._ways(found, clearance)
        if not routes:
            return None
        route = routes[0]
        if len(routes) > 1:
            weights = [route.variant.weight for route in routes]
            route = rng.choices(routes, weights if any(weights) else None)[0]
        return Climb(self, route, self._options.tenants.get(tenant, self._options.ttft_s))

    def is_enough(self, ttft_s: float, target_s: float, *, was_open: bool) -> bool:
        """Whether a call needs no further step."""
        return ttft_s <= target_s and not (was_open and ttft_s >= self._options.until * target_s)

    def affords(self, variant: Variant, usage: Usage, now_s: float) -> bool:
        """A variant without a known price costs nothing that can be counted: limits are refused with those."""
        price = self._prices[variant.name]
        if price is None:
            return True
        usd = cost(price, usage)
        return (self._most_usd is None or usd <= self._most_usd) and self.purse.fits(usd, now_s)

    def sent(self, rung: Rung, variant: Variant, usage: Usage, now_s: float) -> Bill | None:
        """Count a request. usage: as expected."""
        if rung is Rung.PRIMARY:
            return None
        self.spilled[rung] += 1
        price = self._prices[variant.name]
        if rung is Rung.SMALLER or price is None:
            return None
        return self.purse.promise(cost(price, usage), price, now_s)

    def _ways(self, found: Sequence[Variant], clearance: Clearance) -> tuple[Route, ...]:
        """The routes to draw from: on-premise ones, else those of clouds, else what is there for stepping down."""
        here = [
            v for v in found if v.weight and not self._menu[v.name].step_down and _places(v, clearance, "on-premise")
        ]
        away = [v for v in found if not _parked(v) and _places(v, clearance, "cloud")]
        smaller = [v for v in found if self._menu[v.name].step_down]
        return tuple(self._route(variant, away, smaller, clearance) for variant in here or away or smaller)

    def _route(
        self, variant: Variant, away: Sequence[Variant], smaller: Sequence[Variant], clearance: Clearance
    ) -> Route:
        """A cloud that serves the variant itself comes before those that serve another."""
        cloud = _places(variant, clearance, "cloud")
        cloud = cloud or tuple(place for other in away for place in _places(other, clearance, "cloud"))
        down = tuple(p for other in smaller if other is not variant for p in _places(other, clearance, "on-premise"))
        order = {
            "never": (Step(Rung.CLOUD, cloud),),
            "before": (Step(Rung.SMALLER, down), Step(Rung.CLOUD, cloud)),
            "after": (Step(Rung.CLOUD, cloud), Step(Rung.SMALLER, down)),
        }[self._options.step_down]
        first = Step(Rung.PRIMARY, _places(variant, clearance, "on-premise"))
        return Route(variant, (first, *(step for step in order if step.places)))


_Kind = tuple[frozenset[str] | None, tuple[str, ...]]


def _parked(variant: Variant) -> bool:
    """Its weight of 0 keeps it from everything; one that only has clouds has no use for a weight."""
    return not variant.weight and any(pool.site != "cloud" for pool in variant.pools)


def _places(variant: Variant, clearance: Clearance, site: str) -> tuple[Place, ...]:
    """Only what residency allows: no other pool is ever on a ladder (R11)."""
    return tuple(Place(variant, p) for p in variant.pools if p.site == site and clearance.admits(p.name))


def _exact(usd: float) -> Decimal:
    """The decimal fraction that stands in the file."""
    return Decimal(repr(usd))


def watch(telemetry: Telemetry, ladders: Iterable[Ladder], now_s: Callable[[], float]) -> None:
    """Show what the ladders of a worker do in its metrics."""
    known = tuple(ladders)
    telemetry.watch(
        series.SPILLED.name,
        lambda: [((one.name, str(rung)), float(count)) for one in known for rung, count in one.spilled.items()],
    )
    telemetry.watch(series.SPILL_CAPPED.name, lambda: [((one.name,), float(one.capped)) for one in known])
    telemetry.watch(series.SPILL_USD.name, lambda: [((one.name,), float(one.purse.spent(now_s()))) for one in known])
