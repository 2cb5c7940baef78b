"""Server-sent events of a peer: bytes in, the data of whole events out. No socket, no clock."""

from __future__ import annotations

from engines.base import EngineProtocolError

MAX_EVENT_BYTES = 8 * 1024 * 1024


class EventSplitter:
    """The state of one stream."""

    def __init__(self) -> None:
        self._held = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, payload: bytes) -> list[bytes]:
        """Take the next piece, cut anywhere; give the data of each event that it completes.

        Raises:
            EngineProtocolError: an event is larger than `MAX_EVENT_BYTES`.
        """
        *lines, self._held = (self._held + payload).split(b"\n")
        found = []
        for ended in lines:
            line = ended.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
                self._size += len(line)
            elif not line and self._data:
                found.append(b"\n".join(self._data))
                self._data, self._size = [], 0
        if self._size + len(self._held) > MAX_EVENT_BYTES:
            raise EngineProtocolError(f"the engine sent an event of over {MAX_EVENT_BYTES} bytes")
        return found
