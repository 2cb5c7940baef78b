"""OpenAI's answers, made of a text or of vectors."""

from __future__ import annotations

import uuid

import msgspec

from engines.adapter import DONE, event, now_s
from engines.base import Operation
from engines.classic.asked import Asked
from engines.classic.vectors import Vector, as_base64


class Answer:
    """One answer: its identity, and the shapes that its parts have.

    There is no usage in it, because the server counts no tokens; the gateway estimates what it records.
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._chat = asked.operation is Operation.CHAT
        self._begun = False
        prefix = "chatcmpl" if self._chat else "cmpl"
        self._id = f"{prefix}-{uuid.uuid4().hex}"
        self._created = now_s()

    def whole(self, text: str) -> bytes:
        choice: dict[str, object] = {"index": 0, "finish_reason": "stop", "logprobs": None}
        choice |= {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        kind = "chat.completion" if self._chat else "text_completion"
        return msgspec.json.encode(self._shaped(kind, choice))

    def embeddings(self, vectors: list[Vector]) -> bytes:
        data = [
            {"object": "embedding", "index": index, "embedding": as_base64(vector) if self._asked.base64 else vector}
            for index, vector in enumerate(vectors)
        ]
        return msgspec.json.encode({"object": "list", "data": data, "model": self._asked.model})

    def piece(self, text: str) -> bytes:
        """Events for the next piece of a streamed text; none for an empty one."""
        if not text:
            return b""
        first = b"" if self._begun or not self._chat else self._chunk({"role": "assistant", "content": ""}, "", None)
        self._begun = True
        return first + self._chunk({"content": text}, text, None)

    def end(self) -> bytes:
        """The last events of a streamed text."""
        return self._chunk({}, "", "stop") + DONE

    def _chunk(self, delta: dict[str, str], text: str, finish_reason: str | None) -> bytes:
        choice: dict[str, object] = {"index": 0, "finish_reason": finish_reason, "logprobs": None}
        choice |= {"delta": delta} if self._chat else {"text": text}
        return event(self._shaped("chat.completion.chunk" if self._chat else "text_completion", choice))

    def _shaped(self, kind: str, choice: dict[str, object]) -> dict[str, object]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._asked.model,
            "choices": [choice],
        }
