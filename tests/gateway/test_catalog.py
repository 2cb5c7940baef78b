"""What may be called, and by whom."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from engines.base import Timeouts
from engines.http import Endpoint, HttpEngine
from gateway.catalog import Catalog, build_pools
from gateway.config import Config
from gateway.errors import Forbidden, NotFound
from gateway.identity import ANYBODY, Caller
from gateway.replicas import Replica
from gateway.residency import ANYWHERE
from router.policies import POLICIES

FILE: dict[str, Any] = {
    "pools": {
        "here": {"urls": ["http://a:1", "http://b:1"]},
        "there": {"urls": ["http://c:1"], "site": "cloud", "max_in_flight": 4},
    },
    "deployments": {
        "chat": {
            "aliases": ["gpt-4o"],
            "attempts": 2,
            "timeouts": {"connect_s": 1, "ttft_s": 2, "idle_s": 3, "total_s": 4},
            "variants": {
                "full": {"pools": ["here", "there"], "weight": 3},
                "small": {"pools": ["there"], "model": "chat-int4", "weight": 1},
                "off": {"pools": ["here"], "weight": 0},
            },
        },
        "other": {"variants": {"v": {"pools": ["here"]}}, "policy": "round_robin"},
    },
}


def catalog() -> Catalog:
    config = Config.model_validate(FILE)

    def replica(pool: str, name: str, url: str) -> Replica:
        return Replica(name, pool, config.pools[pool].site, "openai", HttpEngine(Endpoint(name, url)))

    return Catalog(config, build_pools(config, replica), random.Random(1))


def test_a_deployment_is_built_as_the_file_says() -> None:
    chat, other = catalog().deployments
    assert (chat.name, chat.attempts, chat.timeouts) == ("chat", 2, Timeouts(1, 2, 3, 4))
    built = {v.name: (v.engine_model, v.weight, [r.name for r in v.replicas]) for v in chat.variants}
    assert built == {
        "full": ("chat", 3, ["here-0", "here-1", "there-0"]),
        "small": ("chat-int4", 1, ["there-0"]),
        "off": ("chat", 0, ["here-0", "here-1"]),
    }
    assert type(other.policy) is type(POLICIES["round_robin"](random.Random()))


def test_deployments_share_the_replicas_of_a_pool() -> None:
    """R07: one ledger of what is in flight, whichever name leads there."""
    chat, other = catalog().deployments
    assert chat.variants[0].replicas[0] is other.variants[0].replicas[0]
    assert chat.variants[0].replicas[2] is chat.variants[1].replicas[0]


def test_an_alias_is_the_deployment_and_its_permission_too() -> None:
    found = catalog()
    caller = Caller("k", "t", frozenset({"chat"}))
    assert found.resolve("gpt-4o", caller) is found.resolve("chat", caller)
    assert found.visible(caller) == [found.resolve("chat", ANYBODY)]
    assert len(found.visible(ANYBODY)) == 2


def test_a_name_that_is_not_there_is_404_and_one_that_is_not_allowed_403() -> None:
    found = catalog()
    with pytest.raises(NotFound, match=r"'nope' does not exist\. GET /v1/models") as missing:
        found.resolve("nope", ANYBODY)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(Forbidden, match="'k' may not call 'gpt-4o'; its `deployments` setting") as refused:
        found.resolve("gpt-4o", Caller("k", "t", frozenset({"other"})))
    assert (refused.value.code, refused.value.param) == ("model_not_allowed", "model")


def test_a_long_name_is_not_repeated_whole() -> None:
    with pytest.raises(NotFound) as missing:
        catalog().resolve("x" * 100_000, ANYBODY)
    assert len(missing.value.message) < 400


def test_traffic_is_shared_by_weight_and_weight_zero_gets_none() -> None:
    found = catalog()
    rng = random.Random(3)
    chat = found.resolve("chat", ANYBODY)
    drawn = Counter(v.name for _ in range(4000) if (v := chat.draw_variant(rng, ANYWHERE)))
    assert drawn["off"] == 0
    assert 0.70 < drawn["full"] / 4000 < 0.80
    other = found.resolve("other", ANYBODY)
    assert other.draw_variant(rng, ANYWHERE) is other.variants[0]
