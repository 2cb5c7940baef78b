"""The table of word vectors, and the files that it and the transformer are read from."""

from __future__ import annotations

import importlib
import struct
from pathlib import Path

import numpy as np
import pytest

from cache.embed.files import library, table
from cache.embed.seam import EmbedderError, NoVector, packed, unit, unpacked
from cache.embed.static import StaticEmbedder
from cache.embed.two_stage import TwoStage
from gateway.caching.models import STATIC
from tests.cache.embed.small import write_table
from tests.weights import weights_folder

READS = "it reads its files when it is made, for which a gateway has a thread"


@pytest.mark.parametrize("kind", ["F16", "F32"])
@pytest.mark.may_block(READS)
async def test_a_text_is_the_mean_of_its_words_at_unit_length(tmp_path: Path, kind: str) -> None:
    embedder = StaticEmbedder(write_table(tmp_path / "small", kind=kind))
    assert embedder.embed_now("east").tolist() == [1.0, 0.0]
    both = embedder.embed_now("north east")
    assert both.tolist() == pytest.approx([1 / 5**0.5, 2 / 5**0.5])
    assert both.dtype == np.float32
    assert type(both) is np.ndarray
    assert embedder.dimensions == 2
    [one] = await embedder.embed(["north east"])
    assert one.tolist() == both.tolist()
    await embedder.aclose()


@pytest.mark.may_block(READS)
async def test_long_texts_leave_the_loop_to_others(tmp_path: Path) -> None:
    embedder = StaticEmbedder(write_table(tmp_path / "small"))
    long = "east " * 3000
    assert [vector.tolist() for vector in await embedder.embed([long, "north"])] == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("text", ["", "   ", "east west"])
def test_a_text_without_a_direction_has_no_vector(tmp_path: Path, text: str) -> None:
    embedder = StaticEmbedder(write_table(tmp_path / "small"))
    with pytest.raises(NoVector) as caught:
        embedder.embed_now(text)
    assert caught.value.reason == "unfit"


def test_the_name_changes_with_the_weights(tmp_path: Path) -> None:
    first = StaticEmbedder(write_table(tmp_path / "small"))
    second = StaticEmbedder(write_table(tmp_path / "small", kind="F32"))
    assert first.name.startswith("small@")
    assert first.name != second.name
    assert TwoStage(first, second).name == f"{second.name}+{first.name}"
    assert TwoStage(None, second).name == second.name


@pytest.mark.may_block(READS)
async def test_two_stages_are_closed_as_one(tmp_path: Path) -> None:
    await TwoStage(None, StaticEmbedder(write_table(tmp_path / "small"))).aclose()


def test_a_vector_survives_being_kept_but_for_rounding() -> None:
    vector = unit(np.arange(1, 9, dtype="f4"))
    kept = packed(vector)
    assert len(kept) == 16
    assert unpacked(kept) @ vector == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("bad", [np.array([np.nan, 1], "f4"), np.array([np.inf, 1], "f4"), np.zeros(2, "f4")])
def test_what_is_no_number_is_no_vector(bad: np.ndarray) -> None:
    with pytest.raises(NoVector, match="unfit: a vector without a length"):
        unit(bad)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(EmbedderError, match=r"there is no .*tokenizer\.json; `headrace models pull` fetches"):
        StaticEmbedder(tmp_path)
    folder = write_table(tmp_path / "small")
    weights = folder / "embedding.safetensors"
    whole = weights.read_bytes()
    for damaged in (b"", struct.pack("<Q", 2**40), whole[:40], struct.pack("<Q", 2) + b"{}", whole[:-4]):
        weights.write_bytes(damaged)
        with pytest.raises(EmbedderError, match=r"embedding\.safetensors"):
            StaticEmbedder(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(EmbedderError, match=r"tokenizer\.json is no tokenizer"):
        StaticEmbedder(folder)


def test_a_table_of_a_kind_that_is_not_read_is_refused(tmp_path: Path) -> None:
    folder = write_table(tmp_path / "small")
    path = folder / "embedding.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"F16"', b'"I16"'))
    with pytest.raises(EmbedderError, match="holds no matrix"):
        table(path, "embedding.weight")


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> object:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(EmbedderError, match=r'found with tokenizers: pip install "headrace\[semantic-cache\]"'):
        library("tokenizers")
    with pytest.raises(EmbedderError, match="semantic-cache"):
        StaticEmbedder(tmp_path)


def test_the_real_table_tells_what_is_near() -> None:
    embedder = StaticEmbedder(weights_folder(STATIC) / "embed-static")
    card, also_card, other = map(
        embedder.embed_now, ("Where is my new card?", "My new card has not arrived", "Who wrote Hamlet?")
    )
    assert embedder.dimensions == 256
    assert card @ also_card > 0.5 > card @ other
    for text in ("日本語の質問", "🙂", "\x00", "x" * 10_000):
        assert np.sqrt(embedder.embed_now(text) @ embedder.embed_now(text)) == pytest.approx(1, abs=1e-4)
