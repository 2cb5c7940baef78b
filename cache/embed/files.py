"""Weights and vocabularies on the disk, and the libraries that read them."""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from cache.embed.seam import EmbedderError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_MAX_HEADER_BYTES = 1024 * 1024
_NUMPY_TYPES = {"F16": "<f2", "F32": "<f4"}


class _Tensor(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def library(name: str) -> Any:
    """
    Raises:
        EmbedderError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        message = f'similar questions are found with {name}: pip install "headrace[semantic-cache]" ({error})'
        raise EmbedderError(message) from error


def tokenizer(path: Path) -> Any:
    """Of a `tokenizer.json`; it neither cuts nor pads."""
    require(path)
    try:
        read = library("tokenizers").Tokenizer.from_file(str(path))
    except EmbedderError:
        raise
    except Exception as error:
        raise EmbedderError(f"{path} is no tokenizer: {error}") from error
    read.no_truncation()
    read.no_padding()
    return read


def require(path: Path) -> None:
    if not path.is_file():
        raise EmbedderError(f"there is no {path}; `headrace models pull` fetches the weights")


def revision(path: Path) -> str:
    """Eight digits that are others when the file is another."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]


def table(path: Path, tensor: str) -> npt.NDArray[np.floating]:
    """A matrix in a safetensors file, mapped rather than read: processes share its pages.

    https://github.com/huggingface/safetensors#format
    """
    require(path)
    numpy = library("numpy")
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _MAX_HEADER_BYTES:
                raise EmbedderError(f"{path} is no safetensors file: its header would have {length} bytes")
            header = msgspec.json.decode(file.read(length), type=dict[str, msgspec.Raw])
        found = msgspec.json.decode(header[tensor], type=_Tensor)
        start_byte = 8 + length + found.data_offsets[0]
        rows, columns = found.shape
        mapped = numpy.memmap(path, _NUMPY_TYPES[found.dtype], "r", start_byte, (rows, columns))
    except (struct.error, msgspec.MsgspecError, KeyError, ValueError) as error:
        raise EmbedderError(f"{path} holds no matrix {tensor!r}: {error}") from error
    return cast("npt.NDArray[np.floating]", mapped.view(numpy.ndarray))  # a memmap's rows would be memmaps, and slow


def give_back_memory() -> None:
    """What the C library holds free after a large file was read: 60 MB of 150 after MiniLM. Where it is glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
