"""An answer that an adapter made itself, out of what the engine said in another form."""

from __future__ import annotations

import time

from engines.base import Receiver


class MadeResponse:
    """A whole JSON answer. Implements `EngineResponse`."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.headers = {b"content-type": b"application/json"}
        self.last_data_s = time.monotonic()
        self._body = body

    async def read(self, limit_bytes: int) -> bytes:
        return self._body

    def subscribe(self, receiver: Receiver) -> None:
        receiver.on_data(self._body, None)
        receiver.on_end()

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass

    def abort(self) -> None:
        pass
