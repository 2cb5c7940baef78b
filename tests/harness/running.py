"""Gateways and engines that run for the length of a block."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from engines.fake import FakeEngine, FakeOptions
from gateway.app import Gateway
from gateway.clock import Clock
from gateway.config import Config
from gateway.config.load import parse_config
from gateway.telemetry import merge, render
from tests.harness.configs import MODEL
from tests.harness.server import Server, metrics_in
from tests.harness.waiting import settled


@asynccontextmanager
async def engine_running(**options: Any) -> AsyncIterator[FakeEngine]:
    """A fake engine that serves the model `m`. No connection of the gateway's may outlive the gateway."""
    async with FakeEngine(msgspec.convert({"models": (MODEL,)} | options, FakeOptions)) as engine:
        yield engine
        engine.release()
        await settled(lambda: _in_use(engine), "the fake engine is still in use")


def _in_use(engine: FakeEngine) -> object:
    return engine.stats if engine.stats.open or engine.stats.connected else None


@asynccontextmanager
async def serving(config: str | Mapping[str, Any] | Config, *, clock: Clock | None = None) -> AsyncIterator[Server]:
    """A gateway as one worker process runs it. Takes a YAML text, the tree of one, or a checked configuration.

    The access log goes to a file, unless the configuration says where; `Server.records` reads it.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "access.log"
        gateway = await asyncio.to_thread(lambda: Gateway(_with_log(_checked(config), log), clock=clock))
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        server = Server(gateway, sock.getsockname()[1], log)
        await gateway.start(sock)
        try:
            yield server
            await settled(lambda: held_by(gateway), "something was not given back")
        finally:
            await gateway.aclose()


def _checked(config: str | Mapping[str, Any] | Config) -> Config:
    if isinstance(config, Config):
        return config
    return parse_config(config) if isinstance(config, str) else Config.model_validate(config)


def _with_log(config: Config, log: Path) -> Config:
    if "access_log" in config.telemetry.model_fields_set:
        return config
    tree = config.model_dump()
    tree["telemetry"]["access_log"]["path"] = str(log)
    return Config.model_validate(tree)


def held_by(gateway: Gateway) -> list[str]:
    """Everything of requests and connections that the gateway holds; empty when it is at rest."""
    held = [repr(replica) for replica in gateway.replicas if replica.in_flight]
    held += [repr(connection) for connection in gateway.server.open]
    if repr(gateway.ledger) != "<LimitLedger in_flight=0>":
        held.append(repr(gateway.ledger))
    held += [f"{name} {value:g}" for name, value in gauges(gateway).items() if value]
    return held


def gauges(gateway: Gateway) -> dict[str, float]:
    """The gauges of `/metrics` that count what is under way."""
    under_way = ("headrace_in_flight", "headrace_client_connections", "headrace_replica_in_flight")
    text = render(merge([gateway.telemetry.snapshot()]), "").body.decode()
    return {name: value for name, value in metrics_in(text).items() if name.startswith(under_way)}
