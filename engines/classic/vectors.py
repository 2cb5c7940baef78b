"""Embeddings in the forms in which model servers give them: lists, or a V2 tensor with its shape."""

from __future__ import annotations

import base64
import math
import struct

from engines.classic.paths import NotThere

Vector = list[float]


def vectors_in(value: object, count: int) -> list[Vector]:
    """`count` vectors.

    Raises:
        NotThere: `value` is not that.
    """
    found = _rows(_of_tensor(value), count)
    if len(found) != count:
        raise NotThere(f"there are {len(found)} embeddings for {count} inputs")
    return found


def _of_tensor(value: object) -> object:
    """A V2 tensor as nested lists. `data` may be flat, whatever the shape."""
    if not isinstance(value, dict) or "data" not in value:
        return value
    data, shape = value["data"], value.get("shape")
    if not isinstance(data, list) or not isinstance(shape, list) or not all(isinstance(n, int) for n in shape):
        raise NotThere('the tensor has no "data" and "shape" that are lists')
    if not data or isinstance(data[0], list):
        return data
    if math.prod(shape) != len(data):
        raise NotThere(f"the tensor has {len(data)} numbers, and its shape is {shape}")
    width = shape[-1] if shape else len(data)
    return [data[start : start + width] for start in range(0, len(data), width)]


def _rows(value: object, count: int) -> list[Vector]:
    if not isinstance(value, list) or not value:
        raise NotThere("there are no embeddings, but something that is no list of numbers")
    if _is_vector(value):
        return [value] if count == 1 else []
    rows = [row[0] if isinstance(row, list) and len(row) == 1 and isinstance(row[0], list) else row for row in value]
    if not all(_is_vector(row) for row in rows):
        raise NotThere("each embedding must be a list of numbers; a vector for each token is none")
    return rows


def _is_vector(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(number) in (int, float) for number in value)


def as_base64(vector: Vector) -> str:
    """32-bit floats, little-endian, as OpenAI's clients ask for them."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
