"""The process behind `headrace serve`: it owns the listening socket, the workers and the engines, and serves nothing.

So what it owns outlives what it watches: a worker that dies takes its own streams with it and nothing else, and a new
configuration is a new set of workers on the same socket.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

from gateway.config import Config
from gateway.config.problems import KeyPath
from gateway.config.secrets import secrets_of
from gateway.process.banner import Console
from gateway.process.machine import state_folder


def run(config: Config, source: Path | None, overrides: Mapping[KeyPath, object] | None = None) -> int:
    """Serve until told to stop. Returns the exit status: 0 stopped when told to, 1 could not start.

    source:    the file that `config` is from, if there is one, to be read again when it changes.
    overrides: what the command line replaces in that file.
    """
    console = Console.suiting(config)
    _log_to_stderr(console, config)
    console.hello()
    # Only now: a person sees something at once, and the rest takes its time.
    from gateway.process.beginning import Beginning, Reader
    from gateway.process.supervision import Supervisor

    beginning = Beginning.of(config, Reader(source, overrides or {}), state_folder() / "config-history")
    return asyncio.run(Supervisor(beginning, console).run())


def _log_to_stderr(console: Console, config: Config) -> None:
    from gateway.telemetry import Redactor
    from gateway.telemetry.logs import set_up

    set_up(console.how, redactor=Redactor(secrets_of(config)))
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every probe
