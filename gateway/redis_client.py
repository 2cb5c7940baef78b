"""Clients of Redis and Valkey, alone, behind Sentinel, or a cluster. Nothing in here repeats a command by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

from redis.asyncio import Redis as Single
from redis.asyncio import RedisCluster as Cluster
from redis.asyncio.client import Pipeline
from redis.asyncio.cluster import ClusterPipeline
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import RedisError

from gateway.config import Redis as Options

Client: TypeAlias = Single | Cluster

CONNECT_S = 1.0
"""Longest that connecting may take, TLS, sign-in, and finding the server by its Sentinels or cluster included."""


def open_client(options: Options, connections: int = 2) -> Client:
    """A client that connects when it is first used. The caller bounds the time of what he asks.

    connections: at most so many to a server.

    Raises:
        ValueError: a URL has an option that there is not, or that is not right.
        OSError: `redis.ca_file` cannot be read.
    """
    shared = {**_shared(options), "max_connections": connections}
    if options.sentinel is not None:
        return _behind_sentinel(options, shared)
    assert options.url is not None
    tls = _tls(options) if options.url.startswith("rediss://") else {}
    made: type[Single | Cluster] = Cluster if options.cluster else Single
    client: Client = made.from_url(options.url, **shared, **_signed_in(options), **tls)
    return client


def pipeline_of(client: Client) -> Pipeline | ClusterPipeline:
    """For one round trip, or one to each node of a cluster."""
    return client.pipeline(transaction=False) if isinstance(client, Single) else client.pipeline()


async def ping(client: Client) -> None:
    """Connect, to each node of a cluster that takes writes."""
    nodes = {"target_nodes": Cluster.PRIMARIES} if isinstance(client, Cluster) else {}
    await client.execute_command("PING", **nodes)


async def hang_up(client: Client, within_s: float) -> None:
    """Close its connections, those in use as well: an answer that comes late must not be taken for that to a later
    question. The client connects anew when it is used again."""
    with contextlib.suppress(RedisError, OSError, TimeoutError):
        async with asyncio.timeout(within_s):
            if isinstance(client, Cluster):
                await _close_nodes(client)
                return
            await client.connection_pool.disconnect(inuse_connections=True)
            sentinel = getattr(client.connection_pool, "sentinel_manager", None)
            for each in sentinel.sentinels if sentinel is not None else ():
                await each.connection_pool.disconnect(inuse_connections=True)


async def _close_nodes(client: Cluster) -> None:
    """redis-py closes only some: once it has looked for the nodes anew, it sends to others than those it lists."""
    manager = client.nodes_manager
    lists = (manager.nodes_cache.values(), manager.startup_nodes.values(), *manager.slots_cache.values())
    nodes = {id(node): node for nodes in lists for node in nodes}
    await asyncio.gather(*(node.disconnect() for node in nodes.values()), return_exceptions=True)
    await client.aclose()


def _shared(options: Options) -> dict[str, Any]:
    return {
        "socket_connect_timeout": CONNECT_S,
        "retry": Retry(NoBackoff(), 0),
        "client_name": "headrace",
        "driver_info": DriverInfo(),  # or each connection would ask the disk for the library's version
    }


def _signed_in(options: Options) -> dict[str, Any]:
    """What the URL says goes first."""
    named = {"username": options.user} if options.user is not None else {}
    secret = {"password": options.password.get_secret_value()} if options.password is not None else {}
    return {**named, **secret}


def _tls(options: Options) -> dict[str, Any]:
    return {"ssl_ca_certs": options.ca_file} if options.ca_file is not None else {}


def _behind_sentinel(options: Options, shared: Mapping[str, Any]) -> Single:
    assert options.sentinel is not None
    urls = [urlsplit(url) for url in options.sentinel.urls]
    tls = {"ssl": True, **_tls(options)} if any(url.scheme == "rediss" for url in urls) else {}
    sentinel = Sentinel([], **shared, **_signed_in(options), **tls)  # type: ignore[no-untyped-call]
    sentinel.sentinels = [
        Single(
            host=url.hostname or "localhost",
            port=url.port or 26379,
            username=unquote(url.username) if url.username else None,
            password=unquote(url.password) if url.password else None,
            socket_timeout=CONNECT_S / 2,  # one that hangs must leave time for the next
            **shared,
            **({"ssl": True, **_tls(options)} if url.scheme == "rediss" else {}),
        )
        for url in urls
    ]
    client: Single = sentinel.master_for(options.sentinel.master)
    return client
