"""A table of word vectors that fits on a page."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

WORDS = {"east": [1.0, 0.0], "north": [0.0, 2.0], "west": [-1.0, 0.0]}


def write_table(folder: Path, *, kind: str = "F16", tensor: str = "embedding.weight") -> Path:
    """A safetensors file and a tokenizer; words outside of the table are no tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    matrix: npt.NDArray[np.floating] = np.array(list(WORDS.values()), "<f2" if kind == "F16" else "<f4")
    fields = {"dtype": kind, "shape": list(matrix.shape), "data_offsets": [4, 4 + matrix.nbytes]}
    header = json.dumps({"__metadata__": {"made": "here"}, tensor: fields}).encode()
    start = struct.pack("<Q", len(header)) + header + b"pad!"
    (folder / "embedding.safetensors").write_bytes(start + matrix.tobytes())
    vocabulary = WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="none")
    vocabulary_only = Tokenizer(vocabulary)
    vocabulary_only.pre_tokenizer = Whitespace()
    vocabulary_only.save(str(folder / "tokenizer.json"))
    return folder
