"""`ProcessLauncher` with real child processes; only the pauses between starts run in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from engines.commands import (
    fake_command,
    free_port,
    gpu_environment,
    gpu_slice,
    llamacpp_command,
    transformers_command,
    vllm_command,
)
from engines.launcher import (
    MOVES,
    Backoff,
    Change,
    LaunchError,
    LaunchSpec,
    ProcessLauncher,
    RealClock,
    State,
)
from engines.memory import resident_bytes

SERVE = "import http.server, sys; http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()"
HANDLER = """
import http.server, os
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(os.environ.get('STATUS', '200'))); self.end_headers()
    def log_message(self, *args): pass
"""
IDLE = "import time; print('up', flush=True); time.sleep(600)"


class VirtualClock:
    """Sleeps take no time; `pauses` has their lengths. `hold` stops all further ones."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.pauses: list[float] = []
        self.hold = False

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds
        if self.hold:
            await asyncio.Event().wait()


class Log:
    """Hears changes and lines, and lets a test wait for one."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.lines: list[str] = []
        self._news = asyncio.Event()

    def change(self, change: Change) -> None:
        self.changes.append(change)
        self._news.set()

    def line(self, name: str, line: str) -> None:
        self.lines.append(line)
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._news.clear()
                await self._news.wait()

    def states(self) -> list[State]:
        return [change.new for change in self.changes]

    def last(self, state: State) -> Change:
        return next(change for change in reversed(self.changes) if change.new is state)


@contextlib.asynccontextmanager
async def launched(code: str, *argv: str, **options: Any) -> AsyncIterator[tuple[ProcessLauncher, Log, VirtualClock]]:
    log, clock = Log(), VirtualClock()
    keys = {key: options.pop(key) for key in ("backoff",) if key in options}
    spec = LaunchSpec("engine", options.pop("command", (sys.executable, "-c", code, *argv)), **options)
    launcher = ProcessLauncher(spec, on_change=log.change, on_line=log.line, clock=clock, rng=random.Random(1), **keys)
    launcher.start()
    try:
        yield launcher, log, clock
    finally:
        await launcher.stop()


def serving(port: int, **options: Any) -> contextlib.AbstractAsyncContextManager[Any]:
    url = f"http://127.0.0.1:{port}/health"
    return launched(HANDLER + SERVE, str(port), ready_url=url, **options)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def gone(pid: int) -> None:
    async with asyncio.timeout(10):
        while alive(pid):
            await asyncio.sleep(0.01)


async def test_an_engine_is_ready_once_its_health_path_answers() -> None:
    async with serving(free_port()) as (launcher, log, _):
        await launcher.wait_ready()
        assert launcher.state is State.READY
        assert log.states() == [State.STARTING, State.READY]
        assert launcher.pid is not None
        assert repr(launcher) == f"<ProcessLauncher engine ready pid={launcher.pid} failures=0>"
    assert log.states()[2:] == [State.STOPPING, State.STOPPED]
    assert launcher.pid is None


async def test_an_engine_that_dies_is_started_again() -> None:
    async with serving(free_port()) as (launcher, log, _):
        await launcher.wait_ready()
        first = launcher.pid
        launcher.kill()
        await log.until(lambda: log.states().count(State.READY) == 2)
        assert launcher.pid != first
        change = log.last(State.BACKING_OFF)
        assert "SIGKILL" in change.reason
        assert change.failures == 1
        assert change.retry_in_s is not None


async def test_pauses_double_up_to_the_limit_and_a_crash_loop_is_told() -> None:
    backoff = Backoff(first_s=1.0, max_s=4.0, crash_loop_after=3)
    async with launched("raise SystemExit(5)", backoff=backoff) as (_, log, clock):
        await log.until(lambda: len(clock.pauses) >= 5)
        told = [change.crash_loop for change in log.changes if change.new is State.BACKING_OFF]
    for pause_s, full_s in zip(clock.pauses, (1.0, 2.0, 4.0, 4.0, 4.0), strict=False):
        assert full_s / 2 <= pause_s <= full_s
    assert told[:4] == [False, False, True, True]


async def test_a_minute_of_health_makes_failures_forgotten() -> None:
    backoff = Backoff(healthy_s=60.0)
    async with launched(IDLE, backoff=backoff) as (launcher, log, clock):
        for runs in (1, 2):
            await log.until(lambda runs=runs: log.states().count(State.READY) == runs)  # type: ignore[misc]
            launcher.kill()
        await log.until(lambda: log.states().count(State.READY) == 3)
        assert log.last(State.READY).failures == 2
        clock.now_s += 61.0
        launcher.kill()
        await log.until(lambda: log.states().count(State.READY) == 4)
        assert log.last(State.READY).failures == 1


async def test_a_command_that_does_not_exist_fails_for_good() -> None:
    async with launched("", command=("no-such-engine-anywhere",)) as (launcher, log, clock):
        await log.until(lambda: launcher.state is State.FAILED)
        assert "not installed" in log.last(State.FAILED).reason
        assert clock.pauses == []
        with pytest.raises(LaunchError, match="no-such-engine-anywhere: no such command"):
            await launcher.wait_ready()


async def test_a_file_that_cannot_be_run_fails_for_good(tmp_path: Path) -> None:
    path = tmp_path / "engine"
    path.write_text("not a program")
    async with launched("", command=(str(path),)) as (launcher, log, _):
        await log.until(lambda: launcher.state is State.FAILED)
        assert "code 126" in log.last(State.FAILED).reason


async def test_a_failed_engine_can_be_started_by_hand() -> None:
    async with launched("raise SystemExit(78)") as (launcher, log, _):
        await log.until(lambda: launcher.state is State.FAILED)
        launcher.start()
        await log.until(lambda: log.states().count(State.FAILED) == 2)


async def test_who_waits_hears_that_it_failed() -> None:
    async with launched("print('bad flag'); raise SystemExit(64)", ready_url="http://127.0.0.1:9/") as (
        launcher,
        _,
        _,
    ):
        with pytest.raises(LaunchError, match="exited with code 64; its last line: bad flag"):
            await launcher.wait_ready()


async def test_an_engine_that_never_gets_ready_is_stopped_and_tried_again() -> None:
    options: dict[str, Any] = {"ready_timeout_s": 0.5, "env": {"STATUS": "503"}}
    async with serving(free_port(), **options) as (_, log, clock):
        await log.until(lambda: len(clock.pauses) >= 1)
        reason = log.last(State.BACKING_OFF).reason
    assert reason.startswith("not ready after 0.5 s (ready_timeout_s): no 2xx from http://127.0.0.1:")


async def test_lines_of_both_streams_are_handed_on_and_the_last_200_kept() -> None:
    code = "import sys, time\nfor i in range(300): print(i)\nprint('oops', file=sys.stderr, end='')"
    async with launched(code + "\nraise SystemExit(78)") as (launcher, log, _):
        await log.until(lambda: launcher.state is State.FAILED)
        assert len(log.lines) == 301
        assert launcher.lines[0] == "101"
        assert launcher.lines[-1] == "oops"


async def test_an_engine_that_ignores_sigterm_is_killed() -> None:
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + IDLE
    async with launched(code, stop_timeout_s=0.2) as (launcher, log, _):
        await log.until(lambda: "up" in log.lines)
        pid = launcher.pid
        assert pid is not None
        await launcher.stop()
        assert not alive(pid)
    assert "did not stop within 0.2 s" in log.last(State.STOPPED).reason


async def test_the_whole_group_is_stopped() -> None:
    code = "import subprocess, sys\nprint(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid)"
    async with launched(code + "\n" + IDLE) as (_, log, _):
        await log.until(lambda: "up" in log.lines)
        helper = int(log.lines[0])
        assert alive(helper)
    await gone(helper)


async def test_helpers_of_a_dead_engine_do_not_live_on_and_do_not_hide_its_death() -> None:
    code = "import subprocess, sys\nprint(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid)"
    async with launched(code + "\nraise SystemExit(78)") as (launcher, log, _):
        await log.until(lambda: launcher.state is State.FAILED)
        await gone(int(log.lines[0]))


async def test_a_helper_in_another_session_does_not_hide_the_death_of_its_engine() -> None:
    code = (
        "import subprocess, sys\n"
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True).pid)"
    )
    async with launched(code + "\nraise SystemExit(78)") as (launcher, log, _):
        await log.until(lambda: launcher.state is State.FAILED)
        os.kill(int(log.lines[0]), signal.SIGKILL)


async def test_memory_is_that_of_the_engine_and_its_helpers() -> None:
    code = (
        "import subprocess, sys\nkept = bytearray(30_000_000)\n"
        "subprocess.Popen([sys.executable, '-c', 'kept = bytearray(40_000_000); input()'], stdin=subprocess.PIPE)"
    )
    async with launched(code + "\n" + IDLE) as (launcher, log, _):
        await log.until(lambda: "up" in log.lines and launcher.peak_bytes > 0)
        pid = launcher.pid
        assert pid is not None
        async with asyncio.timeout(10):
            while await asyncio.to_thread(resident_bytes, pid) < 70_000_000:
                await asyncio.sleep(0.01)
    assert resident_bytes(pid) == 0


async def test_stop_ends_a_pause_at_once() -> None:
    async with launched("raise SystemExit(1)") as (launcher, log, clock):
        clock.hold = True
        await log.until(lambda: launcher.state is State.BACKING_OFF)
        await launcher.stop()
    assert log.states()[-2:] == [State.STOPPING, State.STOPPED]


async def test_stop_right_after_start_leaves_no_process() -> None:
    async with launched(IDLE) as (launcher, _, _):
        await asyncio.sleep(0)
        await launcher.stop()
        assert launcher.state is State.STOPPED
        assert launcher.pid is None


async def test_who_waits_hears_of_a_stop() -> None:
    async with launched(IDLE, ready_url="http://127.0.0.1:9/") as (launcher, _, _):
        waiting = asyncio.create_task(launcher.wait_ready())
        await asyncio.sleep(0)
        await asyncio.gather(launcher.stop(), launcher.stop())
        with pytest.raises(LaunchError, match="engine: stop"):
            await waiting


async def test_a_cancelled_stop_goes_on() -> None:
    async with launched(IDLE) as (launcher, log, _):
        await log.until(lambda: "up" in log.lines)
        stopping = asyncio.create_task(launcher.stop())
        await asyncio.sleep(0)
        stopping.cancel()
        await log.until(lambda: launcher.state is State.STOPPED)


async def test_a_stopped_engine_starts_again() -> None:
    async with launched(IDLE) as (launcher, log, _):
        await launcher.wait_ready()
        launcher.start()
        assert log.states() == [State.STARTING, State.READY]
        await launcher.stop()
        launcher.start()
        await launcher.wait_ready()


async def test_a_fault_of_the_launcher_itself_is_a_failure_and_not_a_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with launched(IDLE, ready_url="http://127.0.0.1:no-port/") as (launcher, log, _):
        await log.until(lambda: launcher.state is State.FAILED)
        assert "the launcher itself failed" in log.last(State.FAILED).reason
    assert "the launcher itself failed" in caplog.text


async def test_when_the_system_starts_no_process_it_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refused)
    async with launched(IDLE) as (launcher, log, clock):
        clock.hold = True
        await log.until(lambda: launcher.state is State.BACKING_OFF)
        assert "Resource temporarily unavailable" in log.last(State.BACKING_OFF).reason


async def test_an_illegal_move_is_refused() -> None:
    launcher = ProcessLauncher(LaunchSpec("engine", ("true",)))
    with pytest.raises(RuntimeError, match="illegal move from stopped to ready"):
        launcher._move(State.READY)


def test_every_state_has_its_moves() -> None:
    assert set(MOVES) == set(State)


async def test_the_real_clock_goes_forward() -> None:
    clock = RealClock()
    before_s = clock.monotonic()
    await clock.sleep(0.001)
    assert clock.monotonic() > before_s


async def test_an_engine_dies_with_the_process_that_started_it() -> None:
    code = """
import asyncio, sys
from engines.launcher import LaunchSpec, ProcessLauncher
async def main():
    launcher = ProcessLauncher(LaunchSpec("x", [sys.executable, "-c", "import time; print('up'); time.sleep(600)"]),
        on_line=lambda name, line: print(launcher.pid, flush=True))
    launcher.start()
    await asyncio.sleep(600)
asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())
    assert alive(child)
    parent.kill()
    await gone(child)
    await parent.wait()


async def test_a_child_whose_parent_is_already_gone_does_not_start() -> None:
    script = Path(__file__).parents[2] / "engines" / "exec_bound.py"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(script), "1", sys.executable, "-c", "print('started')"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert (out, err.strip(), process.returncode) == (b"", b"parent 1 is gone", 1)


def test_the_commands_carry_every_setting(tmp_path: Path) -> None:
    spec = llamacpp_command(
        "a", model=tmp_path / "m.gguf", alias="m", port=9001, context_tokens=512, slots=2, threads=3
    )
    assert spec.argv[1:] == [
        *("-m", "engines.llamacpp_server", "--model", str(tmp_path / "m.gguf"), "--alias", "m"),
        *("--host", "127.0.0.1", "--port", "9001", "--context-tokens", "512", "--slots", "2", "--threads", "3"),
    ]
    assert spec.ready_url == "http://127.0.0.1:9001/health"
    assert "--threads" not in llamacpp_command("a", model=tmp_path, alias="m", port=1).argv
    fake = fake_command("b", model="m", port=9002, host="::1", args=("--ttft", "0.1"))
    assert fake.argv[-4:] == ["--model", "m", "--ttft", "0.1"]
    assert fake.ready_url == "http://[::1]:9002/health"


def test_vllm_and_transformers_are_started_with_their_own_interpreter_and_flags() -> None:
    vllm = vllm_command("v", model="org/m", names=("a", "b"), port=9003, python="/opt/vllm/bin/python", args=("--x=1",))
    assert vllm.argv == [
        *("/opt/vllm/bin/python", "-m", "vllm.entrypoints.openai.api_server", "--model", "org/m"),
        *("--served-model-name", "a", "b", "--host", "127.0.0.1", "--port", "9003", "--x=1"),
    ]
    assert vllm.ready_url == "http://127.0.0.1:9003/health"
    serve = transformers_command("t", model="/models/m", port=9004, args=("--continuous-batching",))
    assert serve.argv == [
        *(sys.executable, "-m", "transformers.cli.transformers", "serve", "/models/m"),
        *("--host", "127.0.0.1", "--port", "9004", "--continuous-batching"),
    ]
    assert transformers_command("t", model="m", port=1, python="~/v/python").argv[0] == str(Path.home() / "v/python")


@pytest.mark.parametrize(
    ("gpus", "replicas", "expected"),
    [
        (1, 3, [(0,), (1,), (2,)]),
        (2, 2, [(0, 1), (2, 3)]),
        (0, 1, [()]),
        ([4, 5, 6, 7], 2, [(4, 5), (6, 7)]),
        (["GPU-a", "GPU-b"], 1, [("GPU-a", "GPU-b")]),
    ],
)
def test_each_replica_gets_gpus_of_its_own(
    gpus: int | list[int | str], replicas: int, expected: list[tuple[int | str, ...]]
) -> None:
    assert [gpu_slice(gpus, index, replicas) for index in range(replicas)] == expected


def test_gpus_are_counted_among_those_that_the_gateway_may_use() -> None:
    assert gpu_environment((2, 3), {}) == {"CUDA_VISIBLE_DEVICES": "2,3", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert gpu_environment((0,), {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}) == {"CUDA_VISIBLE_DEVICES": "0"}
    assert gpu_environment((1,), {"CUDA_VISIBLE_DEVICES": "4, 5"}) == {"CUDA_VISIBLE_DEVICES": "5"}
    assert gpu_environment(("GPU-a",), {"CUDA_VISIBLE_DEVICES": "4"}) == {"CUDA_VISIBLE_DEVICES": "GPU-a"}
    assert gpu_environment((), {})["CUDA_VISIBLE_DEVICES"] == ""
    with pytest.raises(ValueError, match="names GPU 2, but CUDA_VISIBLE_DEVICES=4,5 allows 2 only"):
        gpu_environment((2,), {"CUDA_VISIBLE_DEVICES": "4,5"})


def test_a_free_port_is_a_port() -> None:
    assert 1024 <= free_port() <= 65535
