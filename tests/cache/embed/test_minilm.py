"""all-MiniLM-L6-v2, as it ships: held to float32 vectors of the original weights."""

from __future__ import annotations

import asyncio
import base64
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from cache.embed.batches import Room
from cache.embed.minilm import MiniLmEmbedder
from cache.embed.seam import EmbedderError, NoVector, Vector, unpacked
from cache.embed.static import StaticEmbedder
from gateway.caching.models import MINILM, STATIC
from tests.weights import weights_folder

GOLDEN = Path(__file__).with_name("minilm_float32.json")
QUESTION = "How do I reset my online banking password today?"
LOOKUP_S, STATIC_S = 0.006, 0.0006
"""Longest medians of what a lookup waits for."""


class Golden(msgspec.Struct):
    text: str
    vector: str


@pytest.fixture(scope="module")
def folder() -> Path:
    return weights_folder(MINILM, STATIC)


@pytest.fixture
async def minilm(folder: Path) -> AsyncIterator[MiniLmEmbedder]:
    embedder = await asyncio.to_thread(MiniLmEmbedder, folder / "embed-minilm", Room(timeout_s=20.0))
    yield embedder
    await embedder.aclose()


async def test_its_vectors_are_those_of_the_float32_weights(minilm: MiniLmEmbedder) -> None:
    golden = await asyncio.to_thread(lambda: msgspec.json.decode(GOLDEN.read_bytes(), type=list[Golden]))
    vectors = await minilm.embed([one.text for one in golden])
    expected = np.stack([unpacked(base64.b64decode(one.vector)) for one in golden])
    found = np.stack(vectors)
    agreement = (found * expected).sum(1)
    assert np.median(agreement) > 0.999
    assert agreement.min() > 0.99, "texts of one character are furthest off"
    assert abs(found @ found.T - expected @ expected.T).max() < 0.015
    assert minilm.dimensions == 384
    assert minilm.name == "embed-minilm@8199be6f"


async def test_a_vector_does_not_depend_on_what_is_embedded_with_it(minilm: MiniLmEmbedder) -> None:
    others = [f"{word} {QUESTION}" for word in ("First,", "No, please tell me,", "And", "Well then,")]
    [alone] = await minilm.embed([QUESTION])
    together: list[list[Vector]] = await asyncio.gather(
        *(minilm.embed([text]) for text in (others[0], QUESTION, *others[1:], QUESTION))
    )
    for [vector] in (together[1], together[-1]):
        assert vector @ alone == pytest.approx(1, abs=1e-5)


async def test_texts_that_are_too_long_have_no_vector_rather_than_that_of_their_beginning(
    minilm: MiniLmEmbedder,
) -> None:
    fits, long = "word " * 254, "word " * 255
    assert len(await minilm.embed([fits])) == 1
    with pytest.raises(NoVector, match="long: 257 tokens, the model reads 256"):
        await minilm.embed([long])
    results = await asyncio.gather(minilm.embed([QUESTION]), minilm.embed([long]), return_exceptions=True)
    assert isinstance(results[0], list)
    assert isinstance(results[1], NoVector)


async def test_the_loop_goes_on_while_it_works(minilm: MiniLmEmbedder) -> None:
    work = asyncio.get_running_loop().create_task(minilm.embed(["word " * 250] * 4))
    turns = 0
    while not work.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 100
    assert len(await work) == 4


async def test_closing_does_not_wait_for_what_runs(folder: Path) -> None:
    embedder = await asyncio.to_thread(MiniLmEmbedder, folder / "embed-minilm")
    calls = [asyncio.get_running_loop().create_task(embedder.embed([QUESTION])) for _ in range(3)]
    await asyncio.sleep(0)
    await embedder.aclose()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [one.reason for one in outcomes if isinstance(one, NoVector)] == ["failed"] * 3


async def test_a_question_is_embedded_fast_enough_to_wait_for(minilm: MiniLmEmbedder, folder: Path) -> None:
    """Processor time, which a busy machine does not stretch as it does a clock's."""
    static = await asyncio.to_thread(StaticEmbedder, folder / "embed-static")
    slow, quick = [], []
    for _ in range(60):
        before_s = time.process_time()
        static.embed_now(QUESTION)
        between_s = time.process_time()
        await minilm.embed([QUESTION])
        quick.append(between_s - before_s)
        slow.append(time.process_time() - between_s)
    assert statistics.median(quick) < STATIC_S
    assert statistics.median(slow) < LOOKUP_S * 2  # busy neighbours and slower machines cost processor time too


def test_what_is_no_model_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(EmbedderError, match=r"there is no .*model\.onnx"):
        MiniLmEmbedder(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    (tmp_path / "tokenizer.json").write_bytes((folder / "embed-minilm/tokenizer.json").read_bytes())
    with pytest.raises(EmbedderError, match=r"model\.onnx is no sentence encoder for onnxruntime"):
        MiniLmEmbedder(tmp_path)


def test_an_output_of_one_vector_a_text_is_taken_as_it_is(folder: Path) -> None:
    embedder = MiniLmEmbedder(folder / "embed-minilm")
    pooled = np.ones((2, 4), "f4")
    assert embedder._pooled(pooled, np.ones((2, 3), np.int64)) is pooled
