"""What every embedder holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from cache.embed.batches import Room
from cache.embed.endpoint import EndpointEmbedder
from cache.embed.minilm import MiniLmEmbedder
from cache.embed.seam import Embedder, packed, unpacked
from cache.embed.static import StaticEmbedder
from gateway.caching.models import MINILM, STATIC
from tests.weights import weights_folder

TEXTS = ["Where is my card?", "Who wrote Hamlet?", "日本語の質問", "Where is my new card? " * 20]


class Letters:
    """An endpoint that counts letters."""

    async def __call__(self, body: bytes) -> tuple[int, bytes]:
        texts: list[str] = msgspec.json.decode(body)["input"]
        rows = [{"index": i, "embedding": [len(text), text.count("a"), 1]} for i, text in enumerate(texts)]
        return 200, msgspec.json.encode({"data": rows})

    async def aclose(self) -> None:
        pass


@pytest.fixture(scope="module")
def weights() -> Path:
    return weights_folder(MINILM, STATIC)


@pytest.fixture(params=["static", "minilm", "endpoint"])
async def embedder(request: pytest.FixtureRequest, weights: Path) -> AsyncIterator[Embedder]:
    made: Embedder
    room = Room(timeout_s=20.0)
    if request.param == "static":
        made = await asyncio.to_thread(StaticEmbedder, weights / "embed-static")
    elif request.param == "minilm":
        made = await asyncio.to_thread(MiniLmEmbedder, weights / "embed-minilm", room)
    else:
        made = EndpointEmbedder(Letters(), model="letters", name="letters@here", room=room)
    yield made
    await made.aclose()


async def test_there_is_a_vector_of_unit_length_for_each_text_in_its_place(embedder: Embedder) -> None:
    together = await embedder.embed(TEXTS)
    alone = [(await embedder.embed([text], urgent=False))[0] for text in TEXTS]
    assert {vector.shape for vector in together} == {(embedder.dimensions,)}
    assert {vector.dtype for vector in together} == {np.dtype("f4")}
    for one, other in zip(together, alone, strict=True):
        assert one @ one == pytest.approx(1, abs=1e-5)
        assert one @ other == pytest.approx(1, abs=1e-5)
        assert unpacked(packed(one)) @ one == pytest.approx(1, abs=1e-3)


async def test_callers_at_once_get_their_own(embedder: Embedder) -> None:
    expected = [(await embedder.embed([text]))[0] for text in TEXTS]
    found = await asyncio.gather(*(embedder.embed([text]) for text in TEXTS * 4))
    for i, [vector] in enumerate(found):
        assert vector @ expected[i % len(TEXTS)] == pytest.approx(1, abs=1e-5)


async def test_no_text_gives_no_vector(embedder: Embedder) -> None:
    assert await embedder.embed([]) == []


async def test_its_name_and_size_stay(embedder: Embedder) -> None:
    await embedder.embed(TEXTS[:1])
    before = (embedder.name, embedder.dimensions)
    await embedder.embed(TEXTS[1:])
    assert (embedder.name, embedder.dimensions) == before
