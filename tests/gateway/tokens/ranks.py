"""OpenAI's own rank files, from a package that ships them."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import pytest


def rank_file(name: str, folder: Path) -> Path:
    """The file of an encoding, unpacked into `folder`."""
    found = importlib.util.find_spec("bpe_openai")
    if found is None or found.origin is None:
        pytest.skip("the package bpe-openai, which ships OpenAI's rank files, is not installed")
    packed = Path(found.origin).with_name("data") / f"{name}.tiktoken.gz"
    file = folder / f"{name}.tiktoken"
    file.write_bytes(gzip.decompress(packed.read_bytes()))
    return file
