"""Where an engine publishes what its KV cache holds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

SOURCES_PATH = "/kv_event_sources"
"""Where vLLM tells."""
_ANY_HOST = re.compile(r"^tcp://(\*|0\.0\.0\.0|\[::\]|::)(?=:\d+$)")
_REACHABLE = re.compile(r"^(tcp://.+:[1-9]\d*|ipc://.+)$")


class Source(msgspec.Struct, frozen=True):
    """The publisher of one data-parallel rank. Endpoints in ZeroMQ's form; replay_endpoint: empty if it has none."""

    endpoint: str
    replay_endpoint: str = ""
    topic: str = ""
    rank: int = 0


class _Told(msgspec.Struct):
    """vLLM's own settings of a publisher, as far as they matter here."""

    endpoint: str
    enable_kv_cache_events: bool = True
    publisher: str = "zmq"
    replay_endpoint: str | None = None
    topic: str = ""


_decode = msgspec.json.Decoder(dict[int, _Told]).decode


def sources_in(answer: bytes, engine_url: str) -> list[Source]:
    """What an engine at `engine_url` answers at `SOURCES_PATH`; empty: it publishes nothing that can be read.

    Raises:
        ValueError: it is no such answer.
    """
    try:
        told = _decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{SOURCES_PATH}: {error}") from error
    found = [
        Source(_reachable(one.endpoint, engine_url), _reachable(one.replay_endpoint, engine_url), one.topic, rank)
        for rank, one in sorted(told.items())
        if one.enable_kv_cache_events and one.publisher == "zmq"
    ]
    return [one for one in found if one.endpoint]


def _reachable(endpoint: str | None, engine_url: str) -> str:
    """The endpoint as it can be connected to; empty: it cannot."""
    found = on_host(endpoint or "", engine_url)
    return found if _REACHABLE.match(found) else ""


def configured(endpoint: str, replay_endpoint: str, topic: str, ranks: int, engine_url: str) -> Sequence[Source]:
    """The sources that settings name. The publishers of further ranks are at the ports that follow."""
    return [
        Source(
            shifted(on_host(endpoint, engine_url), rank),
            shifted(on_host(replay_endpoint, engine_url), rank),
            topic,
            rank,
        )
        for rank in range(ranks)
    ]


def on_host(endpoint: str, engine_url: str) -> str:
    """An endpoint that stands for every address of the engine's machine, as one that can be connected to."""
    host = urlsplit(engine_url).hostname or "127.0.0.1"
    host = f"[{host}]" if ":" in host else host
    return _ANY_HOST.sub(f"tcp://{host}", endpoint)


def shifted(endpoint: str, rank: int) -> str:
    """The endpoint of a rank, where `endpoint` is that of rank 0: as vLLM has it."""
    if not rank or not endpoint.startswith("tcp://"):
        return endpoint
    host, _, port = endpoint.rpartition(":")
    return f"{host}:{int(port) + rank}"
