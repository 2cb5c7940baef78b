"""What is wrong with how a Redis server is named is told at its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import Config
from gateway.config.checks import check
from gateway.config.secrets import secrets_of
from tests.harness import Json

SENTINEL = {"master": "main", "urls": ["redis://:hidden%21@s1:26379", "rediss://s2:26379"]}


def problems(redis: Json) -> list[str]:
    config = Config.model_validate({"redis": redis})
    found = [f"{'.'.join(map(str, finding.path))}: {finding.message}" for finding in check(config)]
    return [text for text in found if text.startswith("redis")]


@pytest.mark.parametrize(
    "redis",
    [
        {"url": "redis://host:6379/3", "user": "me", "password": "p"},
        {"url": "unix:///run/valkey.sock"},
        {"url": "redis://host", "cluster": True},
        {"sentinel": SENTINEL, "ca_file": __file__},
        {"url": "rediss://host/0", "cluster": True, "ca_file": __file__, "peers": False},
    ],
)
def test_servers_may_be_named_in_these_ways(redis: Json) -> None:
    assert problems(redis) == []


@pytest.mark.parametrize(
    ("redis", "problem"),
    [
        ({}, "redis: it says no server"),
        ({"url": "redis://h", "sentinel": SENTINEL}, 'redis.url: both "url" and "sentinel" are set'),
        ({"sentinel": SENTINEL, "cluster": True}, "redis.cluster: Sentinel keeps single servers, not clusters"),
        ({"url": "unix:///s", "cluster": True}, "redis.url: a cluster is not reached over a socket"),
        ({"url": "redis://h/3", "cluster": True}, "redis.url: a cluster has no database 3"),
        ({"url": "redis://:a@h", "password": "b"}, "redis.password: the URL has a password as well"),
        ({"url": "redis://h", "user": "me"}, 'redis.user: there is no password for "me"'),
        ({"url": "redis://h", "ca_file": "x"}, "redis.ca_file: it is not used: no URL begins with rediss://"),
        ({"url": "rediss://h", "ca_file": "/nowhere/ca"}, 'redis.ca_file: there is no file "/nowhere/ca"'),
    ],
)
def test_what_cannot_be_meant_is_said(redis: Json, problem: str) -> None:
    assert problems(redis) == [problem]


def test_passwords_are_secrets_wherever_they_stand(tmp_path: Path) -> None:
    one = Config.model_validate({"redis": {"url": "redis://me:in%2Furl@h"}})
    two = Config.model_validate({"redis": {"sentinel": SENTINEL, "password": "by name"}})
    assert secrets_of(one) == ["in%2Furl", "in/url"]
    assert secrets_of(two) == ["by name", "hidden%21", "hidden!"]
    assert "by name" not in repr(two)
