"""The server through which gateways share what they know."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr

from gateway.config.base import Name, Section

RedisUrl = Annotated[str, Field(pattern=r"^(rediss?|unix)://\S+$")]
SentinelUrl = Annotated[str, Field(pattern=r"^rediss?://\S+$")]


class RedisSentinel(Section):
    """Sentinels, which know the server of the moment."""

    master: Annotated[str, Field(min_length=1, max_length=128)]
    """What they call it."""
    urls: Annotated[list[SentinelUrl], Field(min_length=1, max_length=16)]
    """Where they are: `redis://sentinel-1:26379`, with user and password of their own if they want any. `rediss://`:
    they and the servers are reached over TLS."""


class Redis(Section):
    """A Redis or Valkey server, alone, behind Sentinel, or a cluster; Redis 6.2 and Valkey 7.2 are the oldest that will
    do. Limits are counted there, and each gateway tells there five times a second what it has in flight, so that
    several of them do not send everything to the same replica. Without it a gateway counts for itself; while it does
    not answer, requests wait for it for at most `timeout_s`, and then not any more."""

    url: RedisUrl | None = None
    """`redis://user:password@host:6379/0`; `rediss://` for TLS; `unix:///path` for a socket."""
    sentinel: RedisSentinel | None = None
    """In place of `url`: ask these where the server is, now and after each failover."""
    cluster: bool = False
    """`url` is a node of a cluster; the others are found through it."""
    user: Annotated[str, Field(min_length=1)] | None = None
    """Who the gateway signs in as, where the URL does not say it; none: the default user."""
    password: SecretStr | None = None
    """The user's password, where the URL does not have it."""
    ca_file: str | None = None
    """Certificates of a CA of your own, PEM, for `rediss://`."""
    peers: bool = True
    """Whether gateways tell each other there what they have in flight; the limits are counted there in any case."""
    prefix: Name = "headrace"
    """What its keys begin with. Gateways with the same prefix know of each other, and share their limits."""
    timeout_s: Annotated[float, Field(gt=0, le=10)] = 0.05
    """How long an answer may take; after that the server counts as gone until it answers in time again."""
