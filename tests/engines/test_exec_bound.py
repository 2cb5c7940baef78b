"""The script that binds an engine's life to its parent's; `test_launcher` has its effects on real engines."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from engines import exec_bound


def run(argv: list[str]) -> int | None:
    process = multiprocessing.get_context("spawn").Process(target=exec_bound.main, args=(argv,))
    process.start()
    process.join()
    return process.exitcode


def test_a_command_that_is_there_replaces_the_script() -> None:
    assert run([str(os.getpid()), "sh", "-c", "exit 42"]) == 42


def test_without_its_parent_nothing_is_run() -> None:
    assert run(["1", "sh", "-c", "exit 42"]) == 1


@pytest.mark.parametrize(("command", "code"), [("no-such-command-anywhere", 127), (str(Path(__file__)), 126)])
def test_a_command_that_cannot_run_ends_with_the_shells_code(command: str, code: int) -> None:
    assert run([str(os.getpid()), command]) == code
