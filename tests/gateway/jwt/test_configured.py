"""What is wrong with `auth.jwt` is told at its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.load import load, parse_config
from gateway.config.problems import ConfigError

REST = "pools: {p: {urls: [http://a]}}\ndeployments: {m: {variants: {v: {pools: [p]}}}}\n"
GOOD = "name: sso, issuer: 'https://sso.example.com', audience: [headrace], tenant: acme"


def entries(*given: str) -> str:
    return "auth:\n  jwt:\n" + "".join(f"    - {{{one}}}\n" for one in given) + REST


def said(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "c.yaml", {})
    return [f"{one.key}: {one.message}" for one in caught.value.problems]


@pytest.mark.parametrize(
    ("given", "key", "message"),
    [
        (GOOD.replace("https:", "http:"), "issuer", "is not https"),
        (f"{GOOD}, jwks_url: 'http://sso.example.com/keys'", "jwks_url", "is not https"),
        (f"{GOOD}, jwks_url: 'http://127.0.0.1.example.com/keys'", "jwks_url", "is not https"),
        (GOOD.replace("https://sso.example.com", "ftp://a"), "issuer", ""),
        (GOOD.replace("audience: [headrace], ", ""), "", 'the key "audience" is missing'),
        (GOOD.replace("[headrace]", "[]"), "audience", "too short"),
        (f"{GOOD}, algorithms: [RS256, HS256]", "algorithms[1]", '"HS256" is not a choice'),
        (f"{GOOD}, algorithms: [none]", "algorithms[0]", '"none" is not a choice'),
        (f"{GOOD}, algorithms: []", "algorithms", "too short"),
        (GOOD.replace(", tenant: acme", ""), "", "nothing says who is charged"),
        (f"{GOOD}, claims: {{tenant: org}}", "tenant", "two sources"),
        (f"{GOOD}, roles: {{a: admin}}", "roles", "which claim has the roles"),
        (f"{GOOD}, claims: {{role: groups}}", "claims.role", "no value of this claim is a role"),
        (f"{GOOD}, roles: {{a: root}}", "roles.a", '"root" is not a choice'),
        (
            GOOD.replace("tenant: acme", "claims: {role: g}, roles: {a: tenant-admin}"),
            "roles",
            "a tenant-admin needs a tenant",
        ),
        (f"{GOOD}, deployments: [n]", "deployments[0]", '"n" is no deployment'),
        (f"{GOOD}, sensitivity: secret", "sensitivity", "none of residency.classes"),
        (GOOD.replace("sso.example.com", "accounts.google.com"), "issuer", "signs tokens for everybody"),
        (GOOD.replace("sso.example.com", "gitlab.com/"), "issuer", "signs tokens for everybody"),
        (f"{GOOD}, leeway_s: 301", "leeway_s", ""),
        (f"{GOOD}, claim: {{}}", "claim", ""),
    ],
)
def test_a_mistake_is_told_at_its_key(given: str, key: str, message: str) -> None:
    where = f"auth.jwt[0].{key}".rstrip(".")
    assert any(one.startswith(f"{where}: ") and message in one for one in said(entries(given))), said(entries(given))


def test_two_entries_may_share_an_issuer_but_not_an_audience_or_a_name() -> None:
    twice = said(entries(GOOD, GOOD))
    assert 'auth.jwt[1].name: the name "sso" is that of auth.jwt[0] as well' in twice
    assert 'auth.jwt[1].audience: auth.jwt[0] takes tokens of the same issuer for "headrace" already' in twice
    parse_config(entries(GOOD, GOOD.replace("sso,", "other,").replace("[headrace]", "[admin]")), "c.yaml", {})


def test_http_is_taken_on_loopback_and_public_issuers_with_a_requirement() -> None:
    public = GOOD.replace("sso.example.com", "accounts.google.com") + ", require: {hd: [example.com]}"
    parse_config(
        entries(GOOD.replace("https://sso.example.com", "http://localhost:8080/realms/x"), public.replace("sso", "g")),
        "c.yaml",
        {},
    )


def test_an_issuer_lets_the_gateway_be_reached_from_elsewhere() -> None:
    parse_config("server: {host: 0.0.0.0}\n" + entries(GOOD), "c.yaml", {})
    with pytest.raises(ConfigError, match=r"add auth\.keys, auth\.jwt"):
        parse_config("server: {host: 0.0.0.0}\n" + REST, "c.yaml", {})


def test_files_that_are_missing_and_roles_that_nothing_reads_are_warnings(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    roles = "claims: {role: groups}, roles: {a: admin}, ca_file: /none/ca.pem, token_file: /none/token"
    file.write_text(entries(f"{GOOD}, {roles}"), encoding="utf-8")
    warnings = [str(one) for one in load(file, {}).warnings]
    for part in ("the admin API, and there is none without `database`", "/none/ca.pem", "/none/token"):
        assert any(part in one for one in warnings), warnings


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "headrace\[oidc\]"'):
        parse_config(entries(GOOD), "c.yaml", {})


@pytest.mark.parametrize(
    "section",
    [
        "queue: {weights: {beta: 2}, classes: {sso/alice: 1}}",
        "spill: {max_usd_per_hour: 1, ttft_s: 1, tenants: {beta: 2}}",
    ],
)
def test_tenants_and_callers_of_tokens_cannot_be_known_beforehand(section: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    pools = "{p: {urls: [http://a]}, c: {urls: [http://b], site: cloud}}"
    variants = f"{{v: {{pools: [p]}}, w: {{pools: [c]}}}}, {section}"
    text = f"pools: {pools}\ndeployments: {{m: {{variants: {variants}}}}}\n"
    prices = "prices: {m: {input: 1, output: 1}}\n"

    def warnings(auth: str) -> list[str]:
        file.write_text(auth + text + prices, encoding="utf-8")
        return [str(one) for one in load(file, {}).warnings]

    assert any("of any key" in one for one in warnings("")), warnings("")
    assert not any("of any key" in one for one in warnings(entries(GOOD).removesuffix(REST)))
