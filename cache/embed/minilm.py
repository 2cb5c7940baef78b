"""all-MiniLM-L6-v2 on onnxruntime: on one core, in one thread of its own.

Any BERT-like sentence encoder in ONNX does that gives hidden states, to be averaged, or one vector a text.
https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from cache.embed.batches import Batches, Outcome, Room, outcome_of
from cache.embed.files import give_back_memory, library, require, revision, tokenizer
from cache.embed.seam import EmbedderError, NoVector, Vector

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


WEIGHTS, TOKENIZER = "model.onnx", "tokenizer.json"
MAX_TOKENS = 256
"""What the model reads. More is not cut: two texts that differ only in what is cut would be the same."""
_HIDDEN_STATES = 3
"""Axes of an output that is still to be averaged: text, token, dimension."""


class MiniLmEmbedder:
    """Reading the files blocks: to be made in a thread, and after the process was forked.

    Raises:
        EmbedderError: a file or a library is missing, or the file is no such model.
    """

    def __init__(self, folder: Path, room: Room | None = None) -> None:
        self._numpy = library("numpy")
        require(folder / WEIGHTS)
        runtime = library("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = False  # it would keep what the longest batch took, and is no quicker
        self._tokenizer = tokenizer(folder / TOKENIZER)
        try:
            self._session = runtime.InferenceSession(str(folder / WEIGHTS), options, providers=["CPUExecutionProvider"])
            self._inputs = frozenset(one.name for one in self._session.get_inputs())
            self.dimensions = int(self._session.get_outputs()[0].shape[-1])
            [_] = self._vectors(["warm"])
        except Exception as error:
            raise EmbedderError(f"{folder / WEIGHTS} is no sentence encoder for onnxruntime: {error}") from error
        give_back_memory()
        self.name = f"{folder.name}@{revision(folder / WEIGHTS)}"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="headrace-embed")
        self._batches = Batches(self.name, self._in_thread, room or Room())

    async def embed(self, texts: Sequence[str], *, urgent: bool = True) -> list[Vector]:
        return await self._batches.run(texts, urgent=urgent)

    async def aclose(self) -> None:
        await self._batches.aclose()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, texts: Sequence[str]) -> Sequence[Outcome]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._vectors, texts)

    def _vectors(self, texts: Sequence[str]) -> list[Outcome]:
        rows = [self._tokenizer.encode(text).ids for text in texts]
        read = [ids for ids in rows if len(ids) <= MAX_TOKENS]
        vectors = iter(self._run(read) if read else ())
        return [next(vectors) if len(ids) <= MAX_TOKENS else _long(len(ids)) for ids in rows]

    def _run(self, rows: list[list[int]]) -> list[Outcome]:
        np = self._numpy
        ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        output = self._session.run(None, {name: feeds[name] for name in self._inputs})[0]
        return [outcome_of(vector) for vector in self._pooled(output, mask)]

    def _pooled(self, output: npt.NDArray[np.float32], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        if output.ndim < _HIDDEN_STATES:
            return output
        weights = mask.astype("f4")[:, :, None]
        mean: npt.NDArray[np.float32] = (output * weights).sum(1) / weights.sum(1)
        return mean


def _long(tokens: int) -> NoVector:
    return NoVector("long", f"{tokens} tokens, the model reads {MAX_TOKENS}")
