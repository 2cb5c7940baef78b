"""What may be wrong with the admin API, and with whom the servers believe."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from gateway.config import Config
from gateway.config.problems import Finding, KeyPath
from gateway.config.sites import is_loopback

_ORIGIN = re.compile(r"https?://[^/?#\s]+")


def admin_findings(config: Config) -> Iterator[Finding]:
    yield from _address(config)
    yield from _origins(config)
    yield from _proxies(config)


def _address(config: Config) -> Iterator[Finding]:
    admin, server = config.admin, config.server
    if config.database is None:
        if admin.model_fields_set:
            hint = "add `database: {url: sqlite:///headrace.db}`, or that of a PostgreSQL"
            yield Finding(("admin",), "there is no `database`, and so no admin API", hint, None, "warning", True)
        return
    if admin.port and (admin.host, admin.port) == (server.host, server.port):
        path: KeyPath = ("admin", "port")
        yield Finding(path, f"{admin.port} is the port of the gateway as well (server.port)", "take another one")
    if not is_loopback(admin.host) and server.tls is None:
        yield Finding(
            ("admin", "host"),
            f'"{admin.host}" is reachable from other machines, and admin keys travel there in the clear',
            "set server.tls, or bind 127.0.0.1 and put a proxy with TLS before it",
            admin.host,
            "warning",
        )


def _origins(config: Config) -> Iterator[Finding]:
    for index, origin in enumerate(config.admin.origins):
        if not _ORIGIN.fullmatch(origin.rstrip("/")):
            hint = "write each one out, such as https://console.example"
            yield Finding(("admin", "origins", index), f'"{origin}" is no origin of a page', hint, value=origin)


def _proxies(config: Config) -> Iterator[Finding]:
    for index, network in enumerate(config.server.trusted_proxies):
        here: KeyPath = ("server", "trusted_proxies", index)
        try:
            found = ipaddress.ip_network(network, strict=False)
        except ValueError as error:
            yield Finding(here, str(error), "write it as `10.0.0.0/8`", value=network)
            continue
        if found.prefixlen == 0:
            hint = "name the networks of your proxies"
            yield Finding(here, f'with "{network}" every client says itself who it is', hint, network, "warning")
