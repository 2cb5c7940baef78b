"""What only this policy promises."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from router.policies.session import Session
from router.types import Features
from tests.router.loads import replica

SESSIONS = [f"conversation-{i}" for i in range(4000)]


def call(session: str) -> Features:
    return Features(100, 10.0, session=session)


def homes(names: list[str]) -> dict[str, str]:
    """Where each session goes while nobody has anything to do."""
    loads = [replica(name) for name in names]
    policy = Session(random.Random(1))
    return {session: names[policy.choose(call(session), loads)] for session in SESSIONS}


def test_a_session_has_one_home_whatever_the_seed_and_the_order_of_the_candidates() -> None:
    """R06 does not hold here: two gateways are to agree."""
    names = [f"p-{i}" for i in range(8)]
    loads = [replica(name) for name in names]
    for session in SESSIONS[:50]:
        places = set()
        for seed in range(5):
            shuffled = random.Random(seed).sample(loads, len(loads))
            places.add(shuffled[Session(random.Random(seed)).choose(call(session), shuffled)].name)
        assert len(places) == 1


def test_the_hash_is_the_same_in_every_release() -> None:
    """A rolling update must not send every conversation elsewhere."""
    found = homes(["a", "b", "c"])
    assert "".join(found[session] for session in SESSIONS[:8]) == "cabaacaa"


def test_homes_are_spread_evenly() -> None:
    shares = Counter(homes([f"p-{i}" for i in range(8)]).values())
    assert all(420 < share < 580 for share in shares.values())
    assert len(shares) == 8


@pytest.mark.parametrize("replicas", [2, 4, 16])
def test_a_replica_more_moves_its_share_of_the_sessions_and_no_other(replicas: int) -> None:
    names = [f"p-{i}" for i in range(replicas)]
    before, after = homes(names), homes([*names, "new"])
    moved = [session for session in SESSIONS if before[session] != after[session]]
    assert {after[session] for session in moved} == {"new"}
    assert len(moved) / len(SESSIONS) == pytest.approx(1 / (replicas + 1), rel=0.15)


def test_a_replica_less_moves_only_the_sessions_that_it_had() -> None:
    names = [f"p-{i}" for i in range(6)]
    before, after = homes(names), homes(names[:2] + names[3:])
    assert all(after[session] == home for session, home in before.items() if home != "p-2")
    orphans = Counter(after[session] for session, home in before.items() if home == "p-2")
    assert len(orphans) == 5
    assert max(orphans.values()) < 2 * min(orphans.values())


def test_one_session_alone_never_gives_a_replica_more_than_its_bound() -> None:
    """With the hundredth call over four replicas, that is ceil(1.25 * 100 / 4) = 32."""
    loads = [replica(name) for name in "abcd"]
    policy = Session(random.Random(1))
    for calls in range(1, 101):
        loads[policy.choose(call("one"), loads)].begin(100, 0, 10.0, 0.0)
        assert max(load.in_flight for load in loads) <= math.ceil(1.25 * calls / 4)
    assert max(load.in_flight for load in loads) == 32


def test_a_full_home_sends_its_sessions_to_different_replicas() -> None:
    names = [f"p-{i}" for i in range(6)]
    loads = [replica(name, in_flight=90 if name == "p-0" else 10) for name in names]
    policy = Session(random.Random(1))
    of_the_full = [session for session, home in homes(names).items() if home == "p-0"]
    second = Counter(names[policy.choose(call(session), loads)] for session in of_the_full)
    assert set(second) == set(names[1:])
    assert max(second.values()) < 2 * min(second.values())


def test_requests_of_others_fill_a_replica_too() -> None:
    home = homes(["a", "b"])["conversation-0"]
    loads = [replica(name, others_in_flight=20.0 if name == home else 0.0) for name in ("a", "b")]
    assert loads[Session(random.Random(1)).choose(call("conversation-0"), loads)].name != home


def test_without_a_session_the_fewest_in_flight_decide() -> None:
    loads = [replica("a", in_flight=2), replica("b", in_flight=1), replica("c", in_flight=2)]
    policy = Session(random.Random(1))
    assert policy.choose(Features(100), loads) == 1
    assert [terms["cost"] for terms in policy.terms(Features(100), loads)] == [2, 1, 2]


def test_terms_tell_the_place_in_the_session_s_order_and_put_the_full_last() -> None:
    """Limit: ceil(1.25 * (12 + 1) / 3) = 6."""
    names = ["a", "b", "c"]
    home = homes(names)["conversation-0"]
    loads = [replica(name, in_flight=8 if name == home else 2) for name in names]
    told = Session(random.Random(1)).terms(call("conversation-0"), loads)
    assert sorted(terms["place"] for terms in told) == [0, 1, 2]
    assert [terms["limit"] for terms in told] == [6, 6, 6]
    at_home = told[names.index(home)]
    assert at_home == {"place": 0, "in_flight": 8, "limit": 6, "cost": 3}
    assert sorted(terms["cost"] for terms in told) == [1, 2, 3]
