"""What may be wrong with the section `admin`."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config import Config
from gateway.config.admin_checks import admin_findings

DATABASE = {"url": "sqlite:///x.db"}


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"database": DATABASE}, []),
        ({"database": DATABASE, "admin": {"port": 0, "origins": ["https://console.example"]}}, []),
        ({"database": DATABASE, "admin": {"port": 0}, "server": {"port": 0}}, []),
        ({"admin": {"port": 9091}}, ["warning: there is no `database`, and so no admin API"]),
        (
            {"database": DATABASE, "admin": {"port": 8080}},
            ["error: 8080 is the port of the gateway as well (server.port)"],
        ),
        (
            {"database": DATABASE, "admin": {"host": "0.0.0.0"}},
            ['warning: "0.0.0.0" is reachable from other machines, and admin keys travel there in the clear'],
        ),
        ({"database": DATABASE, "admin": {"host": "0.0.0.0"}, "server": {"tls": {"cert": "c", "key": "k"}}}, []),
        (
            {"database": DATABASE, "admin": {"origins": ["*", "https://a.example/", "a.example", "https://a/b"]}},
            [f'error: "{origin}" is no origin of a page' for origin in ("*", "a.example", "https://a/b")],
        ),
        (
            {"server": {"trusted_proxies": ["10.0.0.0/8", "::1", "proxy", "0.0.0.0/0"]}},
            [
                "error: 'proxy' does not appear to be an IPv4 or IPv6 network",
                'warning: with "0.0.0.0/0" every client says itself who it is',
            ],
        ),
    ],
)
def test_what_is_odd_about_the_admin_api_is_said(tree: dict[str, Any], said: list[str]) -> None:
    found = admin_findings(Config.model_validate(tree))
    assert [f"{one.severity}: {one.message}" for one in found] == said
