"""The supervisor at work: start, signals, a new configuration, the end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from pathlib import Path

from engines.launcher import LaunchError
from gateway.config import Config
from gateway.config.history import Entry
from gateway.config.watch import Watch
from gateway.process import control_socket
from gateway.process.banner import Console, shown_url
from gateway.process.beginning import Beginning
from gateway.process.control_socket import ControlSocket
from gateway.process.engine_set import Engines, in_thread, together
from gateway.process.forks import Nursery
from gateway.process.listener import CannotListen, bind
from gateway.process.live_config import CannotSwitch, LiveConfig
from gateway.process.machine import notify, reap_orphans, state_folder, usable_cores
from gateway.process.office import Office
from gateway.process.store import EmbeddedStore
from gateway.process.workers import Generation, Numbering, WorkerFailed

logger = logging.getLogger(__name__)

GRACE_S = 1.0
"""How long draining workers still accept, and how long idle connections get for one more request."""
_SIGNALLED = 128
"""Added to a signal's number: the exit status of what a signal ended at once."""
_CANNOT = (CannotListen, WorkerFailed, LaunchError, OSError)


class Supervisor:
    """Runs the gateway from start to end, once."""

    def __init__(self, beginning: Beginning, console: Console) -> None:
        self._live = live = LiveConfig(beginning, self._switch_or_say_why, console)
        self._watch = Watch(beginning.reader.file or Path(), beginning.text, beginning.reader.load_file)
        self._console = console
        self._engines = Engines(console, state_folder() / "engines")
        self._numbering = Numbering(live.config.telemetry.max_tenants, self._engines.memory, live.metrics)
        self._nursery = Nursery()
        self._store = EmbeddedStore(state_folder() / "store", console)
        self._control = ControlSocket(state_folder() / control_socket.NAME, live.answer)
        self._office = Office(state_folder(), console, self._numbering, live.answer)
        self._generation: Generation | None = None
        self._draining: dict[asyncio.Task[None], Generation] = {}
        self._stop_signal = 0
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._reload = asyncio.Event()
        self._on_terminal = sys.stderr.isatty()

    async def run(self) -> int:
        """Returns the exit status."""
        self._listen_to_signals()
        helpers = [asyncio.create_task(reap_orphans())] if os.getpid() == 1 else []
        try:
            status = await self._serve()
            if await _unless(self._stop_now, self._end(at_once=status != 0)):
                return status
            self._kill()
            return _SIGNALLED + self._stop_signal
        finally:
            for helper in helpers:
                helper.cancel()

    async def _serve(self) -> int:
        """From the start until somebody wants the end."""
        try:
            if not await _unless(self._stop, self._start()):
                return 0
        except _CANNOT as error:
            self._console.fail(f"cannot start: {error}")
            return 1
        changing = [
            asyncio.create_task(work) for work in (self._live.run(), self._reload_when_told(), self._keep_watch())
        ]
        await self._stop.wait()
        for task in changing:
            task.cancel()
        await asyncio.wait(changing)
        return 0

    # Start

    async def _start(self) -> None:
        config = self._live.config
        listener = bind(config.server.host, config.server.port)
        self._office.use(config, self._live.version)
        self._office.settle()
        effective, fresh = self._engines.prepare(await self._store.provide(config))
        self._generation = generation = self._new_generation(
            config, effective, listener, self._live.entry, engines_ready=not fresh
        )
        url = self._url(generation)
        self._console.overview(effective, url, generation.count)
        await together([generation.start(), self._engines.start(fresh, patient=True)])
        generation.engines_loaded()
        await self._live.begun()
        await self._control.open()
        self._console.examples(config, url)
        notify("READY=1")

    def _new_generation(
        self, config: Config, effective: Config, listener: socket.socket, entry: Entry, *, engines_ready: bool = True
    ) -> Generation:
        return Generation(
            config,
            effective,
            listener,
            config.server.workers or usable_cores(),
            self._console,
            self._numbering,
            self._nursery,
            engines_ready=engines_ready,
            version=str(entry.version),
            applied_at=entry.at,
            feed=self._office.feed_for(config),
        )

    def _url(self, generation: Generation) -> str:
        server = generation.config.server
        return shown_url(server.host, generation.listener.getsockname()[1], tls=server.tls is not None)

    # Signals

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._told_to_reload)

    def _told_to_stop(self, number: signal.Signals) -> None:
        self._stop_signal = number
        if self._stop.is_set():
            self._console.warn("told to stop again: ending at once")
            self._stop_now.set()
        self._stop.set()

    def _told_to_reload(self) -> None:
        if self._on_terminal and not sys.stderr.isatty():
            self._told_to_stop(signal.SIGHUP)  # the terminal was closed
        else:
            self._reload.set()

    # A new configuration

    async def _reload_when_told(self) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            self._engines.reopen_logs()
            assert self._generation is not None
            self._generation.reopen_logs()
            self._office.reopen_logs()
            if self._live.reader.file is None:
                self._console.tell("SIGHUP: log files are opened anew; there is no configuration file to read again")
            else:
                await self._live.reread(self._watch.knows)

    async def _keep_watch(self) -> None:
        """Have a change of the file take effect by itself."""
        watch, live = self._watch, self._live
        while live.reader.file is not None:
            await asyncio.sleep(watch.pause_s)
            if not live.config.server.watch_config:
                continue
            try:
                found = await in_thread(lambda: watch.look(time.monotonic()))
                if found is not None:
                    await live.changed(found)
            except Exception:
                logger.exception("%s could not be looked at; it is looked at again", live.reader.file)

    async def _switch_or_say_why(self, config: Config, entry: Entry) -> None:
        try:
            await self._switch(config, entry)
        except _CANNOT as error:
            raise CannotSwitch(str(error)) from None

    async def _switch(self, config: Config, entry: Entry) -> None:
        """New engines, then new workers, and only then an end of the old ones."""
        old = self._generation
        assert old is not None
        server = config.server
        before = old.config.server
        moves = (server.host, server.port) != (before.host, before.port)
        listener = bind(server.host, server.port) if moves else old.listener.dup()
        try:
            self._office.use(config, str(entry.version))
            effective, fresh = self._engines.prepare(await self._store.provide(config))
            new = self._new_generation(config, effective, listener, entry)
            await self._engines.start(fresh, patient=False)
            await new.start()
        except BaseException:
            listener.close()
            self._office.back()
            await self._engines.keep_only(self._wanted())
            raise
        self._office.settle()
        self._generation = new
        if moves:
            self._console.tell(f"gateway on {self._url(new)} with {new.count} workers")
        self._retire(old)

    def _retire(self, old: Generation) -> None:
        task = asyncio.create_task(self._drain_old(old))
        self._draining[task] = old
        task.add_done_callback(self._draining.pop)

    async def _drain_old(self, old: Generation) -> None:
        old.listener.close()
        await old.drain(old.config.server.drain_s, GRACE_S, replaced=True)
        await self._engines.keep_only(config for config in self._wanted() if config is not old.config)

    def _wanted(self) -> list[Config]:
        generations = [*self._draining.values(), *([self._generation] if self._generation else [])]
        return [generation.config for generation in generations]

    # End

    async def _end(self, *, at_once: bool) -> None:
        """Drain the workers, then stop the engines: streams end before what feeds them."""
        notify("STOPPING=1")
        await self._control.close()
        if at_once:
            self._kill()
        generation = self._generation
        if generation is not None:
            generation.listener.close()
            if not at_once:
                self._console.tell(f"stopping: answers in flight have {generation.config.server.drain_s:g} s to finish")
            await generation.drain(generation.config.server.drain_s, GRACE_S)
        if self._draining:
            await asyncio.wait(self._draining)
        await self._office.end()
        await self._nursery.aclose()
        await self._store.aclose()
        await self._engines.stop()
        if not at_once:
            self._console.tell("stopped")

    def _kill(self) -> None:
        for generation in [*self._draining.values(), *([self._generation] if self._generation else [])]:
            generation.kill()
        self._office.kill()
        self._store.kill()
        self._engines.kill()


async def _unless(event: asyncio.Event, work: Coroutine[None, None, None]) -> bool:
    """Do the work, or give it up when the event is set. Returns whether it was done."""
    working = asyncio.create_task(work)
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not working.done():
        working.cancel()
        await asyncio.wait((working,))
        return False
    working.result()
    return True
