"""What is wrong with how an engine's KV events are to be heard."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from gateway.config import Pool
from gateway.config.kv_options import KvEvents
from gateway.config.problems import Finding, KeyPath

NONE = KvEvents()


def kv_events(pool: Pool, here: KeyPath) -> Iterator[Finding]:
    """`auto` asks for nothing; who names an endpoint wants to hear it."""
    events = pool.engine.kv_events
    where: KeyPath = (*here, "engine", "kv_events")
    if events.endpoint is None:
        for name in ("replay_endpoint", "topic", "ranks"):
            if getattr(events, name) != getattr(NONE, name):
                yield Finding((*where, name), f"`{name}` goes with an `endpoint`", "name that as well", at_key=True)
        return
    if events.mode == "off":
        return
    if importlib.util.find_spec("zmq") is None:
        message = "`kv_events` needs a library that is not installed"
        yield Finding((*where, "endpoint"), message, 'pip install "headrace[kv-events]"')
    if len(pool.urls) > 1 and not events.endpoint.startswith("tcp://*:"):
        message = f"{len(pool.urls)} replicas cannot all publish at {events.endpoint}"
        hint = "`tcp://*:5557` is that port of each replica's machine"
        yield Finding((*where, "endpoint"), message, hint, value=events.endpoint)
