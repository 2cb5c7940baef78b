"""What a token's claims come to: tenant, team, name, deployments, role."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.jwt_options import JwtIssuer
from gateway.errors import Unauthenticated
from gateway.identity import Caller
from gateway.jwt.claims import read_caller
from gateway.jwt.compact import Registered
from tests.harness import Json

KUBERNETES: Json = {
    "iss": "https://kubernetes.default.svc",
    "sub": "system:serviceaccount:search:indexer",
    "kubernetes.io": {"namespace": "search", "serviceaccount": {"name": "indexer", "uid": "1"}},
}
KEYCLOAK: Json = {
    "sub": "f2a1",
    "preferred_username": "alice",
    "organization": ["acme"],
    "realm_access": {"roles": ["offline_access", "llm-admin"]},
    "scope": "openid profile chat embed",
}
ENTRA: Json = {"sub": "AAAA", "tid": "72f988bf-86f1-41af-91ab-2d7cd011db47", "roles": ["Gateway.Viewer"], "oid": "o"}


def read(payload: Json, **options: Any) -> Caller:
    entry = JwtIssuer.model_validate({"name": "sso", "issuer": "https://a", "audience": ["x"]} | options)
    return read_caller(entry, json.dumps(payload).encode(), Registered("https://a", "x", 1000.0))


def refusal(payload: Json, **options: Any) -> str:
    with pytest.raises(Unauthenticated) as caught:
        read(payload, **options)
    assert caught.value.code == "invalid_token"
    return caught.value.message


def test_a_kubernetes_service_account_is_known_by_its_namespace() -> None:
    claims = {"tenant": ["kubernetes.io", "namespace"], "team": ["kubernetes.io", "serviceaccount", "name"]}
    caller = read(KUBERNETES, claims=claims)
    assert caller == Caller("sso/system:serviceaccount:search:indexer", "search", team="indexer", expires_at=1030.0)


def test_keycloaks_nested_roles_are_found() -> None:
    claims = {"name": "preferred_username", "tenant": "organization", "role": ["realm_access", "roles"]}
    caller = read(KEYCLOAK, claims=claims, roles={"llm-admin": "tenant-admin", "offline_access": "viewer"})
    assert (caller.key_name, caller.tenant, caller.role) == ("sso/alice", "acme", "tenant-admin")


def test_of_several_roles_that_counts_which_stands_first_in_the_configuration() -> None:
    claims = {"tenant": "organization", "role": ["realm_access", "roles"]}
    caller = read(KEYCLOAK, claims=claims, roles={"offline_access": "viewer", "llm-admin": "admin"})
    assert caller.role == "viewer"


def test_an_entra_tenant_is_a_tenant_here() -> None:
    caller = read(ENTRA, claims={"tenant": "tid", "role": "roles"}, roles={"Gateway.Viewer": "viewer"})
    assert (caller.tenant, caller.role) == (ENTRA["tid"], "viewer")


@pytest.mark.parametrize("claim", ["missing", ["organization", "x"], ["realm_access", "none"], "empty", "nothing"])
def test_a_token_without_its_tenant_is_refused_and_charged_to_nobody_else(claim: str | list[str]) -> None:
    payload = KEYCLOAK | {"empty": "", "nothing": []}
    message = refusal(payload, claims={"tenant": claim})
    assert "says its tenant (`auth.jwt[].claims.tenant`)" in message
    assert (claim if isinstance(claim, str) else " > ".join(claim)) in message
    roles = {"claims": {"tenant": claim, "role": "role"}, "roles": {"a": "admin", "t": "tenant-admin"}}
    assert read(payload | {"role": "a"}, **roles).tenant == "", "an admin is of no tenant"
    assert "says its tenant" in refusal(payload | {"role": "t"}, **roles)
    assert "says its tenant" in refusal(payload | {"role": "other"}, **roles)


@pytest.mark.parametrize(
    "value", ["a b", "a\nb", "a|b", "a\u0000", "-a", "\u00e9", "x" * 129, 7, True, {}, ["a", "b"], [7]]
)
def test_a_tenant_or_team_that_is_no_name_is_refused(value: object) -> None:
    """Names stand in cache keys, in metrics and in the keys of limits."""
    assert "claim `t`" in refusal({"sub": "s", "t": value}, claims={"tenant": "t"})
    assert "claim `t`" in refusal({"sub": "s", "t": value}, tenant="acme", claims={"team": "t"})


def test_a_fixed_tenant_holds_for_all() -> None:
    caller = read({"sub": "s", "tenant": "other"}, tenant="acme")
    assert (caller.tenant, caller.team) == ("acme", "")


@pytest.mark.parametrize(
    ("claim", "allowed", "found"),
    [
        (["m", "n"], ["*"], {"m", "n"}),
        ("m n", ["*"], {"m", "n", "m n"}),
        (["m", "n"], ["n", "o"], {"n"}),
        (["*"], ["n", "o"], {"n", "o"}),
        (["*"], ["*"], None),
        ([], ["*"], set()),
        (None, ["*"], set()),
        (["m", 7, None], ["*"], {"m"}),
    ],
)
def test_deployments_are_those_that_token_and_configuration_both_name(
    claim: object, allowed: list[str], found: set[str] | None
) -> None:
    caller = read({"sub": "s", "d": claim}, tenant="acme", deployments=allowed, claims={"deployments": "d"})
    assert caller.deployments == (None if found is None else frozenset(found))


def test_without_such_a_claim_the_configuration_says_it() -> None:
    assert read({"sub": "s"}, tenant="acme", deployments=["m"]).deployments == frozenset({"m"})
    assert read({"sub": "s"}, tenant="acme").deployments is None
    assert "neither a text nor a list" in refusal({"sub": "s", "d": 7}, tenant="acme", claims={"deployments": "d"})


@pytest.mark.parametrize("sub", [None, "", 7, ["a", "b"], "x" * 252])
def test_a_token_of_nobody_is_refused(sub: object) -> None:
    assert "`auth.jwt[].claims.name`" in refusal({"sub": sub}, tenant="acme")


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
)
def test_names_are_plain_text_and_no_two_subjects_share_one(first: str, second: str) -> None:
    def name(sub: str) -> str:
        try:
            return read({"sub": sub}, tenant="acme").key_name
        except Unauthenticated:
            return f"too long: {sub}"

    one, other = name(first), name(second)
    assert (one == other) == (first == second)
    assert one.startswith("too long") or (one.isascii() and one.isprintable() and " " not in one)


@pytest.mark.parametrize("text", [b'"\\ud800"', b'"\xed\xa0\x80"', b'"\xff"', b"[" * 5000, b"[" * 3000 + b"]" * 3000])
def test_claims_that_are_no_json_are_refused_even_if_they_are_signed(text: bytes) -> None:
    entry = JwtIssuer(name="sso", issuer="https://a", audience=["x"], tenant="acme")
    with pytest.raises(Unauthenticated, match="not JSON"):
        read_caller(entry, b'{"sub": "s", "x": %b}' % text, Registered("https://a", "x", 1000.0))


def test_the_class_of_its_requests_is_that_of_the_entry() -> None:
    assert read({"sub": "s"}, tenant="acme", sensitivity="internal").sensitivity == "internal"


@pytest.mark.parametrize(
    ("held", "let_in"),
    [("a", True), (["x", "b"], True), ("c", False), (["c"], False), ([], False), (None, False), ({"a": 1}, False)],
)
def test_a_token_must_have_the_claims_that_are_required(held: object, let_in: bool) -> None:
    options: Json = {"tenant": "acme", "require": {"who": ["a", "b"], "verified": ["true"]}}
    payload = {"sub": "s", "who": held, "verified": True}
    if let_in:
        assert read(payload, **options).tenant == "acme"
        assert "claim `verified` has none" in refusal(payload | {"verified": False}, **options)
    else:
        assert "claim `who` has none of the values that are let in" in refusal(payload, **options)
