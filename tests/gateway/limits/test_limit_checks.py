"""What is odd with limits is told with its place and a way out."""

from __future__ import annotations

import pytest

from gateway.config.checks import check
from gateway.config.load import parse_config
from gateway.config.problems import ConfigError

BASE = (
    "auth: {keys: [{name: search, hash: 'sha256:%s', tenant: acme, team: red%%s}], salt: pepper}\n"
    "pools: {p: {urls: [http://a]}}\n"
    "deployments: {m: {aliases: [n], variants: {v: {pools: [p]}}}}\n" % ("0" * 64)
)


def refused(more: str, of_key: str = "") -> tuple[str, str, str]:
    """Key, message and hint of the one thing that is wrong."""
    with pytest.raises(ConfigError) as caught:
        parse_config(BASE % of_key + more, "c.yaml", {})
    (problem,) = [one for one in caught.value.problems if one.severity == "error"]
    return problem.key, problem.message, problem.hint


@pytest.mark.parametrize(
    ("more", "key", "message", "hint"),
    [
        (
            "limits: [{match: {deployment: n}, parallel: 1}]",
            "limits[0].match.deployment",
            '"n" is an alias',
            'write "m"',
        ),
        (
            "limits: [{match: {deployment: mm}, parallel: 1}]",
            "limits[0].match.deployment",
            '"mm" is no deployment',
            'did you mean "m"?',
        ),
        (
            "limits: [{match: {tenant: acne}, parallel: 1}]",
            "limits[0].match.tenant",
            '"acne" is no tenant of any key',
            'did you mean "acme"?',
        ),
        (
            "limits: [{match: {key: seerch}, parallel: 1}]",
            "limits[0].match.key",
            '"seerch" is no key of auth.keys',
            'did you mean "search"?',
        ),
        (
            "limits: [{match: {team: blue}, parallel: 1}]",
            "limits[0].match.team",
            '"blue" is no team of any key',
            "there is: red",
        ),
        (
            "limits: [{match: {tenant: acme}}]",
            "limits[0]",
            "the rule limits nothing",
            "add a limit, such as `requests_per_minute`",
        ),
        (
            "tenants: {acme: {limits: {usd_per_day: 5, usd_per_day_soft: 5}}}",
            "tenants.acme.limits.usd_per_day_soft",
            "usd_per_day_soft of 5 USD is not below usd_per_day of 5 USD: it will never be told of",
            "lower it, or raise usd_per_day",
        ),
    ],
)
def test_limits_that_protect_nobody_are_refused(more: str, key: str, message: str, hint: str) -> None:
    assert refused(more) == (key, message, hint)


def test_networks_and_times_of_keys_are_checked() -> None:
    key, message, _ = refused("", ", networks: [10.0.0.0/8, 10.0.0.1, 10.0.0.0/40]")
    assert key == "auth.keys[0].networks[2]"
    assert "10.0.0.0/40" in message
    key, message, _ = refused("", ", expires: 2030-01-01T00:00:00")
    assert (key, message) == ("auth.keys[0].expires", "the time has no zone")
    parse_config(BASE % ", expires: '2030-01-01T00:00:00Z', networks: ['::1', 10.1.2.3/8]", "c.yaml", {})


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("tenants: {acne: {weight: 2}}", 'no key has the tenant "acne" (did you mean "acme"?)'),
        (
            "tenants: {acme: {teams: {read: {limits: {parallel: 1}}}}}",
            '"red" is no team of tenants.acme (did you mean "read"?)',
        ),
    ],
)
def test_what_may_be_a_slip_is_a_warning(more: str, said: str) -> None:
    (finding,) = [one for one in check(parse_config(BASE % "" + more, "c.yaml", {})) if one.severity == "warning"]
    assert f"{finding.message} ({finding.hint})" == said


def test_with_a_database_or_tokens_nobody_knows_who_will_come() -> None:
    more = "limits: [{match: {tenant: t, key: k, team: x}, parallel: 1}]\ntenants: {t: {weight: 2}}\ndatabase: {}\n"
    parse_config(BASE % "" + more, "c.yaml", {})
