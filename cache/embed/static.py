"""A table of word vectors: a text is the mean of its tokens. A tenth of a millisecond, and coarse.

The table is WordLlama's (https://github.com/dleemiller/WordLlama, MIT): token embeddings of large language models,
distilled to 256 dimensions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from cache.embed.files import library, revision, table, tokenizer
from cache.embed.seam import NoVector, Vector, unit

WEIGHTS, TOKENIZER, TENSOR = "embedding.safetensors", "tokenizer.json", "embedding.weight"
_CHARS_AT_ONCE = 1024
"""On the loop; what is longer takes more than half a millisecond and goes to a thread."""


class StaticEmbedder:
    """Reading the files blocks: to be made in a thread.

    Raises:
        EmbedderError: a file or a library is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._mean = library("numpy").add.reduce
        self._tokenizer = tokenizer(folder / TOKENIZER)
        self._table = table(folder / WEIGHTS, TENSOR)
        self.name = f"{folder.name}@{revision(folder / WEIGHTS)}"
        self.dimensions = int(self._table.shape[1])

    def embed_now(self, text: str) -> Vector:
        """
        Raises:
            NoVector: there is nothing in the text.
        """
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        if not ids:
            raise NoVector("unfit", "a text without words")
        mean: Vector = self._mean(self._table[ids], axis=0, dtype="f4")
        return unit(mean)

    async def embed(self, texts: Sequence[str], *, urgent: bool = True) -> list[Vector]:
        if sum(map(len, texts)) <= _CHARS_AT_ONCE:
            return self._all(texts)
        return await asyncio.to_thread(self._all, texts)

    async def aclose(self) -> None:
        pass

    def _all(self, texts: Sequence[str]) -> list[Vector]:
        return [self.embed_now(text) for text in texts]
