"""A classic model server as an engine."""

from __future__ import annotations

from engines.adapter import AdapterEngine
from engines.base import EngineError, Timeouts
from engines.classic.translator import ClassicTranslator, Server
from engines.http import Endpoint
from engines.outbox import Outbox


class ClassicEngine(AdapterEngine):
    """Implements `Engine`."""

    def __init__(
        self, endpoint: Endpoint, server: Server, translator: ClassicTranslator, outbox: Outbox | None = None
    ) -> None:
        super().__init__(endpoint, translator, outbox=outbox)
        self._health_path = server.health_path
        self._any_answer_is_well = server.any_answer_is_well

    async def healthy(self) -> bool:
        try:
            limits = Timeouts(connect_s=2.0, total_s=5.0)
            response = await self._send(self._head("GET", self._health_path) + b"\r\n", limits)
            try:
                await response.read(1 << 20)
            finally:
                response.abort()
        except EngineError:
            return False
        return response.status == 200 or (self._any_answer_is_well and response.status < 500)
