"""A classic model server as an engine."""

from __future__ import annotations

from engines.adapter import AdapterEngine
from engines.classic.translator import ClassicTranslator, Server
from engines.http import HEALTH_LIMITS, Endpoint
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
        return await self._answers_well(HEALTH_LIMITS)

    def _is_well(self, status: int) -> bool:
        return status == 200 or (self._any_answer_is_well and status < 500)
