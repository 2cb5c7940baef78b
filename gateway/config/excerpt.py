"""The source line of a problem, with every secret that stands in it masked."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property

from gateway.config.explain import SECRET_TEXT
from gateway.config.problems import MASK, Excerpt, KeyPath
from gateway.config.types import is_secret
from gateway.config.yaml import Document, Span

MAX_LINE_CHARS = 500
_REFERENCE = re.compile(r"^[\"']?(?:\$\{[A-Za-z0-9_]+\}|os\.environ/[A-Za-z0-9_]+)[\"']?$")


class Excerpts:
    """Cuts excerpts out of one document."""

    def __init__(self, document: Document) -> None:
        self._document = document

    def at(self, span: Span) -> Excerpt | None:
        """None where there is no line to show, or none that a person would read: a file written by a program."""
        if span.line >= len(self._document.lines) or len(self._document.lines[span.line]) > MAX_LINE_CHARS:
            return None
        line = self._document.lines[span.line]
        end = span.end_column if span.end_line == span.line else len(line)
        column, width = span.column, max(1, end - span.column)
        for start, stop in sorted(set(self._secrets(span.line, line)), reverse=True):
            line = line[:start] + MASK + line[stop:]
            grown = len(MASK) - (stop - start)
            if stop <= span.column:
                column += grown
            elif start < end:
                width = max(1, width + grown)
        masked = SECRET_TEXT.sub(lambda match: "*" * len(match[0]), line)
        return Excerpt(masked.rstrip(), column + 1, width)

    @cached_property
    def _leaves(self) -> dict[int, list[tuple[KeyPath, Span]]]:
        """Values without children, by each line that they touch."""
        parents = {path[:-1] for path in self._document.values if path}
        found: dict[int, list[tuple[KeyPath, Span]]] = defaultdict(list)
        for path, span in self._document.values.items():
            if path not in parents:
                for line in range(span.line, span.end_line + 1):
                    found[line].append((path, span))
        return found

    def _secrets(self, number: int, line: str) -> Iterator[tuple[int, int]]:
        """The parts of a line that hold secrets written out; a reference to a variable is no secret."""
        for path, span in self._leaves.get(number, ()):
            start = span.column if span.line == number else 0
            stop = span.end_column if span.end_line == number else len(line)
            if start < stop and is_secret(path) and not _REFERENCE.match(line[start:stop].strip()):
                yield start, stop
