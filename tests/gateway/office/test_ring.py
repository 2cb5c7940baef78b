"""The keys of the database in a worker's memory."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Auth, Key
from gateway.directory.entries import Changes, KeyEntry, Limits, OrganisationEntry, Snapshot, TeamEntry
from gateway.directory.frames import Alive, Begin, Changed, Frame, Frames, Keys, Whole, pack, pack_key, unpack_key
from gateway.directory.ring import Ring
from gateway.errors import ApiError, Forbidden, Overloaded, Unauthenticated
from gateway.identity import NOBODY, Caller, KeyRing
from gateway.keys import hash_key
from gateway.office.book import KEYS_A_FRAME, Book

SALT = "the database's"
NOW = 1_000_000.0


def text_of(key_id: str) -> str:
    return f"sk-hr-{key_id}-secret"


def entry(key_id: str, **fields: Any) -> KeyEntry:
    digest = hashlib.sha256(f"{SALT}{text_of(key_id)}".encode()).digest()
    return KeyEntry(key_id, digest, fields.pop("name", key_id), fields.pop("organisation", "acme"), **fields)


def snapshot(*keys: KeyEntry, organisations: list[OrganisationEntry] | None = None, seq: int = 1) -> Snapshot:
    return Snapshot(
        seq, SALT, organisations or [OrganisationEntry("acme")], [TeamEntry("acme", "research")], list(keys)
    )


def frames_of(given: Snapshot, at: float = NOW) -> list[Frame]:
    book = Book()
    book.replace(given, at)
    return list(book.frames())


def ring_of(*frames: Frame, grace_s: float = 60.0, now: float = NOW) -> Ring:
    ring = Ring(grace_s, lambda: now)
    for frame in frames:
        ring.take(frame)
    return ring


def identify(ring: Ring, key: str, address: str = "", now: float = NOW, **options: Any) -> Caller | ApiError:
    keys = KeyRing(options.pop("auth", Auth()), ring, wall_s=lambda: now, **options)
    try:
        return keys.identify({b"authorization": b"Bearer " + key.encode()}, address)
    except ApiError as error:
        return error


def test_a_key_is_known_with_all_that_it_may_do() -> None:
    limits = Limits(requests_per_minute=3)
    one = entry(
        "k1", name="app", team="research", deployments=["m"], expires_at=NOW + 1, limits=limits, sensitivity="public"
    )
    ring = ring_of(*frames_of(snapshot(one)))
    caller = identify(ring, text_of("k1"))
    assert isinstance(caller, Caller)
    assert (caller.key_name, caller.tenant, caller.team, caller.key_id) == ("app", "acme", "research", "k1")
    assert (caller.deployments, caller.limits, caller.sensitivity) == (frozenset({"m"}), limits, "public")
    assert caller is identify(ring, text_of("k1")), "it is read once"
    assert not caller.admin
    assert unpack_key(pack_key(one)) == one


def test_keys_of_the_configuration_and_of_the_database_are_known_side_by_side() -> None:
    auth = Auth.model_validate({"salt": "own", "keys": [{"name": "file", "hash": hash_key("sk-file", "own")}]})
    ring = ring_of(*frames_of(snapshot(entry("k1"))))
    for key, name in (("sk-file", "file"), (text_of("k1"), "k1")):
        caller = identify(ring, key, auth=auth)
        assert isinstance(caller, Caller) and caller.key_name == name
    assert isinstance(identify(ring, "sk-other", auth=auth), Unauthenticated)


def told(ring: Ring, key_id: str, **options: Any) -> tuple[type, str, bytes, bytes]:
    error = identify(ring, text_of(key_id), **options)
    assert isinstance(error, ApiError), error
    return type(error), error.message, error.body(), error.header_lines()


def test_unknown_revoked_expired_disabled_and_admin_keys_are_refused_in_the_same_words() -> None:
    """A18"""
    keys = [
        entry("revoked"),
        entry("expired", expires_at=NOW),
        entry("disabled", organisation="off"),
        entry("admin", role="admin"),
        entry("good"),
    ]
    organisations = [OrganisationEntry("acme"), OrganisationEntry("off", disabled=True)]
    ring = ring_of(*frames_of(snapshot(*keys, organisations=organisations)))
    assert isinstance(identify(ring, text_of("revoked")), Caller)
    ring.take(Changed(Changes(2, [], [], [], ["revoked"]), NOW))
    unknown = told(ring, "unknown")
    assert unknown[0] is Unauthenticated
    for key_id in ("revoked", "expired", "disabled", "admin"):
        for _ in range(2):
            assert told(ring, key_id) == unknown, key_id
    assert isinstance(identify(ring, text_of("good")), Caller)


class _Counted(dict[bytes, Any]):
    """Counts what is asked of it."""

    asked = 0

    def get(self, key: bytes, default: Any = None) -> Any:
        self.asked += 1
        return super().get(key, default)


def test_every_refused_key_is_hashed_and_looked_up_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A18: the same steps, whatever is wrong."""
    auth = Auth.model_validate(
        {"salt": "own", "keys": [{"name": "old", "hash": hash_key("sk-old", "own"), "expires": "1970-01-02T00:00:00Z"}]}
    )
    keys = [entry("expired", expires_at=NOW), entry("disabled", organisation="off"), entry("admin", role="admin")]
    ring = ring_of(*frames_of(snapshot(*keys, organisations=[OrganisationEntry("off", disabled=True)])))
    ring._keys = database = _Counted(ring._keys)
    identity = KeyRing(auth, ring, wall_s=lambda: NOW)
    identity._callers = file = _Counted(identity._callers)
    steps = set()
    for key in ("sk-old", "sk-new", *map(text_of, ("expired", "disabled", "admin", "unknown"))):
        for _ in range(2):
            before = file.asked, database.asked
            with pytest.raises(Unauthenticated):
                identity.identify({b"authorization": b"Bearer " + key.encode()})
            steps.add((file.asked - before[0], database.asked - before[1]))
    assert steps == {(1, 1)}


def test_a_key_with_a_role_opens_the_admin_plane_and_a_plain_one_does_not() -> None:
    ring = ring_of(*frames_of(snapshot(entry("admin", role="viewer"), entry("plain"))))
    caller = identify(ring, text_of("admin"), for_admins=True)
    assert isinstance(caller, Caller) and caller.role == "viewer"
    assert told(ring, "plain", for_admins=True) == told(ring, "unknown", for_admins=True)
    auth = Auth(keys=[Key.model_validate({"name": "file", "key": "sk-file", "admin": True})])
    assert isinstance(identify(ring, "sk-file", auth=auth, for_admins=True), Unauthenticated)
    nobody = KeyRing(Auth(), None, for_admins=True)
    with pytest.raises(Unauthenticated):
        nobody.identify({})


@pytest.mark.parametrize(
    ("networks", "address", "inside"),
    [
        ([], "", True),
        (["10.0.0.0/8"], "10.1.2.3", True),
        (["10.0.0.0/8"], "::ffff:10.1.2.3", True),
        (["10.0.0.0/8"], "11.1.2.3", False),
        (["10.0.0.0/8"], "", False),
        (["10.0.0.0/8"], "10.0.0.1, 11.0.0.1", False),
        (["2001:db8::/32", "192.0.2.1"], "2001:db8::1", True),
        (["2001:db8::/32", "192.0.2.1/32"], "192.0.2.1", True),
        (["fe80::/10"], "fe80::1%eth0", True),
    ],
)
def test_a_key_may_be_used_from_its_networks_alone(networks: list[str], address: str, inside: bool) -> None:
    ring = ring_of(*frames_of(snapshot(entry("k1", networks=networks))))
    auth = Auth(keys=[Key.model_validate({"name": "file", "key": "sk-file", "networks": networks})])
    for key in (text_of("k1"), "sk-file"):
        answer = identify(ring, key, address, auth=auth)
        if inside:
            assert isinstance(answer, Caller)
        else:
            assert isinstance(answer, Forbidden)
            assert answer.code == "network_not_allowed"


def test_without_word_of_the_database_its_keys_are_neither_right_nor_wrong() -> None:
    ring = ring_of()
    answer = identify(ring, text_of("k1"))
    assert isinstance(answer, Overloaded)
    assert (answer.status, answer.code) == (503, "directory_stale")
    assert b"retry-after" in answer.header_lines()
    auth = Auth(keys=[Key.model_validate({"name": "file", "key": "sk-file"})])
    assert isinstance(identify(ring, "sk-file", auth=auth), Caller)
    missing = KeyRing(Auth(), ring)
    with pytest.raises(Unauthenticated):
        missing.identify({})


def test_after_the_grace_keys_of_the_database_wait_and_those_of_the_file_do_not() -> None:
    """A15"""
    auth = Auth(keys=[Key.model_validate({"name": "file", "key": "sk-file"})])
    for late_s, taken in ((60.0, True), (60.5, False)):
        ring = ring_of(*frames_of(snapshot(entry("k1")), NOW), now=NOW + late_s)
        answer = identify(ring, text_of("k1"), auth=auth)
        assert isinstance(answer, Caller) is taken
        assert taken or (isinstance(answer, Overloaded) and answer.code == "directory_stale")
        assert isinstance(identify(ring, text_of("unknown"), auth=auth), Unauthenticated)
        assert isinstance(identify(ring, "sk-file", auth=auth), Caller)
        ring.take(Alive(NOW + late_s))
        assert isinstance(identify(ring, text_of("k1")), Caller)


def test_who_goes_by_organisations_and_teams_is_told_of_their_changes() -> None:
    ring = ring_of(*frames_of(snapshot(entry("k1"))))
    seen: list[tuple[float, int | None]] = []
    ring.on_change.append(
        lambda: seen.append(
            (ring.organisations["acme"].weight, ring.teams["acme", "research"].limits.requests_per_minute)
        )
    )
    ring.take(Changed(Changes(2, [OrganisationEntry("acme", weight=2.0)], [], [], []), NOW))
    ring.take(Changed(Changes(3, [], [TeamEntry("acme", "research", Limits(5))], [], []), NOW))
    ring.take(Changed(Changes(4, [], [], [entry("k2")], []), NOW))
    assert seen == [(2.0, None), (2.0, 5)]


def test_half_a_directory_changes_nothing() -> None:
    ring = ring_of(*frames_of(snapshot(entry("old"))))
    coming = frames_of(snapshot(entry("new"), seq=2))
    for frame in coming[:-1]:
        ring.take(frame)
    assert isinstance(identify(ring, text_of("old")), Caller)
    ring.take(coming[-1])
    assert isinstance(identify(ring, text_of("new")), Caller)
    assert isinstance(identify(ring, text_of("old")), Unauthenticated)
    for stray in (Keys([pack_key(entry("stray"))]), Whole(NOW)):
        ring.take(stray)
    assert repr(ring) == "<Ring 1 keys>"


IDS = st.sampled_from([f"k{index}" for index in range(6)])
CHANGES = st.lists(st.one_of(st.tuples(st.just("put"), IDS, st.integers(0, 9)), st.tuples(st.just("gone"), IDS)))


@given(CHANGES, st.lists(st.integers(1, 4000), max_size=40), st.integers(0, 30))
def test_who_followed_the_changes_knows_what_who_comes_later_is_told(
    changes: list[tuple[Any, ...]], cuts: list[int], begin: int
) -> None:
    """However the bytes are cut, and wherever somebody begins to listen."""
    book, wire = Book(), b""
    book.replace(snapshot(entry("k0"), entry("k1")), NOW)
    now: dict[str, KeyEntry] = {"k0": entry("k0"), "k1": entry("k1")}
    wire += b"".join(map(pack, book.frames()))
    for seq, change in enumerate(changes, 2):
        key_id = change[1]
        if change[0] == "put":
            now[key_id] = entry(key_id, name=f"n{change[2]}")
        else:
            now.pop(key_id, None)
        put = [now[key_id]] if key_id in now else []
        frame = Changed(Changes(seq, [], [], put, [] if put else [key_id]), NOW)
        book.take(frame)
        wire += pack(frame)
        if seq == begin:
            wire = b"".join(map(pack, book.frames()))
    ring, frames = Ring(60.0, lambda: NOW), Frames()
    edges = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    for first, last in pairwise(edges):
        for piece in frames.feed(wire[first:last]):
            ring.take(piece)
    known = {key_id: ring.find(text_of(key_id).encode()) for key_id in (f"k{index}" for index in range(6))}
    assert {key_id: caller.key_name for key_id, caller in known.items() if caller is not NOBODY} == {
        key_id: one.name for key_id, one in now.items()
    }
    assert len(ring) == len(book) == len(now)


def test_a_large_directory_comes_in_many_frames() -> None:
    count = KEYS_A_FRAME * 2 + 1
    given_ = frames_of(snapshot(*(entry(f"k{index}") for index in range(count))))
    assert [type(frame) for frame in given_] == [Begin, Keys, Keys, Keys, Whole]
    assert len(ring_of(*given_)) == count


def test_a_frame_that_is_too_long_is_no_frame() -> None:
    with pytest.raises(ValueError, match="a frame of"):
        list(Frames().feed(b"\xff\xff\xff\xff"))


def test_whoever_is_of_a_disabled_team_is_refused_a_holder_of_a_token_too() -> None:
    class Tokens:
        def find(self, token: bytes) -> Caller:
            return Caller("idp/alice", "acme", team=token.split(b".")[1].decode())

    ring = ring_of(*frames_of(snapshot()))
    keyring = KeyRing(Auth(), ring, tokens=Tokens(), wall_s=lambda: NOW)
    research, others = ({b"authorization": b"Bearer a.%b.c" % team} for team in (b"research", b"others"))
    assert keyring.identify(research).team == "research"
    ring.take(Changed(Changes(2, [], [TeamEntry("acme", "research", disabled=True)], [], []), NOW))
    with pytest.raises(Unauthenticated):
        keyring.identify(research)
    assert keyring.identify(others).team == "others"
