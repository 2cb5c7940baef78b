"""What every test is held to: no task, no socket and no blocking call is left behind or made on the way."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from blockbuster import blockbuster_ctx

from tests.harness import settled
from tests.postgres import Postgres, postgres_running, programs

TEST_S = 30.0
"""Longest that a coroutine test may take."""
OURS = ["gateway", "router", "engines", "cache"]
SUPERVISED = ("child", "engine_set", "launcher", "supervisor", "workers")
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the code runs on: uvloop in a worker, asyncio's in the supervisor. HEADRACE_TEST_LOOP=both."""
    supervised = item.path.stem.removeprefix("test_").startswith(SUPERVISED)
    wanted = "asyncio" if supervised else os.environ.get("HEADRACE_TEST_LOOP", "uvloop")
    return LOOPS if wanted == "both" else {wanted: LOOPS[wanted]}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "may_block(reason): the code under test may block the loop, and why")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """uvloop swallows what pytest-timeout raises from a signal, so that coroutines have a limit of their own."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = _limited(item.obj)


def _limited(function: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(function)
    async def limited(*args: object, **kwargs: object) -> None:
        async with asyncio.timeout(TEST_S):
            await function(*args, **kwargs)

    return limited


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """A call of our code that blocks while a loop runs fails the test; `may_block` says why it may."""
    if not inspect.iscoroutinefunction(getattr(request, "function", None)):
        yield
        return
    request.getfixturevalue("nothing_is_left")
    if request.node.get_closest_marker("may_block"):
        yield
        return
    with blockbuster_ctx(OURS) as buster:
        for function in buster.functions.values():
            # Reads its own version from disk and opens its log, once, before anything is served.
            function.can_block_in("gateway/telemetry/telemetry.py", "__init__")
        yield


@pytest.fixture
async def nothing_is_left() -> AsyncIterator[None]:
    """No task and no socket that was not there before."""
    sockets_before, tasks_before = _sockets(), asyncio.all_tasks()
    yield

    def left() -> list[str]:
        tasks = asyncio.all_tasks() - tasks_before - {asyncio.current_task()}
        sockets = _sockets()
        # Counted, because a loop may replace the pair that wakes it.
        more = len(sockets) - len(sockets_before)
        return [repr(task) for task in tasks] + [f"{more} of {sorted(sockets - sockets_before)}"] * (more > 0)

    await settled(left, "left behind")


def _sockets() -> set[str]:
    """The open sockets of this process."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server for all tests that neither freeze nor kill it."""
    if programs() is None:
        pytest.skip("there is no PostgreSQL server on this machine: install Debian's package postgresql")
    with postgres_running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/headrace.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()
