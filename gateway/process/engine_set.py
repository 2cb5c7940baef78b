"""The engines that the gateway runs: where each is, how its readiness is told, and that none is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from engines.commands import free_port
from engines.guard import Guard
from engines.launcher import Change, LaunchError, ProcessLauncher, State
from engines.memory import resident_bytes
from gateway.config import Config
from gateway.process.banner import Console
from gateway.process.engine_plan import Plan, plans_of
from gateway.telemetry import Snapshot
from gateway.telemetry.series import ENGINE_MEMORY

T = TypeVar("T")

SHOWN_LINES = 8
_LOG_BYTES = 16 * 1024 * 1024
_LOOPBACK = "127.0.0.1"


class Engine:
    """A plan that was given a port, and the process that carries it out."""

    def __init__(self, plan: Plan, console: Console, log: EngineLog) -> None:
        self.plan = plan
        self.port = free_port(_LOOPBACK)
        self.url = f"http://{_LOOPBACK}:{self.port}"
        self._console = console
        self._log = log
        self._began_s = 0.0
        self._faltered = asyncio.Event()
        self._launcher: ProcessLauncher | None = None

    def __repr__(self) -> str:
        return f"<Engine {self.plan.name} {self.url} {self._launcher!r}>"

    async def start(self, guard: Guard, *, patient: bool) -> None:
        """Fetch the model if need be, start the process, and return when it serves.

        patient: if it ends before, it is started again, for as long as it takes.

        Raises:
            LaunchError: it cannot be started, or its model cannot be had.
        """
        model = self.plan.model
        model_file = await in_thread(lambda: _pulled(model)) if self.plan.kind == "llamacpp" else None
        spec = self.plan.spec(self.port, model_file)
        spec = replace(spec, env={**spec.env, **guard.environment})
        self._launcher = ProcessLauncher(spec, on_change=self._changed, on_line=self._log.write)
        self._launcher.start()
        serving = asyncio.create_task(self._launcher.wait_ready())
        faltering = asyncio.create_task(self._faltered.wait())
        try:
            await asyncio.wait((serving,) if patient else (serving, faltering), return_when=asyncio.FIRST_COMPLETED)
        finally:
            serving.cancel()
            faltering.cancel()
        if not serving.done():
            raise LaunchError(f"{self.plan.name}: ended before it was ready")
        serving.result()

    @property
    def pid(self) -> int | None:
        return self._launcher.pid if self._launcher is not None else None

    async def stop(self) -> None:
        if self._launcher is not None:
            await self._launcher.stop()
        self._log.close()

    def kill(self) -> None:
        if self._launcher is not None:
            self._launcher.kill()

    def reopen_log(self) -> None:
        self._log.open()

    def _changed(self, change: Change) -> None:
        if change.new is State.STARTING:
            self._began_s = time.monotonic()
            self._console.engine_loads(change.name, self.plan.what)
        elif change.new is State.READY:
            self._console.engine_ready(change.name, time.monotonic() - self._began_s, change.pid)
        elif change.new in (State.BACKING_OFF, State.FAILED):
            self._faltered.set()
            self._console.engine_ended(change.name, _sentence(change), self._last_lines(), self._log.path)

    def _last_lines(self) -> list[str]:
        return [line for line in (self._launcher.lines if self._launcher else ()) if line.strip()][-SHOWN_LINES:]


def _sentence(change: Change) -> str:
    if change.new is State.FAILED:
        return f"{change.reason}; starting it again cannot help"
    often = f" ({change.failures} times in a row)" if change.crash_loop else ""
    return f"{change.reason}{often}; it is started again in {change.retry_in_s or 0.0:.1f} s"


def _pulled(model: str) -> Path:
    from engines.models import ModelError, pull, resolve
    from gateway.cli.progress import fetch_progress

    try:
        present = resolve(model)
        if present is not None:
            return present
        with fetch_progress() as progress:
            return pull(model, progress=progress)
    except ModelError as error:
        raise LaunchError(f"the model {model} cannot be had: {error}") from None


class Engines:
    """The engines that run, by plan."""

    def __init__(self, console: Console, log_folder: Path | None) -> None:
        self._console = console
        self._log_folder = log_folder
        self._engines: dict[Plan, Engine] = {}
        self._guard: Guard | None = None

    def prepare(self, config: Config) -> tuple[Config, list[Engine]]:
        """`config` with a URL for each engine that it wants run, and those of them that do not run yet."""
        wanted = plans_of(config)
        fresh = {plan: self._make(plan) for plan in wanted if plan not in self._engines}
        known = {**self._engines, **fresh}
        pools = dict(config.pools)
        for plan in wanted:
            pool = pools[plan.pool]
            found = {"file": str(plan.urls_file)} if plan.ray is not None else {"urls": [*pool.urls, known[plan].url]}
            pools[plan.pool] = pool.model_copy(update=found)
        return config.model_copy(update={"pools": pools}), list(fresh.values())

    async def start(self, engines: Iterable[Engine], *, patient: bool) -> None:
        """Start engines together; returns when all serve. They are kept running from now on.

        patient: an engine that ends before it serves is started again, for as long as it takes.

        Raises:
            LaunchError: the first that cannot be started.
        """
        fresh = list(engines)
        self._engines.update((engine.plan, engine) for engine in fresh)
        if not fresh:
            return
        guard = self._guard = self._guard or await Guard.start()
        await together(engine.start(guard, patient=patient) for engine in fresh)

    async def memory(self) -> bytes:
        """A snapshot for `merge`: what each engine that runs holds now."""
        pids = [(engine.plan, engine.pid) for engine in self._engines.values()]
        running = [(plan, pid) for plan, pid in pids if pid is not None]
        held = await in_thread(lambda: [resident_bytes(pid) for _, pid in running]) if running else []
        rows: list[tuple[tuple[str, ...], list[float]]] = [
            ((plan.pool, plan.name), [float(size)]) for (plan, _), size in zip(running, held, strict=True)
        ]
        return msgspec.msgpack.encode(Snapshot({ENGINE_MEMORY.name: rows} if rows else {}))

    async def keep_only(self, configs: Iterable[Config]) -> None:
        """Stop what none of these wants."""
        wanted = {plan for config in configs for plan in plans_of(config)}
        gone = [self._engines.pop(plan) for plan in list(self._engines) if plan not in wanted]
        await together(engine.stop() for engine in gone)

    async def stop(self) -> None:
        await together(engine.stop() for engine in self._engines.values())
        self._engines.clear()
        if self._guard is not None:
            guard, self._guard = self._guard, None
            await guard.end()

    def kill(self) -> None:
        for engine in self._engines.values():
            engine.kill()

    def reopen_logs(self) -> None:
        for engine in self._engines.values():
            engine.reopen_log()

    def _make(self, plan: Plan) -> Engine:
        path = self._log_folder / f"{plan.name.replace('/', '-')}.log" if self._log_folder else None
        return Engine(plan, self._console, EngineLog(path))


class EngineLog:
    """What one engine writes, kept in a file; what the file held before is moved to `*.1` once it is large."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._file: IO[str] | None = None
        self.open()

    def open(self) -> None:
        self.close()
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and self.path.stat().st_size > _LOG_BYTES:
                self.path.rename(self.path.with_name(f"{self.path.name}.1"))
            self._file = self.path.open("a", encoding="utf-8", errors="replace", buffering=1)
        except OSError:
            self.path = None  # a read-only home is no reason not to serve

    def write(self, name: str, line: str) -> None:
        if self._file is not None:
            try:
                self._file.write(f"{line}\n")
            except OSError:
                self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


async def together(steps: Iterable[Coroutine[None, None, None]]) -> None:
    """Await all; the first error ends the rest and is raised as it is."""
    tasks = [asyncio.create_task(step) for step in steps]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def in_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a thread that the process's end does not wait for."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type]

    def body() -> None:
        try:
            value = work()
        except BaseException as error:
            outcome: tuple[T | None, BaseException | None] = (None, error)
        else:
            outcome = (value, None)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=body, name="headrace-fetch", daemon=True).start()
    return await result
