"""The process behind `headrace serve`: it owns the listening socket, the workers and the engines, and serves nothing.

So what it owns outlives what it watches: a worker that dies takes its own streams with it and nothing else, and a new
configuration is a new set of workers on the same socket.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from gateway.config import Config
from gateway.config.problems import KeyPath
from gateway.config.secrets import secrets_of
from gateway.process.banner import Console


def run(config: Config, source: Path | None, overrides: Mapping[KeyPath, object] | None = None) -> int:
    """Serve until told to stop. Returns the exit status: 0 stopped when told to, 1 could not start.

    source:    the file to read again on SIGHUP, if there is one.
    overrides: what the command line replaces in that file.
    """
    console = Console.suiting(config)
    _log_to_stderr(console, config)
    console.hello()
    reread = _reader(source, overrides or {}) if source else None
    # Only now: a person sees something at once, and the rest takes its time.
    from gateway.process.supervision import Supervisor

    return asyncio.run(Supervisor(config, reread, console).run())


def _log_to_stderr(console: Console, config: Config) -> None:
    from gateway.telemetry import Redactor
    from gateway.telemetry.logs import set_up

    set_up(console.how, redactor=Redactor(secrets_of(config)))
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every probe


def _reader(source: Path, overrides: Mapping[KeyPath, object]) -> Callable[[], Config]:
    def reread() -> Config:
        from gateway.config.load import load_config, override

        return override(load_config(source), overrides)

    return reread
