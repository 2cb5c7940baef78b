"""Keeps what was said in some calls, for those who may read it later. Off unless `content_log` is set."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import queue
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from gateway.clock import wall_time_s
from gateway.config import Config
from gateway.config.content_options import ContentLog as Options
from gateway.directory.entries import OrganisationEntry
from gateway.http import Sink
from gateway.http.recorder import Recorder
from gateway.record import Record
from gateway.residency import Clearance
from gateway.telemetry import Telemetry, series
from gateway.usage.sealed import Seal, file_of, find, framed, key_of, prune
from gateway.usage.segments import make_folder
from gateway.usage.transcript import Redact, answer_of, prompt_of, redactor

logger = logging.getLogger(__name__)

MAX_BYTES: Final = 1024 * 1024
"""Of a prompt, and of an answer; of a longer one, nothing, and what comes before."""
MAX_WAITING: Final = 64
"""Calls that wait for the disk; more are dropped and counted."""
PRUNE_S: Final = 3600.0
CLOSE_S: Final = 5.0

Organisation = Callable[[str], OrganisationEntry | None]


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is sealed, as JSON. truncated: something was longer than `MAX_BYTES`."""

    request_id: str
    at: float
    tenant: str
    team: str
    key: str
    deployment: str
    status: int
    error: str
    prompt: object
    answer: object
    truncated: bool = False


class Tap(Recorder):
    """Passes an answer on, and keeps a copy of its beginning."""

    def __init__(self, sink: Sink, prompt: bytes) -> None:
        super().__init__(sink)
        self.prompt = prompt
        self.room_bytes = MAX_BYTES

    def write(self, payload: bytes, framed: bytes | None = None) -> None:
        self.room_bytes -= len(payload)
        if self.room_bytes >= 0:
            super().write(payload, framed)
        else:
            self._sink.write(payload, framed)


class ContentLog:
    """Of one worker. Its thread puts together, redacts, seals and writes.

    organisation: what the directory has by a name.

    Raises:
        OSError: the folder cannot be made. ImportError: the extra is not installed.
    """

    def __init__(self, options: Options, config: Config, rng: random.Random, organisation: Organisation) -> None:
        self._folder = Path(options.path).expanduser().absolute()
        make_folder(self._folder)
        self._seal = seal_of(options)
        self._days = options.retention_days
        self._redact: Redact = redactor(options.redact)
        self._shares = {
            name: tenant.log_content
            for name, tenant in config.tenants.items()
            if "log_content" in tenant.model_fields_set
        }
        self._organisation = organisation
        self._rng = rng
        self._writer = secrets.token_hex(4)
        self.kept = 0
        self.dropped = 0
        self._waiting: queue.Queue[tuple[Record, Tap, float] | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="headrace-content", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<ContentLog kept={self.kept} dropped={self.dropped}>"

    def share(self, tenant: str) -> float:
        """Of its calls that are kept. Where the configuration and the database both say, the lower one."""
        entry = self._organisation(tenant)
        said = [
            *([entry.log_content] if entry is not None else []),
            *([self._shares[tenant]] if tenant in self._shares else []),
        ]
        return min(said, default=0.0)

    def tap(self, tenant: str, clearance: Clearance, prompt: bytes, sink: Sink) -> Tap | None:
        """Where the answer is to go if this call is kept. One of a class that residency confines never is."""
        if clearance.is_confined:
            return None
        share = self.share(tenant)
        if not share or self._rng.random() >= share:
            return None
        return Tap(sink, prompt)

    def append(self, record: Record) -> None:
        """Keep a call that is over, if it was tapped. Never blocks."""
        if not isinstance(record.content, Tap):
            return
        try:
            self._waiting.put_nowait((record, record.content, wall_time_s()))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what waits. Blocks for at most `CLOSE_S` seconds."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=CLOSE_S)
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        pruned_s = -PRUNE_S
        while True:
            if time.monotonic() - pruned_s >= PRUNE_S:
                pruned_s = time.monotonic()
                with contextlib.suppress(OSError):
                    prune(self._folder, _day(wall_time_s()), self._days)
            try:
                found = self._waiting.get(timeout=PRUNE_S)
            except queue.Empty:
                continue
            if found is None:
                return
            self._keep(*found)

    def _keep(self, record: Record, tap: Tap, at: float) -> None:
        try:
            data = framed(self._seal.close(record.request_id, self._content(record, tap, at)))
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            fd = os.open(file_of(self._folder, _day(at), self._writer), flags, 0o600)
            try:
                _append(fd, data)
            finally:
                os.close(fd)
        except Exception as error:
            self.dropped += 1
            # Not the exception itself: it may hold what was said.
            logger.error("the content of request %s cannot be kept: %s", record.request_id, type(error).__name__)
        else:
            self.kept += 1

    def _content(self, record: Record, tap: Tap, at: float) -> bytes:
        fits = len(tap.prompt) <= MAX_BYTES
        return msgspec.json.encode(
            Kept(
                record.request_id,
                at,
                record.tenant,
                record.team,
                record.key_name,
                record.deployment,
                record.status,
                record.error_type,
                prompt_of(tap.prompt, self._redact) if fits else None,
                answer_of(tap.body(), self._redact, stream=record.stream),
                truncated=not fits or tap.room_bytes < 0,
            )
        )


def seal_of(options: Options) -> Seal:
    """
    Raises:
        ImportError: the extra is not installed.
    """
    return Seal([key_of(secret.get_secret_value()) for secret in (options.key, *options.old_keys)])


def read(options: Options, request_id: str) -> Iterator[bytes]:
    """What is kept of a request, as JSON.

    Raises:
        Unreadable: the keys do not fit. ImportError: the extra is not installed.
    """
    seal = seal_of(options)
    for entry in find(Path(options.path).expanduser().absolute(), request_id):
        yield seal.open(entry)


def open_content_log(config: Config, rng: random.Random, organisation: Organisation) -> ContentLog | None:
    """None: it is off."""
    return None if config.content_log is None else ContentLog(config.content_log, config, rng, organisation)


def watch_content(telemetry: Telemetry, log: ContentLog) -> None:
    telemetry.watch(series.CONTENT_LOG.name, lambda: [(("kept",), float(log.kept)), (("dropped",), float(log.dropped))])


def _append(fd: int, data: bytes) -> None:
    """All of it or nothing: what comes later could not be read after a half."""
    before = os.fstat(fd).st_size
    try:
        if os.write(fd, data) < len(data):
            raise OSError("the disk is full")
    except OSError:
        os.ftruncate(fd, before)
        raise


def _day(at: float) -> datetime.date:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).date()
