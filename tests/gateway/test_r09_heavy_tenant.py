"""A tenant that asks twenty times as often as the others hardly slows them, and costs no throughput (R09)."""

from __future__ import annotations

import math

from tests.gateway.tenants import Traffic, played
from tests.harness import Json

LIGHT = [f"light{i}" for i in range(5)]
ENGINES: list[Json] = [{"prefill_tps": 4_000, "slots": 64, "itl_s": 0.05, "prompt_tokens_details": True}] * 2
"""Together they take in 26 prompts a second; the light tenants send 10, the heavy one 40."""


def traffic(*, heavy: bool) -> Traffic:
    rates = dict.fromkeys(LIGHT, 2.0) | ({"heavy": 40.0} if heavy else {})
    return Traffic(rates, prompt=(100, 500), output=(4, 8), span_s=20.0)


def test_r09_a_heavy_tenant_hardly_slows_the_others_and_throughput_stays() -> None:
    alone = played(traffic(heavy=False), ENGINES)
    fair = played(traffic(heavy=True), ENGINES)
    first_come = played(traffic(heavy=True), ENGINES, queue={"max_waiting": 0})
    assert fair.p99_ttft_s(LIGHT) <= 1.5 * alone.p99_ttft_s(LIGHT)
    assert fair.served_tokens() >= 0.97 * first_come.served_tokens()
    assert first_come.p99_ttft_s(LIGHT) > 10 * alone.p99_ttft_s(LIGHT), "it is an overload, or nothing is shown"
    assert {a.status for a in fair.asked} <= {0, 200}
    assert sum(a.tenant == "heavy" and a.end_s < math.inf for a in fair.asked) > 200, "nobody starves"
