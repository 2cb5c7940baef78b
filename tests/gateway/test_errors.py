"""Errors as a client sees them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import errors
from gateway.errors import (
    MAX_RETRY_AFTER_S,
    ApiError,
    InsufficientQuota,
    InternalError,
    LimitsUnavailable,
    MethodNotAllowed,
    NoHealthyBackend,
    Overloaded,
    RateLimited,
    Unauthenticated,
    from_status,
)


def kinds(root: type[ApiError] = ApiError) -> Iterator[type[ApiError]]:
    for kind in root.__subclasses__():
        yield kind
        yield from kinds(kind)


def made(kind: type[ApiError]) -> ApiError:
    if kind is MethodNotAllowed:
        return MethodNotAllowed("Not so.", allow="GET, POST")
    return InternalError() if kind is InternalError else kind("Not so.")


@pytest.mark.parametrize("kind", list(kinds()), ids=lambda kind: kind.__name__)
def test_every_error_has_openais_shape_and_its_place_in_the_tree(kind: type[ApiError]) -> None:
    error = made(kind)
    told = json.loads(error.body())
    assert told == {"error": {"message": error.message, "type": kind.type, "param": None, "code": kind.default_code}}
    assert error.event() == b"data: " + error.body() + b"\n\n"
    assert re.search(rf"─ {kind.__name__} +{kind.status}  {kind.type}\n", errors.__doc__ or "")
    for line in error.header_lines().split(b"\r\n")[:-1]:
        assert re.fullmatch(rb"[a-z-]+: [^\r\n]+", line)


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind.status in (429, 503)])
@given(wait_s=st.floats(0, 1e9) | st.integers(0, 10**12))
def test_every_429_and_503_says_when_to_come_back_within_what_sdks_obey(kind: type[ApiError], wait_s: float) -> None:
    """A20"""
    assert kind in (RateLimited, InsufficientQuota, Overloaded, NoHealthyBackend, LimitsUnavailable)
    for error in (kind("x"), kind("x", retry_after_s=wait_s)):
        match = re.fullmatch(
            rb"retry-after: (\d+)\r\nretry-after-ms: (\d+)\r\n(?:x-should-retry: false\r\n)?", error.header_lines()
        )
        assert match is not None
        seconds, ms = int(match[1]), int(match[2])
        assert 1 <= seconds <= MAX_RETRY_AFTER_S == 120
        assert 1 <= ms <= 120_000
        assert 0 <= seconds * 1000 - ms < 1000


def test_an_error_may_overrule_what_sdks_do() -> None:
    assert ApiError("x", should_retry=False).header_lines() == b"x-should-retry: false\r\n"
    assert ApiError("x", should_retry=True).header_lines() == b"x-should-retry: true\r\n"
    assert ApiError("x").header_lines() == b""


def test_a_401_names_its_scheme_and_a_405_its_methods() -> None:
    assert Unauthenticated("x").header_lines() == b'www-authenticate: Bearer realm="headrace"\r\n'
    assert MethodNotAllowed("x", allow="POST").header_lines() == b"allow: POST\r\n"


def test_our_own_failure_tells_nothing_of_its_cause() -> None:
    assert "log has the reason" in InternalError().message


@pytest.mark.parametrize("status", range(400, 600))
def test_a_frameworks_status_becomes_an_error_that_is_ours_and_never_422(status: int) -> None:
    """A09"""
    error = from_status(status, "The framework says no.")
    assert error.status != 422
    assert error.status < 500 if status < 500 else error.status == 500
    if status in (400, 401, 403, 404, 405, 408, 413):
        assert (error.status, error.message) == (status, "The framework says no.")
