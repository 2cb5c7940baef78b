"""What one request will meet: the options, the faults that were drawn for it, and its own overrides."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import msgspec

from engines.fake.options import Death, FakeOptions, Hang, Malformed, Overrides, Split


@dataclass(slots=True)
class Plan:
    """Times in seconds, already jittered where they happen once; counts in tokens."""

    ttft_s: float
    itl_s: float
    output_tokens: int
    text: str | None = None
    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    sse: bytes | None = None
    cuts: list[int] | None = None
    finish_reason: str | None = None
    cached_tokens: int | None = None
    error_delay_s: float = 0.0
    hang: Hang | None = None
    hang_after: int = 1
    die_after: int | None = None
    die_how: Death = Death.RST
    malformed: Malformed | None = None
    split: Split = Split.NONE
    usage: bool = True


class Planner:
    """Draws faults with one random source, and counts them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 (faults, not secrets)
        self.faults = 0

    def plan(self, options: FakeOptions, overrides: Overrides | None) -> Plan:
        plan = Plan(
            ttft_s=self.jittered(options.ttft_s, options.jitter),
            itl_s=options.itl_s,
            output_tokens=options.output_tokens,
            text=options.text,
            split=options.split,
            usage=not options.no_usage,
            hang_after=options.hang_after,
            die_how=options.die_how,
        )
        self._draw(plan, options)
        if overrides is not None:
            _override(plan, overrides)
        return plan

    def jittered(self, value_s: float, share: float) -> float:
        return value_s * (1 + share * (2 * self.random.random() - 1)) if share and value_s else value_s

    def _draw(self, plan: Plan, options: FakeOptions) -> None:
        if self._hits(options, options.error_rate):
            plan.status = options.error_status
        elif options.hang is not None and self._hits(options, options.hang_rate):
            plan.hang = options.hang
        elif options.die_after is not None and self._hits(options, options.die_rate):
            plan.die_after = options.die_after
        elif options.malformed is not None and self._hits(options, options.malformed_rate):
            plan.malformed = options.malformed

    def _hits(self, options: FakeOptions, rate: float) -> bool:
        if not rate or (options.fault_count is not None and self.faults >= options.fault_count):
            return False
        hit = self.random.random() < rate
        self.faults += hit
        return hit


_SAME_NAME = (
    *("status", "cuts", "text", "output_tokens", "finish_reason", "cached_tokens"),
    *("hang", "hang_after", "die_after", "die_how", "malformed", "split"),
)


def _override(plan: Plan, overrides: Overrides) -> None:
    for name in _SAME_NAME:
        value = getattr(overrides, name)
        if value is not None:
            setattr(plan, name, value)
    plan.headers = dict(overrides.headers)
    if overrides.retry_after is not None:
        plan.headers["retry-after"] = str(overrides.retry_after)
    if overrides.body is not None:
        body = overrides.body
        plan.body = body.encode() if isinstance(body, str) else msgspec.json.encode(body)
    if overrides.raw is not None:
        plan.raw = overrides.raw.encode("latin-1", "replace")
    if overrides.sse is not None:
        plan.sse = overrides.sse.encode()
    if overrides.ttft is not None:
        plan.ttft_s = plan.error_delay_s = overrides.ttft
    if overrides.itl is not None:
        plan.itl_s = overrides.itl
    if overrides.no_usage is not None:
        plan.usage = not overrides.no_usage
