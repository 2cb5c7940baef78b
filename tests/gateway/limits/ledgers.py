"""Ledgers without a gateway: over a store of the test's, on a clock of the test's."""

from __future__ import annotations

from typing import Any

from gateway.clock import Clock
from gateway.config import Config
from gateway.identity import Caller
from gateway.limits.exchange import Exchange
from gateway.limits.ledger import LimitLedger
from gateway.limits.local_store import LocalCounts, LocalStore
from gateway.limits.plan import Planner
from gateway.limits.seam import Store
from gateway.limits.used import Bookkeeper
from gateway.record import Record, Usage

PRICED = "priced"
"""A model of which a token costs a millionth of a US dollar."""
NANO_A_TOKEN = 1000
ALICE = Caller("alice", "acme")


def config_with(**limits: Any) -> Config:
    """Top-level sections, beside one deployment `m`."""
    tree: dict[str, Any] = {
        "pools": {"p": {"urls": ["http://127.0.0.1:1"]}},
        "deployments": {"m": {"variants": {"v": {"pools": ["p"]}}}},
        "prices": {PRICED: {"input": 1.0, "output": 1.0}},
    }
    deployment = limits.pop("deployment", None)
    if deployment is not None:
        tree["deployments"]["m"]["limits"] = deployment
    return Config.model_validate(tree | limits)


def ledger_over(store: Store, clock: Clock, config: Config, *, workers: int = 1) -> LimitLedger:
    shared = Exchange(store, clock, patience_s=1.0, workers=lambda: workers)
    alone = Exchange(LocalStore(LocalCounts(clock, clock.monotonic)), clock, patience_s=1.0)
    return LimitLedger(Planner(config), Bookkeeper(config), shared, alone, clock, lambda: workers)


def record_of(prompt: int = 0, completion: int = 0, **fields: Any) -> Record:
    """What is known of a call that used so many tokens."""
    usage = Usage(prompt_tokens=prompt, completion_tokens=completion)
    return Record("r", 0.0, usage=usage, engine_model=PRICED, **fields)


def is_at_rest(ledger: LimitLedger) -> bool:
    """Whether it holds nothing and nothing runs for it."""
    return repr(ledger) == "<LimitLedger in_flight=0>" and repr(ledger.shared) == "<Exchange [] owed=0 waiting=0>"
