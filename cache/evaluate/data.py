"""Labelled questions from files: CSV, TSV, JSON and JSON lines, each also gzipped."""

from __future__ import annotations

import csv
import gzip
import json
import random
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

Row = Mapping[str, object]

TEXTS = (("text_a", "text_b"), ("a", "b"), ("q1", "q2"), ("question1", "question2"), ("sentence1", "sentence2"))
"""What the two texts of a pair are called, unless it is said."""
LABELS = ("label", "is_duplicate", "equal")
KINDS = ("kind", "cap", "category", "type")
_WORDS = {
    "1": True,
    "1.0": True,
    "true": True,
    "yes": True,
    "equal": True,
    "same": True,
    "0": False,
    "0.0": False,
    "false": False,
    "no": False,
    "different": False,
}
_LONGEST_TEXT = 32_768


class BadData(ValueError):
    """A file that cannot be used; says which row and which column."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Questions, each word for word once; those with one label have one answer."""

    name: str
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    repeats: int
    """Left out, because the exact tier answers them."""


@dataclass(frozen=True, slots=True)
class Pair:
    a: str
    b: str
    equal: bool
    """Whether both have one answer; else the pair is a trap."""
    kind: str
    """Of trap; "" where the file does not say."""


@dataclass(frozen=True, slots=True)
class PairColumns:
    a: str
    b: str
    label: str
    kind: str | None


def order_of(seed: int, count: int) -> list[int]:
    """The questions' order in a run: one per seed."""
    order = list(range(count))
    random.Random(seed).shuffle(order)  # noqa: S311 - an order, not a secret
    return order


def read_stream(path: Path, text: str, label: str, limit: int | None = None, alone: str | None = None) -> Stream:
    """Rows with a text and the label of its answer. Of a file of pairs: their texts, and those that equal pairs join,
    directly or through others, have one label.

    alone: label of questions that each have an answer of their own.

    Raises:
        BadData: it is not such a file.
    """
    rows = _rows(path)
    first = next(rows, None)
    if first is None:
        raise BadData(f"{path}: has no rows")
    columns = _pair_columns(first[1])
    if text not in first[1] and columns is not None:
        return _clusters(path, [_pair(path, number, row, columns) for number, row in _all(first, rows)], limit)
    found: dict[str, str] = {}
    repeats = 0
    for number, row in _all(first, rows):
        question, answer = _text(path, number, row, text), _text(path, number, row, label)
        repeats += question in found
        found.setdefault(question, f"{answer} {len(found)}" if answer == alone else answer)
        if limit is not None and len(found) == limit:
            break
    return Stream(path.name, tuple(found), tuple(found.values()), repeats)


def read_pairs(path: Path, columns: Sequence[str] = (), limit: int | None = None) -> list[Pair]:
    """Rows with two texts and whether they have one answer.

    columns: names of the two texts, of the label and, if there is one, of the kind; none: the usual names.

    Raises:
        BadData: it is not such a file.
    """
    rows = _rows(path)
    first = next(rows, None)
    if first is None:
        raise BadData(f"{path}: has no rows")
    named = _named(columns) or _pair_columns(first[1])
    if named is None:
        known = ", ".join(" and ".join(pair) for pair in TEXTS)
        raise BadData(
            f"{path}: has the columns {_listed(first[1])}; expected two texts ({known}) with {' or '.join(LABELS)}, "
            "or name them with --columns"
        )
    pairs = []
    for number, row in _all(first, rows):
        pairs.append(_pair(path, number, row, named))
        if len(pairs) == limit:
            break
    return pairs


def _all(first: tuple[int, Row], rest: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Row]]:
    yield first
    yield from rest


def _clusters(path: Path, pairs: Sequence[Pair], limit: int | None) -> Stream:
    parents: dict[str, str] = {}

    def root(text: str) -> str:
        while (parent := parents.setdefault(text, text)) != text:
            parents[text] = text = parents[parent]
        return text

    for pair in pairs:
        a, b = root(pair.a), root(pair.b)
        if pair.equal:
            parents[b] = a
        if limit is not None and len(parents) >= limit:
            break
    texts = list(parents)[:limit]
    return Stream(path.name, tuple(texts), tuple(map(root, texts)), 0)


def _named(columns: Sequence[str]) -> PairColumns | None:
    if not columns:
        return None
    a, b, label, *kind = columns
    return PairColumns(a, b, label, kind[0] if kind else None)


def _pair_columns(row: Row) -> PairColumns | None:
    texts = next((pair for pair in TEXTS if all(name in row for name in pair)), None)
    label = next((name for name in LABELS if name in row), None)
    if texts is None or label is None:
        return None
    return PairColumns(*texts, label, next((name for name in KINDS if name in row), None))


def _pair(path: Path, number: int, row: Row, columns: PairColumns) -> Pair:
    a, b = _text(path, number, row, columns.a), _text(path, number, row, columns.b)
    word = str(row[columns.label]).strip().lower() if columns.label in row else None
    if word not in _WORDS:
        raise _bad(path, number, row, columns.label, f"{row.get(columns.label)!r} is neither 1 nor 0")
    kind = "" if columns.kind is None else _text(path, number, row, columns.kind)
    return Pair(a, b, _WORDS[word], kind)


def _text(path: Path, number: int, row: Row, column: str) -> str:
    value = row.get(column)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _bad(path, number, row, column, "is missing" if value is None else f"{value!r} is no text")
    text = str(value).strip()
    if not text:
        raise _bad(path, number, row, column, "is empty")
    if len(text) > _LONGEST_TEXT:
        raise _bad(path, number, row, column, f"has {len(text)} characters; {_LONGEST_TEXT} are the most")
    return text


def _bad(path: Path, number: int, row: Row, column: str, what: str) -> BadData:
    if column not in row:
        return BadData(f"{path}: row {number} has no column {column!r}; it has {_listed(row)}")
    return BadData(f"{path}: row {number}, column {column!r}: {what}")


def _listed(row: Row) -> str:
    return ", ".join(repr(name) for name in row) or "none"


def _rows(path: Path) -> Iterator[tuple[int, Row]]:
    """With their numbers: lines of the file, or of a JSON list its items from 1."""
    kind = next((end for end in reversed(path.suffixes) if end != ".gz"), "")
    readers = {".csv": _csv, ".tsv": _tsv, ".json": _json, ".jsonl": _json_lines}
    if kind not in readers:
        raise BadData(f"{path}: its name ends in none of {', '.join(readers)}, with or without .gz")
    try:
        with _open(path) as file:
            yield from readers[kind](path, file)
    except UnicodeDecodeError as error:
        raise BadData(f"{path}: is not UTF-8: {error.reason} at byte {error.start}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise BadData(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _csv(path: Path, file: TextIO, delimiter: str = ",") -> Iterator[tuple[int, Row]]:
    reader = csv.DictReader(file, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise BadData(f"{path}: row {reader.reader.line_num}: {error}") from None


def _tsv(path: Path, file: TextIO) -> Iterator[tuple[int, Row]]:
    return _csv(path, file, "\t")


def _json(path: Path, file: TextIO) -> Iterator[tuple[int, Row]]:
    try:
        rows = json.load(file)
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadData(f"{path}: {error}") from None
    if not isinstance(rows, list):
        raise BadData(f"{path}: is no list of objects")
    for number, row in enumerate(rows, 1):
        yield number, _object(path, number, row)


def _json_lines(path: Path, file: TextIO) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise BadData(f"{path}: row {number}: {error}") from None
        yield number, _object(path, number, row)


def _object(path: Path, number: int, row: object) -> Row:
    if not isinstance(row, dict):
        raise BadData(f"{path}: row {number} is no object")
    return row
