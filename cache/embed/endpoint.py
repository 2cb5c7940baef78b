"""Any server that speaks OpenAI's `/v1/embeddings`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import msgspec

from cache.embed.batches import Batches, Outcome, Room, outcome_of
from cache.embed.files import library
from cache.embed.seam import NoVector, Vector


class Post(Protocol):
    """The way to the endpoint. May raise whatever it likes."""

    async def __call__(self, body: bytes) -> tuple[int, bytes]:
        """Send a JSON body; HTTP status and body of the answer."""
        ...

    async def aclose(self) -> None: ...


_LANES = 4
_OK = 200
_FAILURES = 3
"""In a row, after which it is left alone for a while."""
_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)


class _Row(msgspec.Struct):
    index: int
    embedding: list[float]


class _Rows(msgspec.Struct):
    data: list[_Row]


class _Asked(msgspec.Struct):
    input: list[str]
    model: str
    encoding_format: str = "float"


class EndpointEmbedder:
    """Slow or broken, it costs misses; after three in a row it is not asked for a while, so that no call waits for it.

    `name` says which vectors can be compared: the endpoint tells nothing of its revision.

    Raises:
        EmbedderError: numpy is missing.
    """

    def __init__(self, post: Post, *, model: str, name: str, room: Room | None = None) -> None:
        self._numpy = library("numpy")
        room = room or Room()
        self._post, self._model, self._timeout_s = post, model, room.timeout_s
        self.name = name
        self.dimensions = 0
        self._failures = 0
        self._asked_again_at = 0.0
        self._batches = Batches(name, self._ask, replace(room, lanes=_LANES))

    async def embed(self, texts: Sequence[str], *, urgent: bool = True) -> list[Vector]:
        if self._failures >= _FAILURES and self._now() < self._asked_again_at:
            raise NoVector("failed", f"{self._failures} calls in a row failed; it is left alone for a while")
        return await self._batches.run(texts, urgent=urgent)

    async def aclose(self) -> None:
        await self._batches.aclose()
        await self._post.aclose()

    async def _ask(self, texts: Sequence[str]) -> Sequence[Outcome]:
        try:
            async with asyncio.timeout(self._timeout_s):
                status, body = await self._post(msgspec.json.encode(_Asked(list(texts), self._model)))
            if status != _OK:
                raise NoVector("failed", f"the endpoint answered {status}")
            vectors = self._read(body, len(texts))
        except TimeoutError:
            self._failed()
            raise NoVector("timeout", f"after {self._timeout_s:g} s") from None
        except Exception:
            self._failed()
            raise
        self._failures = 0
        return vectors

    def _failed(self) -> None:
        self._failures += 1
        pause_s = _PAUSES_S[min(max(self._failures - _FAILURES, 0), len(_PAUSES_S) - 1)]
        self._asked_again_at = self._now() + pause_s

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _read(self, body: bytes, wanted: int) -> list[Outcome]:
        try:
            rows = msgspec.json.decode(body, type=_Rows).data
        except msgspec.MsgspecError as error:
            raise NoVector("unfit", f"the endpoint's answer: {error}") from None
        by_index = {row.index: row.embedding for row in rows}
        if len(rows) != wanted or by_index.keys() != set(range(wanted)):
            raise NoVector("unfit", f"{wanted} vectors were asked for, {len(rows)} came")
        [size, *others] = {len(row) for row in by_index.values()}
        if others or size != (self.dimensions or size):
            expected = f"of {self.dimensions} numbers" if self.dimensions else "of one length"
            raise NoVector("unfit", f"the endpoint's vectors are not {expected}")
        self.dimensions = size
        return [outcome_of(self._numpy.array(by_index[i], "f4")) for i in range(wanted)]
