"""In which class a request waits, and what the configuration may say of it."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config import Config, QueueOptions
from gateway.config.checks import check
from gateway.errors import InvalidRequest
from gateway.priority import priority_of

OPTIONS = QueueOptions(classes={"batch": 5}, objectives={"chat": 0, "nightly": 7})


@pytest.mark.parametrize(
    ("key", "headers", "expected"),
    [
        ("app", {}, 0),
        ("batch", {}, 5),
        ("app", {b"x-headrace-priority": b"3"}, 3),
        ("batch", {b"x-headrace-priority": b"9"}, 9),
        ("batch", {b"x-headrace-priority": b"0"}, 5),
        ("app", {b"x-gateway-inference-objective": b"nightly"}, 7),
        ("batch", {b"x-gateway-inference-objective": b"chat"}, 5),
        ("batch", {b"x-gateway-inference-objective": b"nobody knows it"}, 5),
        ("app", {b"x-headrace-priority": b"2", b"x-gateway-inference-objective": b"nightly"}, 2),
    ],
)
def test_a_caller_may_lower_its_priority_and_never_raise_it(
    key: str, headers: dict[bytes, bytes], expected: int
) -> None:
    assert priority_of(key, headers, OPTIONS) == expected


@pytest.mark.parametrize("given", [b"high", b"-1", b"10", b"", b"9" * 9999, b"\xff"])
def test_a_priority_that_is_none_is_refused(given: bytes) -> None:
    with pytest.raises(InvalidRequest, match="it takes a class from 0 to 9"):
        priority_of("app", {b"x-headrace-priority": given}, OPTIONS)


def findings(keys: list[dict[str, Any]], sections: dict[str, Any] | None = None, **queue: Any) -> list[str]:
    tree = (sections or {}) | {
        "auth": {"keys": keys},
        "pools": {"p": {"urls": ["http://127.0.0.1:1"]}},
        "deployments": {"m": {"variants": {"v": {"pools": ["p"]}}, "queue": queue}},
    }
    return [f"{found.severity} {found.message} ({found.hint})" for found in check(Config.model_validate(tree))]


def test_shares_and_classes_of_nobody_are_told_of() -> None:
    keys = [{"name": "app", "key": "secret-app", "tenant": "research"}]
    assert findings(keys, weights={"research": 2.0}, classes={"app": 1}) == []
    assert findings(keys, weights={"researchh": 2.0}, classes={"ap": 1}) == [
        'warning "researchh" is no tenant of any key (did you mean "research"?)',
        'warning "ap" is no key of auth.keys (did you mean "app"?)',
    ]
    assert findings([], weights={"default": 2.0}) == []
    of_nobody = findings(keys, {"tenants": {"sales": {}}}, weights={"sales": 2.0})
    assert of_nobody == ['warning no key has the tenant "sales" (there is: research)'], (
        "its share is no mistake by itself"
    )
    assert findings(keys, {"database": {}}, weights={"kept-there": 2.0}, classes={"there": 1}) == []
