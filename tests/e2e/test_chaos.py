"""R04 and the rest of it: engines and networks fail in every way, and no answer is lost before it begins.

HEADRACE_CHAOS_S says how long the faults come, 600 seconds if it does not; HEADRACE_CHAOS_REQUESTS how many requests
come in that time, 10,000. HEADRACE_CHAOS_SEED makes other faults.
"""

from __future__ import annotations

import os

import pytest

from tests.bench.rig import long_run
from tests.e2e.chaos.report import P99_LIMIT
from tests.e2e.chaos.run import CALM_SHARE, Plan, run

CHAOS_S = float(os.environ.get("HEADRACE_CHAOS_S", "600"))
REQUESTS = int(os.environ.get("HEADRACE_CHAOS_REQUESTS", "10000"))
SEED = int(os.environ.get("HEADRACE_CHAOS_SEED", "1"))
LIMIT_S = CHAOS_S * (1.5 + CALM_SHARE) + 180
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(LIMIT_S + 30)]


def test_no_request_is_lost_before_its_first_byte_while_one_replica_lives(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """R04: nor answered twice, nor does anything stay, nor do requests that meet no fault take longer."""
    findings = long_run(run(Plan(CHAOS_S, REQUESTS, SEED)), LIMIT_S)
    with capsys.disabled():
        print(f"\n{findings.table()}")
    assert not findings.offences, "\n".join(findings.offences[:50])
    assert findings.p99_ratio <= P99_LIMIT
