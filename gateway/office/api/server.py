"""The admin API on a listening socket: our own HTTP server, the gate, and the application behind it."""

from __future__ import annotations

import asyncio
import ssl
from socket import socket

from engines.outbox import Outbox
from gateway.clock import Clock
from gateway.config import Server
from gateway.errors import ApiError
from gateway.http import Handler, Request, Sink
from gateway.http.asgi import AsgiHandler
from gateway.http.cors import Cors
from gateway.http.proxies import proxies_of
from gateway.http.server import SWEEP_S, HttpConnection
from gateway.http.state import ServerState
from gateway.identity import KeyRing
from gateway.office.api.app import create_admin_api
from gateway.office.api.gate import HEADER_LINES, Gate
from gateway.office.api.state import OfficeState
from gateway.process.listener import Acceptor
from gateway.reception import Reception
from gateway.record import Record
from gateway.telemetry import Span, Telemetry

MAX_BODY_BYTES = 8 * 1024 * 1024
"""Holds any configuration."""
_METHODS = b"GET, POST, PATCH, DELETE"


class AdminServer:
    """identity: knows the keys with a role. version: of the configuration."""

    def __init__(
        self,
        state: OfficeState,
        identity: KeyRing,
        telemetry: Telemetry,
        clock: Clock,
        tls: ssl.SSLContext | None,
        version: str,
    ) -> None:
        options = state.config.admin
        self._tls = tls
        self._gate = Gate(options, identity.admit, clock.monotonic)
        self._api = AsgiHandler(create_admin_api(state), "https" if tls else "http")
        self._cors = Cors(options.origins) if options.origins else None
        reception = Reception(telemetry, clock)
        self._handle = reception.handler(self._serve)
        self._refusal = reception.refusal
        self._state = ServerState(
            Server(max_body_bytes=min(MAX_BODY_BYTES, state.config.server.max_body_bytes)),
            self._route,
            self._refuse,
            telemetry.connections,
            Outbox(),
            self._cors,
            proxies_of(state.config.server.trusted_proxies),
            version=version,
        )
        self._acceptor: Acceptor | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    def call(self, version: str) -> None:
        """Say in each answer that this version of the configuration serves."""
        self._state.version = version

    def start(self, listener: socket) -> None:
        self._sweep()
        connections = self._state.open
        self._acceptor = Acceptor(listener, lambda: HttpConnection(self._state), self._tls, lambda: len(connections))

    async def aclose(self, limit_s: float) -> None:
        """Let answers in flight finish for at most `limit_s`. The socket itself is the supervisor's."""
        self._state.drain()
        if self._acceptor is not None:
            self._acceptor.close()
        self._state.close_idle()
        if not await self._state.closed_within(limit_s):
            for connection in list(self._state.open):
                connection.abort()
            await self._state.closed_within(1.0)
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._state.sweep(loop.time())
        self._sweeper = loop.call_later(SWEEP_S, self._sweep)

    def _route(self, request: Request) -> Handler:
        return self._handle

    def _refuse(self, error: ApiError) -> Handler:
        return self._refusal(error)

    async def _serve(self, request: Request, sink: Sink, record: Record, span: Span) -> None:
        sink.extra_lines += HEADER_LINES
        self._gate.check_origin(request)
        if self._cors is not None and self._cors.is_preflight(request):
            Cors.preflight(request, sink, _METHODS)
            return
        actor = await self._gate.admit(request, record.request_id)
        if actor is not None:
            record.tenant, record.key_name = actor.organisation, actor.name
        await self._api(request, sink, record, actor=actor)
