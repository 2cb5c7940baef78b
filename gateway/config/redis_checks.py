"""What is wrong with how a Redis server is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from gateway.config import Config
from gateway.config.problems import Finding, KeyPath
from gateway.config.redis_options import Redis

_HERE: KeyPath = ("redis",)


def redis_findings(config: Config) -> Iterator[Finding]:
    redis = config.redis
    if redis is None:
        return
    if redis.url is None and redis.sentinel is None:
        yield Finding(_HERE, "it says no server", "add `url`, or `sentinel`")
    if redis.url is not None and redis.sentinel is not None:
        yield Finding(
            (*_HERE, "url"), 'both "url" and "sentinel" are set', "keep one: Sentinel says where the server is"
        )
    if redis.cluster:
        yield from _cluster(redis)
    if redis.url is not None and redis.password is not None and urlsplit(redis.url).password:
        yield Finding((*_HERE, "password"), "the URL has a password as well", "keep one")
    if redis.user is not None and redis.password is None:
        yield Finding((*_HERE, "user"), f'there is no password for "{redis.user}"', "add `password`")
    if redis.ca_file is not None:
        yield from _ca_file(redis, redis.ca_file)


def _cluster(redis: Redis) -> Iterator[Finding]:
    if redis.sentinel is not None:
        yield Finding((*_HERE, "cluster"), "Sentinel keeps single servers, not clusters", "keep one of the two")
    if redis.url is None:
        return
    url = urlsplit(redis.url)
    if url.scheme == "unix":
        yield Finding((*_HERE, "url"), "a cluster is not reached over a socket", "give the `redis://` URL of a node")
    elif url.path.strip("/") not in ("", "0"):
        yield Finding((*_HERE, "url"), f"a cluster has no database {url.path.strip('/')}", "only 0")


def _ca_file(redis: Redis, ca_file: str) -> Iterator[Finding]:
    here = (*_HERE, "ca_file")
    urls = redis.sentinel.urls if redis.sentinel is not None else [redis.url or ""]
    if not any(url.startswith("rediss://") for url in urls):
        yield Finding(here, "it is not used: no URL begins with rediss://", "write rediss:// for TLS", value=ca_file)
    elif not Path(ca_file).is_file():
        yield Finding(here, f'there is no file "{ca_file}"', f"relative paths start at {Path.cwd()}", value=ca_file)
