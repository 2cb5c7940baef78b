"""Where a pool stands if its configuration does not say so. What is not plainly at hand counts as cloud."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit

CLOUD_KINDS = frozenset({"anthropic", "azure", "azureml", "bedrock", "sagemaker", "vertex"})
_PRIVATE = (".local", ".internal", ".lan", ".svc", ".cluster.local", ".localhost")


def site_of(url: str) -> Literal["on-premise", "cloud"]:
    """Where a URL leads. What is not plainly a private address counts as cloud: residency fails closed."""
    host = ""
    try:
        host = urlsplit(url).hostname or ""
        return "on-premise" if ipaddress.ip_address(host).is_private else "cloud"
    except ValueError:
        pass
    return "on-premise" if host and ("." not in host or host.endswith(_PRIVATE)) else "cloud"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_secure(url: str) -> bool:
    """Whether nobody on the network can read or change what is fetched from there."""
    try:
        parts = urlsplit(url)
        if parts.port == 0:  # past 65535 it raises
            return False
        return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    except ValueError:
        return False


def likely_site(pool: Mapping[str, object]) -> Literal["on-premise", "cloud"]:
    """From the raw values of a pool, which may be wrong in any way: by its kind and by what its replicas are named."""
    engine, urls, dns = pool.get("engine"), pool.get("urls"), pool.get("dns")
    kind = engine.get("kind") if isinstance(engine, Mapping) else getattr(engine, "kind", None)
    named = [url for url in urls if isinstance(url, str)] if isinstance(urls, list | tuple) else []
    name = dns.get("name") if isinstance(dns, Mapping) else getattr(dns, "name", None)
    if isinstance(name, str):
        named.append(f"http://{name}")
    away = kind in CLOUD_KINDS or any(site_of(url) == "cloud" for url in named)
    return "cloud" if away else "on-premise"
