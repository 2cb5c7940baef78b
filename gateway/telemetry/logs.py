"""The gateway's own messages through `logging`, in the access log's two formats, with secrets blanked out."""

from __future__ import annotations

import logging
import re
import sys
import time
from typing import Final, Literal, TextIO

import msgspec

from gateway.telemetry.redact import Redactor

Format = Literal["json", "pretty"]
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_COLOURS: Final = {logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "1;31"}


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """The JSON line of one message."""

    time: str
    """RFC 3339, UTC."""
    level: str
    logger: str
    message: str
    worker: int | None = None
    exception: str = ""


def set_up(
    how: Format,
    *,
    redactor: Redactor,
    level: int | str = logging.INFO,
    worker_id: int | None = None,
    stream: TextIO | None = None,
) -> logging.Handler:
    """Send every message of this process to `stream` (standard error), and nowhere else. Warnings become messages.

    Calling it again replaces what the last call set up. Returns the handler, for who wants to take it off again.
    """
    stream = stream or sys.stderr
    handler = _Handler(stream)
    if how == "json":
        handler.setFormatter(JsonFormatter(redactor, worker_id))
    else:
        handler.setFormatter(PrettyFormatter(redactor, worker_id, colour=stream.isatty()))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(True)
    return handler


class _Handler(logging.StreamHandler[TextIO]):
    """Of a type of its own, so that `set_up` knows what it may replace."""


class _Formatter(logging.Formatter):
    """Redacts the text of a message and its traceback, wherever in them a secret came from."""

    def __init__(self, redactor: Redactor, worker_id: int | None) -> None:
        super().__init__()
        self._redactor = redactor
        self._worker_id = worker_id

    def _message(self, record: logging.LogRecord) -> Message:
        exception = self.formatException(record.exc_info) if record.exc_info else ""
        if record.stack_info:
            exception = f"{exception}\n{record.stack_info}".strip()
        seconds, millis = divmod(int(record.created * 1e3), 1_000)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        return Message(
            f"{stamp}.{millis:03d}Z",
            record.levelname.lower(),
            record.name,
            self._redactor.text(record.getMessage()),
            self._worker_id,
            self._redactor.text(exception),
        )


class JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return msgspec.json.encode(self._message(record)).decode()


class PrettyFormatter(_Formatter):
    def __init__(self, redactor: Redactor, worker_id: int | None, *, colour: bool) -> None:
        super().__init__(redactor, worker_id)
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        message = self._message(record)
        level = f"{message.level:<8}"
        colour = _COLOURS.get(record.levelno)
        if self._colour and colour:
            level = f"\x1b[{colour}m{level}\x1b[0m"
        worker = f"worker {message.worker}  " if message.worker is not None else ""
        text = f"{message.message}\n{message.exception}" if message.exception else message.message
        # What a client sent may stand in a message: it must neither drive the terminal nor look like a line of ours.
        text = _CONTROL.sub("?", text).replace("\n", "\n    ")
        return f"{message.time[11:23]}  {level}  {worker}{text}  [{message.logger}]"
