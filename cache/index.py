"""The nearest of the vectors of one partition.

Few are compared one by one. Many are in a graph (HNSW, int8, by usearch), which finds candidates; their cosines are
computed from the vectors themselves all the same, so that they depend neither on the graph nor on the order in which it
was built.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from usearch.index import Index as Usearch

Floats: TypeAlias = NDArray[np.float32]

FEW = 32
"""So many are compared straight from their bytes, without a matrix: most partitions hold one conversation."""
EXACT = 2000
"""From so many on, a graph takes over."""
MOVED = 4
"""Vectors that each newcomer takes along into the graph, so that no single one has to wait for all of them."""
BLOCK = 512
"""Rows multiplied at a time: for larger products BLAS wakes threads, which on a busy machine costs milliseconds."""
HALF_BYTES = 2
LINKS = 16
WIDTH_ADD = 48
WIDTH_SEARCH = 96
"""Of the graph: links of a node, and how widely it is searched. After a restart all have to be added anew, and
that takes as long as it is wide. Of the nearest among 20,000 whose cosine is over 0.7, 99.9 % are found so."""


def as_floats(vector: bytes) -> Floats:
    """From float16, little endian."""
    return np.frombuffer(vector, "<f2").astype(np.float32)


def as_bytes(vector: Sequence[float] | Floats) -> bytes:
    """To float16, little endian, of unit length.

    Raises:
        ValueError: a number in it is none, or all are 0.
    """
    floats = np.asarray(vector, np.float32)
    length = float(np.linalg.norm(floats))
    if not np.isfinite(length) or length == 0.0:
        raise ValueError("a vector must be of finite numbers that are not all 0")
    return (floats / length).astype("<f2").tobytes()


class Index:
    """Numbers and the vectors that they stand for: float16, little endian, unit length."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self._vectors: dict[int, bytes] = {}
        self._rows: _Rows | None = None
        self._graph: _Graph | None = None
        self._doomed: deque[int] = deque()
        """Still in the graph, which is slow to forget."""

    def __len__(self) -> int:
        return len(self._vectors)

    def __repr__(self) -> str:
        kind = "graph" if self._graph is not None else "exact"
        return f"<Index {len(self)} x {self.dimensions} {kind}>"

    @property
    def size_bytes(self) -> int:
        """Of memory, besides the vectors as they were given."""
        parts = (self._rows, self._graph)
        return sum(part.size_bytes for part in parts if part is not None)

    def add(self, number: int, vector: bytes) -> bool:
        """False: it is of another length than the others, or not of numbers. A number is never used again."""
        if len(vector) != self.dimensions * HALF_BYTES:
            return False
        floats = as_floats(vector)
        if not 0.9 < float(floats @ floats) < 1.1:
            return False
        if number in self._vectors:
            raise ValueError(f"number {number} is taken")
        self._vectors[number] = vector
        self._place(number, floats)
        return True

    def remove(self, number: int) -> None:
        if self._vectors.pop(number, None) is None:
            return
        if self._rows is not None and self._rows.remove(number):
            return
        if self._graph is not None:
            self._doomed.append(number)
            if len(self) < EXACT // 4:
                self._graph = None
                self._doomed.clear()
                self._rows = self._all_rows()

    def tidy(self, count: int) -> int:
        """Take up to `count` of what was removed out of the graph. Returns how many that were."""
        taken = min(count, len(self._doomed))
        for _ in range(taken):
            number = self._doomed.popleft()
            if self._graph is not None and number not in self._vectors:
                self._graph.remove(number)
        return taken

    def near(self, vector: Floats, count: int) -> list[tuple[int, float]]:
        """The `count` nearest with their cosines, nearest first. vector: of unit length."""
        numbers = self._candidates(vector, count)
        if not numbers:
            return []
        joined = b"".join([self._vectors[number] for number in numbers])
        cosines = np.frombuffer(joined, "<f2").reshape(len(numbers), -1).astype(np.float32) @ vector
        pairs = zip(numbers, np.clip(cosines, -1.0, 1.0).tolist(), strict=True)
        found = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
        return found[:count]

    def _candidates(self, vector: Floats, count: int) -> list[int]:
        if self._graph is None and self._rows is None:
            return list(self._vectors)
        numbers = self._rows.nearest(vector, count) if self._rows is not None else []
        if self._graph is not None:
            wanted = 2 * count + min(2 * count, len(self._doomed))
            numbers += [number for number in self._graph.nearest(vector, wanted) if number in self._vectors]
        return numbers

    def _place(self, number: int, floats: Floats) -> None:
        if self._graph is not None:
            self.tidy(MOVED)
            self._graph.add(number, floats)
            self._move()
        elif self._rows is not None:
            self._rows.add(number, floats)
            if len(self) > EXACT:
                self._graph = _Graph(self.dimensions)
        elif len(self) > FEW:
            self._rows = self._all_rows()

    def _move(self) -> None:
        if self._rows is None or self._graph is None:
            return
        for _ in range(min(MOVED, len(self._rows))):
            self._graph.add(*self._rows.pop())
        if len(self._rows) == 0:
            self._rows = None

    def _all_rows(self) -> _Rows:
        rows = _Rows(self.dimensions)
        for number, vector in self._vectors.items():
            rows.add(number, as_floats(vector))
        return rows


class Place:
    """Vectors of one partition, in two stages: a coarse one may tell that nothing is near, before a finer one is asked.

    dimensions: of the finer vectors.
    """

    def __init__(self, dimensions: int) -> None:
        self.fine = Index(dimensions)
        self._coarse: Index | None = None

    def __len__(self) -> int:
        return len(self.fine)

    def add(self, number: int, vector: bytes, first: bytes) -> bool:
        """first: of the coarse stage, b"" if it has none. False: the vector is not like the others."""
        if not self.fine.add(number, vector):
            return False
        if first:
            if self._coarse is None:
                self._coarse = Index(len(first) // HALF_BYTES)
            self._coarse.add(number, first)
        return True

    def remove(self, number: int) -> None:
        self.fine.remove(number)
        if self._coarse is not None:
            self._coarse.remove(number)

    def tidy(self, count: int) -> bool:
        """See `Index.tidy`. False: there was nothing left to do."""
        taken = self.fine.tidy(count)
        if self._coarse is not None:
            taken += self._coarse.tidy(count)
        return taken > 0

    def nearest_first(self, vector: Floats) -> float:
        """The best cosine in the coarse stage; 1.0 where it does not know all."""
        coarse = self._coarse
        if coarse is None or len(coarse) < len(self.fine) or len(vector) != coarse.dimensions:
            return 1.0
        found = coarse.near(vector, 1)
        return found[0][1] if found else 1.0


class _Rows:
    """Of a matrix that grows by halves. A row that goes is replaced by the last."""

    def __init__(self, dimensions: int) -> None:
        self._matrix = np.empty((2 * FEW, dimensions), np.float32)
        self._numbers: list[int] = []
        self._places: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def size_bytes(self) -> int:
        return self._matrix.nbytes

    def add(self, number: int, floats: Floats) -> None:
        place = len(self._numbers)
        if place == len(self._matrix):
            larger = np.empty((place + place // 2, self._matrix.shape[1]), np.float32)
            larger[:place] = self._matrix
            self._matrix = larger
        self._matrix[place] = floats
        self._places[number] = place
        self._numbers.append(number)

    def remove(self, number: int) -> bool:
        place = self._places.get(number)
        if place is None:
            return False
        last, floats = self.pop()
        if last != number:
            self._matrix[place] = floats
            self._numbers[place] = last
            self._places[last] = place
            del self._places[number]
        return True

    def pop(self) -> tuple[int, Floats]:
        number = self._numbers.pop()
        del self._places[number]
        return number, self._matrix[len(self._numbers)].copy()

    def nearest(self, vector: Floats, count: int) -> list[int]:
        total = len(self._numbers)
        cosines = np.empty(total, np.float32)
        for start in range(0, total, BLOCK):
            end = min(start + BLOCK, total)
            np.dot(self._matrix[start:end], vector, out=cosines[start:end])
        if total <= count:
            return list(self._numbers)
        places = np.argpartition(cosines, total - count)[total - count :]
        return [self._numbers[place] for place in places.tolist()]


class _Found(Protocol):
    keys: NDArray[np.uint64]


class _Graph:
    def __init__(self, dimensions: int) -> None:
        self._index = _usearch(dimensions)

    @property
    def size_bytes(self) -> int:
        return int(self._index.memory_usage)

    def add(self, number: int, floats: Floats) -> None:
        self._index.add(number, floats, threads=1)

    def remove(self, number: int) -> None:
        self._index.remove(number)

    def nearest(self, vector: Floats, count: int) -> list[int]:
        found = cast(_Found, self._index.search(vector, count, threads=1))
        return cast("list[int]", found.keys.tolist())


def _usearch(dimensions: int) -> Usearch:
    from usearch.index import Index as Usearch

    return Usearch(
        ndim=dimensions,
        metric="cos",
        dtype="i8",
        connectivity=LINKS,
        expansion_add=WIDTH_ADD,
        expansion_search=WIDTH_SEARCH,
    )
