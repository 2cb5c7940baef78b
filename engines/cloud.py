"""Clouds that speak OpenAI's protocol at paths of their own, and want a token that expires."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import msgspec

from engines.adapter import error_body
from engines.base import EngineError, EngineRequest, EngineResponse, EngineTimeout, Timeouts
from engines.connection import Exchange
from engines.http import HEALTH_LIMITS, Dialect, Endpoint, HttpEngine
from engines.made import MadeResponse
from engines.outbox import Outbox
from engines.tokens import BearerSigner

_MAX_ERROR_BYTES = 1024 * 1024


class CloudEngine(HttpEngine):
    """Implements `Engine`. Bytes pass as they are; what an error says may be put into words that callers know.

    signer: where the token comes from; None: the endpoint's headers let the gateway in.
    """

    def __init__(
        self, endpoint: Endpoint, dialect: Dialect, signer: BearerSigner | None = None, outbox: Outbox | None = None
    ) -> None:
        super().__init__(endpoint, dialect, outbox)
        self._signer = signer

    async def send(self, request: EngineRequest, timeouts: Timeouts) -> EngineResponse:
        head = self._head_for(request)
        if head is None:
            message = f"This cloud has no /{request.operation}."
            return MadeResponse(501, error_body(message, code="unsupported_operation"))
        response, ticket = await self._signed(head, request, timeouts)
        if response.status == 401 and self._signer is not None and self._signer.renew(ticket):
            response.abort()
            response, _ = await self._signed(head, request, timeouts)
        if response.status == 200:
            return response
        try:
            body = await response.read(_MAX_ERROR_BYTES)
        finally:
            response.abort()
        told = MadeResponse(response.status, self._reworded(request, response.status, body))
        told.headers = {**response.headers, b"content-type": b"application/json"}
        return told

    async def healthy(self) -> bool:
        try:
            ticket, limits = await self._let_in(HEALTH_LIMITS)
        except EngineError:
            return False
        return await self._answers_well(limits, _lines(ticket), whole=False)

    async def aclose(self) -> None:
        await super().aclose()
        if self._signer is not None:
            await self._signer.aclose()

    def _head_for(self, request: EngineRequest) -> bytes | None:
        """Request line and common headers; None if the cloud does not offer the operation."""
        return self._heads.get(request.operation)

    def _reworded(self, request: EngineRequest, status: int, body: bytes) -> bytes:
        """The body of an answer that is not 200."""
        return body

    async def _signed(
        self, head: bytes, request: EngineRequest, timeouts: Timeouts
    ) -> tuple[Exchange, Mapping[str, str]]:
        """The answer, and the headers that let the gateway in."""
        ticket, timeouts = await self._let_in(timeouts)
        return await self._post(head, request.body, timeouts, _lines(ticket) + request.headers), ticket

    async def _let_in(self, timeouts: Timeouts) -> tuple[Mapping[str, str], Timeouts]:
        """The signer's headers, and what waiting for them left of the time."""
        if self._signer is None:
            return {}, timeouts
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(timeouts.connect_s):
                headers = await self._signer.headers("POST", "", {}, b"")
        except TimeoutError as error:
            limit_s = timeouts.connect_s
            message = f"no access token within connect timeout of {limit_s:g} s"
            raise EngineTimeout(message, phase="connect", limit_s=limit_s) from error
        spent_s = time.monotonic() - began_s
        if timeouts.total_s is not None and spent_s > 0.001:
            timeouts = msgspec.structs.replace(timeouts, total_s=max(0.001, timeouts.total_s - spent_s))
        return headers, timeouts


def _lines(headers: Mapping[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")
