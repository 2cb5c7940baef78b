"""Nothing that can be sent as a token does anything but be taken or be refused."""

from __future__ import annotations

import base64
import json
import random

import jwt
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.clock import RealClock
from gateway.config.jwt_options import JwtIssuer
from gateway.errors import Unauthenticated
from gateway.jwt.keys import read_keys
from gateway.jwt.verifier import Verifier
from tests.gateway.jwt.issuer import jwk_of, key_of

ISSUER = "https://issuer.example"
KEY = key_of("ES256", "one")
GOOD = {"iss": ISSUER, "aud": "headrace", "sub": "alice", "org": "acme", "exp": 4_000_000_000}

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
claims = st.dictionaries(
    st.sampled_from([*GOOD, "nbf", "iat", "groups", "models", "team", "kubernetes.io"]), anything, max_size=4
)
heads = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("alg", "kid", "crit", "b64", "typ", "jwk", "jku", "zip", "cty"), anything)
)


def entry() -> JwtIssuer:
    names = {"tenant": "org", "team": "team", "deployments": "models", "role": ["groups", "a"]}
    options = {"name": "sso", "issuer": ISSUER, "audience": ["headrace"], "claims": names, "roles": {"x": "admin"}}
    return JwtIssuer.model_validate(options)


def verifier() -> Verifier:
    made = Verifier([entry()], RealClock(), random.Random(1))
    listed = json.dumps({"keys": [jwk_of(KEY, "ES256", kid="one")]}).encode()
    made.sources[0].take(read_keys(listed, ["ES256"]))
    return made


VERIFIER = verifier()


def part(value: object) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")


def signed(head: object, payload: object) -> bytes:
    """With the right key, whatever is in it."""
    message = part(head) + b"." + part(payload)
    signature = jwt.get_algorithm_by_name("ES256").sign(message, KEY)
    return message + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")


def check(token: bytes) -> bool:
    try:
        caller = VERIFIER.find(token)
    except Unauthenticated as error:
        assert error.status == 401
        assert error.body()
        assert b"\r\n" not in error.header_lines()[:-2]
        return False
    assert caller.tenant or caller.role == "admin"
    return True


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(token: bytes) -> None:
    assert not check(token)


@given(st.lists(st.binary(max_size=80).map(base64.urlsafe_b64encode), min_size=3, max_size=3))
def test_any_three_parts_are_refused(parts: list[bytes]) -> None:
    assert not check(b".".join(parts))


@settings(max_examples=300)
@given(heads, claims)
def test_any_header_and_claims_that_are_not_signed_are_refused(
    head: dict[str, object], more: dict[str, object]
) -> None:
    assert not check(part({"alg": "ES256", "kid": "one"} | head) + b"." + part(GOOD | more) + b".AAAA")


@settings(max_examples=500)
@given(claims)
def test_any_claims_that_are_signed_are_taken_or_refused(more: dict[str, object]) -> None:
    check(signed({"alg": "ES256", "kid": "one"}, GOOD | more))


@settings(max_examples=300)
@given(heads)
def test_any_header_that_is_signed_is_taken_or_refused(head: dict[str, object]) -> None:
    if check(signed({"alg": "ES256", "kid": "one"} | head, GOOD)):
        assert head.get("alg", "ES256") == "ES256"
        assert "crit" not in head


@settings(max_examples=300)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_good_token_with_one_byte_changed_is_refused(place: int, change: int) -> None:
    token = bytearray(signed({"alg": "ES256", "kid": "one"}, GOOD))
    assert check(bytes(token))
    place %= token.rindex(b".")  # of the signature the last character has bits that mean nothing
    token[place] ^= change
    assert not check(bytes(token))


@given(st.recursive(anything, lambda inner: st.lists(inner, max_size=3)))
def test_any_json_is_a_set_of_keys_or_none(body: object) -> None:
    for shown in (body, {"keys": body}, {"keys": [body]}):
        try:
            read_keys(json.dumps(shown).encode(), ["ES256", "RS256", "EdDSA"])
        except ValueError as error:
            assert str(error)


@settings(max_examples=300)
@given(
    st.sampled_from(["RSA", "EC", "OKP"]),
    st.sampled_from([None, "P-256", "P-384", "P-521", "Ed25519"]),
    st.fixed_dictionaries(
        {},
        optional={
            name: st.binary(max_size=70).map(lambda raw: base64.urlsafe_b64encode(raw).decode()) | st.text(max_size=6)
            for name in ("x", "y", "n", "e")
        },
    ),
)
def test_any_members_of_a_key_make_a_key_or_none(kty: str, crv: str | None, members: dict[str, str]) -> None:
    body = {"keys": [{"kty": kty, "crv": crv} | members]}
    try:
        read_keys(json.dumps(body).encode(), ["ES256", "ES384", "ES512", "RS256", "PS256", "EdDSA"])
    except ValueError as error:
        assert "none of its 1 keys" in str(error)
