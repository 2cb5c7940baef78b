"""Refuses modules and functions that have grown too long: `python tools/check_sizes.py FOLDER…`."""

# ruff: noqa: T201
from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

MODULE_LINES = 600
TEST_MODULE_LINES = 800
FUNCTION_LINES = 60


def main(folders: list[str]) -> int:
    """Print what is too long. Returns 1 if anything is."""
    files = [path for folder in folders for path in sorted(Path(folder).rglob("*.py"))]
    offenders = [line for path in files for line in too_long(path, path.read_text(encoding="utf-8"))]
    print("\n".join(offenders) or f"{len(files)} modules are within {MODULE_LINES} lines")
    return 1 if offenders else 0


def too_long(path: Path, source: str) -> Iterator[str]:
    """What is too long in one module, a line each."""
    limit = TEST_MODULE_LINES if path.parts[0] == "tests" else MODULE_LINES
    length = source.count("\n")
    if length > limit:
        yield f"{path}: {length} lines; the limit is {limit}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                yield f"{path}:{node.lineno}: {node.name} has {length} lines; the limit is {FUNCTION_LINES}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
