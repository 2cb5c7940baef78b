"""A whole `headrace serve` cut off from every network, and each of its packets read below it (R11)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gateway.egress_scenario import CLOUD_ADDRESS
from tests.harness import Json

NAMESPACE = ("unshare", "--map-root-user", "--net")
SCENARIO_S = 60
BUSY: Json = {"probe": {"every_s": 0.05, "idle_s": 0.05}, "warm_up": {}}
SILENT: Json = {"probe": {"every_s": None}}


def observed(away: Json) -> Json:
    """What the scenario saw, with these options of the cloud's pool."""
    if missing := [name for name in ("unshare", "ip") if shutil.which(name) is None]:
        pytest.skip(f"no program {' or '.join(missing)}: no network namespace can be set up")
    refused = subprocess.run([*NAMESPACE, "ip", "link", "set", "lo", "up"], capture_output=True, text=True, check=False)
    if refused.returncode:
        pytest.skip(f"the kernel gives no network namespace: {refused.stderr.strip()}")
    ran = subprocess.run(
        [*NAMESPACE, sys.executable, "-m", "tests.gateway.egress_scenario", json.dumps(away)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=SCENARIO_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found: Json = json.loads(ran.stdout)
    assert not any(phase["lost"] for phase in found.values()), "the capture is not whole"
    return found


def the_trap_sees(found: Json) -> None:
    """The same ways do lead to the cloud for a public request."""
    assert found["public"]["statuses"] == {"only": [200]}
    for way in ("public", "hedged", "fallen back"):
        assert CLOUD_ADDRESS in found[way]["destinations"], way
        assert found[way]["secret"], way


def test_r11_no_packet_leaves_for_a_restricted_request_of_any_operation() -> None:
    found = observed(SILENT)
    restricted = found["restricted"]
    assert restricted["statuses"]["m"] == [200]
    assert restricted["statuses"]["only"] == [403]
    assert set(restricted["statuses"]["shaky"]) & {500, 502, 503}, "it gave no reason to fall back"
    assert restricted["destinations"] == []
    the_trap_sees(found)


def test_r11_probes_and_warm_up_of_a_cloud_carry_nothing_of_restricted_requests() -> None:
    found = observed(BUSY)
    assert CLOUD_ADDRESS in found["restricted"]["destinations"], "the cloud was not probed"
    assert not found["restricted"]["secret"]
    the_trap_sees(found)
