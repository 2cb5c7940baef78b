"""A16: an engine is used up to its last slot, and many streams stay open."""

from __future__ import annotations

import pytest

from tests.bench.measures import open_streams, saturated_tokens_per_s
from tests.bench.rig import long_run

LIMIT_S = 240.0
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(LIMIT_S + 30)]


def test_a_saturated_engine_gives_at_least_97_percent_of_its_tokens_through_the_gateway() -> None:
    """A16: rounds alternate between the engine itself and the gateway; the median of their ratios counts."""
    found = long_run(saturated_tokens_per_s(rounds=5), LIMIT_S)
    print(f"tokens/s direct {found.direct}, through {found.through}, ratio {found.ratio:.4f}")
    assert found.ratio >= 0.97, found


def test_two_thousand_streams_stay_open_without_an_error_at_40_kb_each() -> None:
    """A16."""
    found = long_run(open_streams(2000), LIMIT_S)
    print(f"{found.opened} streams open, {found.bytes_per_stream:.0f} bytes of resident memory each")
    assert found.opened == 2000
    assert found.failures == {}
    assert found.bytes_per_stream <= 40_000
