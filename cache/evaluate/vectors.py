"""Vectors of the texts of a file, and a file that keeps them for the next time."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import numpy as np

from cache.embed.seam import Embedder, NoVector
from cache.evaluate.data import Stream
from cache.index import Floats

_AT_ONCE = 32
_KEY_BYTES = 16


class BadVectors(ValueError):
    """A file of vectors that cannot be used."""


class KeptVectors:
    """By text, from one embedder."""

    def __init__(self, embedder: str) -> None:
        self._embedder = embedder
        self._found: dict[bytes, Floats] = {}

    def read(self, path: Path) -> None:
        """Raises BadVectors: it holds something else, or vectors of another embedder."""
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                name, keys, vectors = str(file["embedder"]), file["keys"], file["vectors"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise BadVectors(f"{path}: is no file of vectors: {error}") from None
        if name != self._embedder:
            raise BadVectors(f"{path}: has vectors of {name!r}, not of {self._embedder!r}")
        if len(keys) != len(vectors) or keys.shape[1:] != (_KEY_BYTES,) or vectors.ndim != 2:
            raise BadVectors(f"{path}: is no file of vectors: their shapes are {keys.shape} and {vectors.shape}")
        self._found = {key.tobytes(): vector for key, vector in zip(keys, vectors.astype(np.float32), strict=True)}

    def write(self, path: Path) -> None:
        """Raises BadVectors: it cannot be written."""
        keys = np.frombuffer(b"".join(self._found), np.uint8).reshape(-1, _KEY_BYTES)
        try:
            with path.open("wb") as file:
                np.savez(
                    file, embedder=np.array(self._embedder), keys=keys, vectors=np.stack(list(self._found.values()))
                )
        except OSError as error:
            raise BadVectors(f"{path}: {error.strerror}") from None

    def missing(self, texts: Sequence[str]) -> list[str]:
        """Those that were not yet embedded, each once."""
        return [text for text in dict.fromkeys(texts) if _key(text) not in self._found]

    async def fill(self, texts: Sequence[str], embedder: Embedder, step: Callable[[int], object]) -> None:
        """step: called with how many more have one. Those that are too long for the embedder get none."""
        for begin in range(0, len(texts), _AT_ONCE):
            some = texts[begin : begin + _AT_ONCE]
            try:
                vectors = await embedder.embed(some)
            except NoVector:
                vectors = [await _one(embedder, text) for text in some]
            for text, vector in zip(some, vectors, strict=True):
                self._found[_key(text)] = np.asarray(vector, np.float32)
            step(len(some))

    def has(self, text: str) -> bool:
        return bool(self._found[_key(text)].any())

    def without_long(self, stream: Stream) -> tuple[Stream, int]:
        """The questions that have vectors, and how many have none."""
        there = [(text, label) for text, label in zip(stream.texts, stream.labels, strict=True) if self.has(text)]
        texts, labels = tuple(text for text, _ in there), tuple(label for _, label in there)
        return replace(stream, texts=texts, labels=labels), len(stream.texts) - len(texts)

    def of(self, texts: Sequence[str]) -> Floats:
        """A row each, of unit length."""
        rows = np.stack([self._found[_key(text)] for text in texts])
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


async def _one(embedder: Embedder, text: str) -> Floats:
    try:
        return (await embedder.embed([text]))[0]
    except NoVector as error:
        if error.reason != "long":
            raise
        return np.zeros(embedder.dimensions, np.float32)


def _key(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).digest()
