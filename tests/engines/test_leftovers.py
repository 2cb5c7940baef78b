"""What engines leave behind is found by its mark and killed; nothing else is."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines import leftovers
from engines.guard import Guard

ROOT = Path(__file__).parents[2]
SUPERVISOR = """
import asyncio, os, subprocess, sys
from engines.guard import Guard
async def main():
    guard = await Guard.start()
    helper = subprocess.Popen(["sleep", "600"], env={**os.environ, **guard.environment}, start_new_session=True)
    print(helper.pid, guard.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def sleeper(mark: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "600"], env={**os.environ, leftovers.VARIABLE: mark}, start_new_session=True)


def own_mark() -> str:
    mark = leftovers.mark_of(os.getpid())
    assert mark is not None
    return mark


def mark_of_the_dead() -> str:
    """As a supervisor had it that ended: its id may be another's by now, its time of start is not."""
    return ".".join(["1", "0", own_mark().rpartition(".")[2]])


def test_the_mark_of_a_running_process_stays_and_one_that_ended_has_none(
    started: list[subprocess.Popen[bytes]],
) -> None:
    assert leftovers.mark_of(os.getpid()) == own_mark()
    process = sleeper("")
    process.kill()
    process.wait()
    assert leftovers.mark_of(process.pid) is None


def test_what_a_dead_supervisor_left_is_killed_and_what_others_run_is_not(
    started: list[subprocess.Popen[bytes]],
) -> None:
    orphan, ours, elsewhere, garbage = (
        sleeper(mark) for mark in (mark_of_the_dead(), own_mark(), "1.0.12345", "not a mark")
    )
    started += [orphan, ours, elsewhere, garbage]
    killed = leftovers.kill_orphans()
    assert orphan.wait(10) == -signal.SIGKILL
    assert f"sleep ({orphan.pid})" in killed
    assert [process.poll() for process in (ours, elsewhere, garbage)] == [None, None, None]


def test_only_what_carries_the_mark_is_killed(started: list[subprocess.Popen[bytes]]) -> None:
    mine, other = sleeper("1.2.3"), sleeper("1.2.4")
    started += [mine, other]
    assert leftovers.kill_marked("1.2.3") == [f"sleep ({mine.pid})"]
    assert mine.wait(10) == -signal.SIGKILL
    assert other.poll() is None


@pytest.mark.may_block("waits for processes")
async def test_a_helper_in_another_session_does_not_outlive_a_killed_supervisor() -> None:
    supervisor = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SUPERVISOR, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert supervisor.stdout is not None
    helper, guard = map(int, (await supervisor.stdout.readline()).split())
    assert leftovers.mark_of(helper) is not None
    supervisor.kill()
    async with asyncio.timeout(10):
        while leftovers.mark_of(helper) is not None or leftovers.mark_of(guard) is not None:
            await asyncio.sleep(0.01)
    await supervisor.wait()


@pytest.mark.may_block("starts processes")
async def test_a_guard_that_ends_kills_what_is_left_and_an_orphan_is_told_at_the_start(
    started: list[subprocess.Popen[bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    orphan = sleeper(mark_of_the_dead())
    started.append(orphan)
    guard = await Guard.start()
    assert f"sleep ({orphan.pid})" in caplog.text
    helper = sleeper(guard.environment[leftovers.VARIABLE])
    started.append(helper)
    await guard.end()
    assert leftovers.mark_of(guard.pid) is None
    assert helper.wait(10) == -signal.SIGKILL


def test_the_script_waits_for_the_end_of_its_input(started: list[subprocess.Popen[bytes]]) -> None:
    helper = sleeper("7.8.9")
    started.append(helper)
    command = [sys.executable, "-I", "-S", str(ROOT / "engines" / "leftovers.py"), "7.8.9"]
    script = subprocess.Popen(command, stdin=subprocess.PIPE)
    started.append(script)
    assert script.stdin is not None
    script.send_signal(0)
    assert helper.poll() is None
    script.stdin.close()
    assert script.wait(10) == 0
    assert helper.wait(10) == -signal.SIGKILL
