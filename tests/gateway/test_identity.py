"""Who calls (A18), and what they may have in flight."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr

from engines.base import Operation
from gateway.config import Auth, Key
from gateway.errors import Unauthenticated
from gateway.identity import ANYBODY, Caller, KeyRing
from gateway.keys import hash_key, new_key
from gateway.wire import Call

SALT = "pepper"
CALL = Call(Operation.CHAT, "m", False, False, b"{}")


def ring(*keys: Key) -> KeyRing:
    return KeyRing(Auth(salt=SecretStr(SALT), keys=list(keys)))


TEAM = Key(name="team", hash=hash_key("sk-team", SALT), tenant="acme", deployments=["m"], max_parallel=2)
PLAIN = Key(name="plain", key=SecretStr("sk-plain"))


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": b"Bearer sk-team"},
        {b"authorization": b"bearer  sk-team "},
        {b"x-api-key": b"sk-team"},
        {b"api-key": b"sk-team"},
        {b"authorization": b"Basic dXNlcjpwdw==", b"x-api-key": b"sk-team"},
        {b"authorization": b"", b"api-key": b"sk-team"},
    ],
)
def test_a_key_is_known_by_its_hash_in_whichever_header_it_comes(headers: dict[bytes, bytes]) -> None:
    """A18"""
    assert ring(TEAM, PLAIN).identify(headers) == Caller("team", "acme", frozenset({"m"}), 2)


def test_a_key_from_the_environment_is_known_as_well() -> None:
    caller = ring(TEAM, PLAIN).identify({b"authorization": b"Bearer sk-plain"})
    assert caller == Caller("plain", "default")
    assert caller.may_call("anything")


def refusal(keys: KeyRing, headers: dict[bytes, bytes]) -> tuple[int, bytes, bytes]:
    with pytest.raises(Unauthenticated) as caught:
        keys.identify(headers)
    return caught.value.status, caught.value.body(), caught.value.header_lines()


@given(st.binary(max_size=60))
@example(b"sk-tea")
@example(b"sk-team2")
@example(b"SK-TEAM")
@example(b"sk-team\x00")
@example(hash_key("sk-team", SALT).encode())
@example(hash_key("sk-team", SALT).removeprefix("sha256:").encode())
@example(b"\xff\xfe")
def test_every_key_that_is_not_known_is_refused_in_the_same_words(key: bytes) -> None:
    """A18: whether it never was, was revoked, or is one character off."""
    if key.strip() not in (b"sk-team", b"sk-plain", b""):
        unknown = refusal(ring(TEAM, PLAIN), {b"authorization": b"Bearer " + key})
        assert unknown == refusal(ring(PLAIN), {b"authorization": b"Bearer sk-team"})
        assert b"sk-" not in unknown[1]


@pytest.mark.parametrize(
    "headers",
    [{}, {b"authorization": b"Bearer"}, {b"authorization": b"Bearer  "}, {b"x-api-key": b""}, {b"authorization": b"x"}],
)
def test_a_missing_key_is_told_how_to_be_sent_and_matches_nobody(headers: dict[bytes, bytes]) -> None:
    """A secret from the environment that turned out empty must not let everybody in."""
    empty = Key(name="empty", key=SecretStr(""))
    status, body, _ = refusal(ring(TEAM, empty), headers)
    assert status == 401
    assert b"missing_api_key" in body
    assert b"Authorization: Bearer KEY" in body


def test_a_hash_of_another_salt_is_no_match() -> None:
    """A18: salted."""
    other = Key(name="other", hash=hash_key("sk-team", "salt"))
    assert refusal(ring(other), {b"authorization": b"Bearer sk-team"})[0] == 401
    assert other.hash == "sha256:" + hashlib.sha256(b"saltsk-team").hexdigest()


def test_with_no_keys_configured_everybody_may_call_everything() -> None:
    assert ring().identify({b"authorization": b"Bearer whatever"}) is ANYBODY
    assert ANYBODY.may_call("m")


def test_a_new_key_is_accepted_by_its_hash() -> None:
    key = new_key()
    caller = ring(Key(name="new", hash=hash_key(key, SALT))).identify({b"authorization": b"Bearer " + key.encode()})
    assert caller.key_name == "new"
