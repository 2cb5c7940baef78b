"""Which tokens are taken, and what their refusals say."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest

from gateway.clock import wall_time_s
from gateway.errors import ApiError, Unauthenticated
from gateway.identity import Caller
from gateway.jwt.compact import MAX_BYTES
from gateway.jwt.verifier import Verifier
from tests.gateway.jwt.issuer import (
    AUDIENCE,
    Issuer,
    issuer_running,
    jwk_of,
    key_of,
    new_key,
    pem_of,
    verifying,
)
from tests.harness import Json

INVALID = "The token is not valid."


@asynccontextmanager
async def both(ca_file: Path, **options: Any) -> AsyncIterator[tuple[Issuer, Verifier]]:
    async with issuer_running(ca_file) as issuer:
        issuer.add()
        async with verifying(issuer.options(**options)) as verifier:
            yield issuer, verifier


def found(verifier: Verifier, token: str | bytes) -> Caller:
    return verifier.find(token.encode() if isinstance(token, str) else token)


def refusal(verifier: Verifier, token: str | bytes) -> str:
    with pytest.raises(Unauthenticated) as caught:
        found(verifier, token)
    assert caught.value.status == 401
    assert b'error="invalid_token"' in caught.value.header_lines()
    return caught.value.message


def unsigned(part: str) -> Json:
    made: Json = json.loads(base64.urlsafe_b64decode(part + "=="))
    return made


def packed(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
)
async def test_a_token_of_each_algorithm_is_taken(algorithm: str, ca_file: Path) -> None:
    async with issuer_running(ca_file) as issuer:
        issuer.add(algorithm=algorithm)
        async with verifying(issuer.options(algorithms=[algorithm])) as verifier:
            caller = found(verifier, issuer.token(algorithm=algorithm))
            assert (caller.key_name, caller.tenant, caller.deployments) == ("sso/alice", "acme", None)


async def test_a_key_that_names_no_algorithm_is_good_for_those_of_its_kind_that_are_allowed(ca_file: Path) -> None:
    async with issuer_running(ca_file) as issuer:
        issuer.listed.append(jwk_of(key_of("RS256", "one"), "RS256", kid="one"))
        async with verifying(issuer.options(algorithms=["RS256", "PS256"])) as verifier:
            for algorithm in ("RS256", "PS256"):
                claims = issuer.claims()
                token = issuer.signed(claims, key_of("RS256", "one"), algorithm, {"kid": "one"})
                assert found(verifier, token).tenant == "acme"
            token = issuer.signed(issuer.claims(), key_of("RS256", "one"), "RS512", {"kid": "one"})
            assert refusal(verifier, token) == INVALID


async def test_a_token_without_kid_is_checked_with_the_only_key_there_is(ca_file: Path) -> None:
    async with both(ca_file) as (issuer, verifier):
        assert found(verifier, issuer.token(kid=None)).key_name == "sso/alice"
        issuer.add("two")
    async with issuer_running(ca_file) as issuer:
        issuer.add()
        issuer.add("two")
        async with verifying(issuer.options()) as verifier:
            assert refusal(verifier, issuer.token(kid=None)) == INVALID


async def test_a_token_signed_with_the_public_key_as_a_secret_is_refused(ca_file: Path) -> None:
    """Algorithm confusion: HS256 over the PEM, the DER or the JWK of the public key."""
    async with issuer_running(ca_file) as issuer:
        key = issuer.add(algorithm="RS256")
        async with verifying(issuer.options()) as verifier:
            head, payload, _ = issuer.token(algorithm="RS256").split(".")
            for secret in (pem_of(key), json.dumps(issuer.listed[0]).encode(), b""):
                for algorithm in ("HS256", "hs256", "HS512"):
                    forged_head = packed(unsigned(head) | {"alg": algorithm})
                    signed = f"{forged_head}.{payload}".encode()
                    digest = hashlib.sha512 if algorithm == "HS512" else hashlib.sha256
                    mac = base64.urlsafe_b64encode(hmac.new(secret, signed, digest).digest()).rstrip(b"=")
                    assert refusal(verifier, signed + b"." + mac) == INVALID


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "", "RS256 ", None, 256, ["ES256"]])
async def test_an_unsigned_token_is_refused(alg: object, ca_file: Path) -> None:
    async with both(ca_file) as (issuer, verifier):
        head, payload, signature = issuer.token().split(".")
        forged = packed(unsigned(head) | {"alg": alg})
        assert refusal(verifier, f"{forged}.{payload}.") == INVALID
        assert refusal(verifier, f"{forged}.{payload}.{signature}") == INVALID


@pytest.mark.parametrize(
    "kid", ["../../../dev/null", "/etc/passwd", "one\u0000", "one' OR 1=1", "x" * 4000, "", "ONE", 1, None, {"a": 1}]
)
async def test_a_kid_is_a_name_and_nothing_else(kid: object, ca_file: Path) -> None:
    async with issuer_running(ca_file) as issuer:
        issuer.add()
        issuer.add("two")
        async with verifying(issuer.options()) as verifier:
            fetched = len(issuer.paths)
            head, payload, signature = issuer.token().split(".")
            with pytest.raises(Unauthenticated, match=INVALID) as caught:
                found(verifier, f"{packed(unsigned(head) | {'kid': kid})}.{payload}.{signature}")
            if caught.value.again is not None:
                await caught.value.again()
            assert set(issuer.paths[fetched:]) <= {"/.well-known/openid-configuration", "/jwks"}


async def test_keys_that_a_token_brings_or_points_to_are_not_looked_at(ca_file: Path) -> None:
    """RFC 7515's jwk, jku, x5u and x5c."""
    async with issuer_running(ca_file) as thief, both(ca_file) as (issuer, verifier):
        own = new_key("ES256")
        thief.listed.append(jwk_of(own, "ES256", kid="one", alg="ES256"))
        for header in (
            {"jku": f"{thief.url}/jwks"},
            {"x5u": f"{thief.url}/cert.pem"},
            {"jwk": thief.listed[0]},
            {"x5c": ["MII"]},
        ):
            token = issuer.signed(issuer.claims(), own, "ES256", {"kid": "one"} | header)
            assert refusal(verifier, token) == INVALID
        assert thief.paths == []
        assert found(verifier, issuer.token(head={"jku": f"{thief.url}/jwks"})).tenant == "acme"


async def test_a_token_that_demands_extensions_is_refused(ca_file: Path) -> None:
    async with both(ca_file) as (issuer, verifier):
        token = issuer.signed(
            issuer.claims(), key_of("ES256", "one"), "ES256", {"kid": "one", "crit": ["exp"], "exp": 1}
        )
        assert refusal(verifier, token) == INVALID


async def test_a_key_of_one_issuer_signs_nothing_for_another(ca_file: Path) -> None:
    async with issuer_running(ca_file) as first, issuer_running(ca_file) as second:
        first.add("one")
        second.add("two")
        entries = first.options(), second.options(name="other", tenant="beta", claims={})
        async with verifying(*entries) as verifier:
            assert found(verifier, first.token("one")).tenant == "acme"
            assert found(verifier, second.token("two")).tenant == "beta"
            assert refusal(verifier, first.token("two")) == INVALID
            assert refusal(verifier, first.token("one", iss=second.url)) == INVALID
            assert refusal(verifier, first.token("one", iss="https://nobody.example")) == INVALID
            assert refusal(verifier, first.token("one", iss=first.url + "/")) == INVALID


async def test_bad_signature_unknown_kid_and_unknown_issuer_read_the_same(ca_file: Path) -> None:
    """A18: nor is anything said of a token's contents before its signature is good."""
    async with both(ca_file) as (issuer, verifier):
        token = issuer.token()
        for bad in (
            token[:-6] + "AAAAAA",
            issuer.token("two"),
            issuer.token(iss="https://nobody.example"),
            issuer.token(exp=1)[:-6] + "AAAAAA",
            issuer.token(aud="other")[:-6] + "AAAAAA",
            issuer.token(org=None)[:-6] + "AAAAAA",
        ):
            with pytest.raises(Unauthenticated) as caught:
                found(verifier, bad)
            assert (caught.value.message, caught.value.code) == (INVALID, "invalid_token")


async def test_a_token_that_expired_is_told_when_and_a_clock_may_be_off_a_little(ca_file: Path) -> None:
    now_s = 1_800_000_000.0
    async with issuer_running(ca_file) as issuer:
        issuer.add()
        async with verifying(issuer.options(leeway_s=30), wall_s=lambda: now_s) as verifier:
            assert found(verifier, issuer.token(iat=None, exp=now_s - 29)).tenant == "acme"
            assert found(verifier, issuer.token(iat=now_s + 30, nbf=now_s + 30, exp=now_s + 1)).tenant == "acme"
            with pytest.raises(Unauthenticated) as caught:
                found(verifier, issuer.token(iat=None, exp=now_s - 30))
            assert caught.value.code == "expired_token"
            assert caught.value.message == "The token expired at 2027-01-15T07:59:30+00:00. Get a new one."
            assert b'error_description="The token expired"' in caught.value.header_lines()
            for claim in ("nbf", "iat"):
                times: Json = {"iat": None, "exp": now_s + 60, claim: now_s + 31}
                late = issuer.token(**times)
                assert f"is not valid before 2027-01-15T08:00:31+00:00 (`{claim}`)" in refusal(verifier, late)


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("exp", None),
        ("exp", "9999999999"),
        ("exp", True),
        ("exp", [1]),
        ("nbf", "1"),
        ("iat", {}),
        ("iss", None),
        ("iss", ["x"]),
        ("aud", None),
        ("aud", {"headrace": 1}),
        ("aud", [1, AUDIENCE]),
    ],
)
async def test_a_token_whose_times_issuer_or_audience_are_no_such_thing_is_refused(
    claim: str, value: object, ca_file: Path
) -> None:
    async with both(ca_file) as (issuer, verifier):
        claims = {name: one for name, one in (issuer.claims() | {claim: value}).items() if one is not None}
        head = packed({"alg": "ES256", "kid": "one"})
        signed = f"{head}.{packed(claims)}"
        signature = jwt.get_algorithm_by_name("ES256").sign(signed.encode(), key_of("ES256", "one"))
        token = f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"
        assert refusal(verifier, token) == INVALID


@pytest.mark.parametrize("exp", ["1e400", "NaN", "Infinity", "1e300"])
async def test_numbers_without_end_neither_break_nor_open_anything(exp: str, ca_file: Path) -> None:
    async with both(ca_file) as (issuer, verifier):
        payload = json.dumps(issuer.claims(exp=7)).replace('"exp": 7', f'"exp": {exp}').encode()
        token = jwt.PyJWS().encode(payload, key_of("ES256", "one"), "ES256", {"kid": "one"})
        if exp == "1e300":
            assert found(verifier, token).tenant == "acme"
        else:
            assert refusal(verifier, token) == INVALID


async def test_one_of_the_audiences_must_be_one_that_is_configured(ca_file: Path) -> None:
    async with both(ca_file, audience=["headrace", "gateway"]) as (issuer, verifier):
        for aud in ("headrace", ["other", "gateway"], ["headrace"]):
            assert found(verifier, issuer.token(aud=aud)).tenant == "acme"
        for aud in ("other", ["other"], [], "", "headrace,gateway", ["Headrace"]):
            assert "for another service" in refusal(verifier, issuer.token(aud=aud))


async def test_the_audience_says_which_entry_of_an_issuer_is_meant(ca_file: Path) -> None:
    async with issuer_running(ca_file) as issuer:
        issuer.add()
        roles = {"claims": {"role": "groups"}, "roles": {"ops": "operator", "boss": "admin"}}
        people = issuer.options(name="people", audience=["headrace-admin"], **roles)
        async with verifying(issuer.options(), people) as verifier:
            assert found(verifier, issuer.token(groups=["boss"])).role == ""
            admin = found(verifier, issuer.token(aud="headrace-admin", groups=["boss", "ops"], org=None))
            assert (admin.role, admin.key_name, admin.tenant) == ("operator", "people/alice", "")
            nobody = refusal(verifier, issuer.token(aud="headrace-admin", groups=["guests"]))
            assert nobody == "The token has no role that is known, and nothing says its tenant (`auth.jwt[].tenant`)."


@pytest.mark.parametrize("size", [MAX_BYTES - 200, MAX_BYTES + 1, 60_000])
async def test_a_token_is_only_read_up_to_a_size(size: int, ca_file: Path) -> None:
    async with both(ca_file) as (issuer, verifier):
        token = issuer.token(pad="")
        pad = "x" * ((size - len(token)) * 3 // 4)
        token = issuer.token(pad=pad)
        if len(token) <= MAX_BYTES:
            assert found(verifier, token).tenant == "acme"
        else:
            assert refusal(verifier, token) == INVALID


async def test_what_is_no_token_is_refused(ca_file: Path) -> None:
    async with both(ca_file) as (issuer, verifier):
        head, payload, signature = issuer.token().split(".")
        deep = base64.urlsafe_b64encode(b"[" * 9000).decode().rstrip("=")
        for bad in (
            "..",
            "a.b.c",
            f"{head}..{signature}",
            f".{payload}.{signature}",
            f"{head}.{payload}.",
            f"{head}.{payload}.{signature}=",
            f"{head}.{payload}.{signature}.x",
            f"{head}.{payload} .{signature}",
            f"{deep}.{payload}.{signature}",
            f"{head}.{deep}.{signature}",
            f"{head}.{packed([1])}.{signature}",
            f"{head}.{packed('x')}.{signature}",
            "\u00e9.\u00e9.\u00e9",
        ):
            assert refusal(verifier, bad) == INVALID
        assert refusal(verifier, b"\xff\xfe.\x00.\x80") == INVALID


async def test_a_token_that_was_seen_costs_no_second_check_and_is_forgotten_when_it_expires(ca_file: Path) -> None:
    clock = [wall_time_s()]
    async with issuer_running(ca_file) as issuer:
        issuer.add()
        async with verifying(issuer.options(leeway_s=0), wall_s=lambda: clock[0]) as verifier:
            token = issuer.token(exp=clock[0] + 100, iat=None)
            first = found(verifier, token)
            assert found(verifier, token) is first
            clock[0] += 99
            assert found(verifier, token) is first
            clock[0] += 1
            assert "expired" in refusal(verifier, token)
            assert "seen=0" in repr(verifier)
            long = issuer.token(exp=clock[0] + 10_000, iat=None)
            first = found(verifier, long)
            clock[0] += 301
            assert found(verifier, long) is not first, "remembered for longer than five minutes"


async def test_only_so_many_tokens_are_remembered(ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.jwt.verifier.MAX_SEEN", 3)
    async with both(ca_file) as (issuer, verifier):
        tokens = [issuer.token(sub=str(number)) for number in range(5)]
        callers = [found(verifier, token) for token in tokens]
        assert "seen=3" in repr(verifier)
        assert found(verifier, tokens[4]) is callers[4]
        assert found(verifier, tokens[0]) is not callers[0]


async def test_nothing_that_is_refused_is_remembered(ca_file: Path) -> None:
    async with both(ca_file) as (issuer, verifier):
        for number in range(20):
            with pytest.raises(ApiError):
                found(verifier, issuer.token(sub=str(number), aud="other"))
        assert "seen=0" in repr(verifier)
