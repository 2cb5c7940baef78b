"""Refuses too little coverage of branches: `coverage json -o - | python tools/check_coverage.py PERCENT`."""

# ruff: noqa: T201
from __future__ import annotations

import json
import sys


def main(limit_percent: float) -> int:
    """Print the share of branches that ran. Returns 1 if it is under `limit_percent`."""
    totals = json.load(sys.stdin)["totals"]
    percent = 100.0 * totals["covered_branches"] / max(1, totals["num_branches"])
    print(f"branches covered: {percent:.1f} % of {totals['num_branches']}; the limit is {limit_percent:g} %")
    return 0 if percent >= limit_percent else 1


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
