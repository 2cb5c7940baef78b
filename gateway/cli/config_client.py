"""How `headrace config` reaches a running gateway: by its control socket, or by an admin API."""

from __future__ import annotations

import json
import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec
import typer

from gateway.cli.health import loopback_tls
from gateway.config.dump import Difference
from gateway.config.live import (
    Answer,
    Failed,
    History,
    Outcome,
    Past,
    Propose,
    Question,
    Rollback,
    Show,
    ShowHistory,
    Shown,
    ShowText,
)
from gateway.process.control_socket import NAME, NobodyThere, ask_now
from gateway.process.machine import state_folder

TIMEOUT_S = 120.0
"""A configuration may start engines before it serves."""


_NOT_OURS = "what answers there is no admin API of Headrace"


class Unanswered(Exception):
    """The gateway cannot be asked, or does not let us; the message says why."""


class Client(Protocol):
    def ask(self, question: Question) -> Answer:
        """Raises Unanswered: there is nobody to ask."""
        ...


class SocketClient:
    """Asks the gateway of this machine."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or state_folder() / NAME

    def ask(self, question: Question) -> Answer:
        try:
            return ask_now(self._path, question, TIMEOUT_S)
        except NobodyThere as error:
            raise Unanswered(str(error)) from None


class AdminClient:
    """Asks the gateway whose admin API is at `url`."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise typer.BadParameter(f"{url!r} is not of the form http://HOST:PORT")
        self._parts = parts
        self._shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._headers = {"user-agent": "headrace-config", "connection": "close", "content-type": "application/json"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"

    def ask(self, question: Question) -> Answer:
        try:
            return self._answer(question)
        except (msgspec.ValidationError, KeyError, TypeError):
            raise Unanswered(f"{self._shown}: {_NOT_OURS}") from None

    def _answer(self, question: Question) -> Answer:
        match question:
            case Show():
                return msgspec.convert(self._call("GET", "/config"), Shown)
            case ShowHistory():
                found = self._call("GET", "/config/history")
                return History(running=found["running"], past=msgspec.convert(found["past"], list[Past]))
            case Propose():
                asked = {"text": question.text, "name": question.name}
                return self._change("/config", asked, question)
            case Rollback():
                wanted = {} if question.number is None else {"number": question.number}
                return self._change("/config/rollback", wanted, question)
            case ShowText():
                return Failed(message="the text of a configuration leaves the machine by no API")

    def _change(self, path: str, asked: dict[str, Any], question: Propose | Rollback) -> Outcome:
        body = {**asked, "dry_run": question.dry_run, "expected": question.expected}
        try:
            found = self._call("POST", path, json.dumps(body).encode())
        except _Refused as error:
            return Outcome(status=error.status, version="", problems=error.lines)
        return Outcome(
            status=found["status"],
            version=found["version"],
            differences=msgspec.convert(found["differences"], list[Difference]),
            problems=found["warnings"],
        )

    def _call(self, method: str, path: str, body: bytes | None = None) -> Any:
        shown = f"{self._shown}{self._parts.path.rstrip('/')}{path}"
        try:
            status, answer = self._send(method, f"{self._parts.path.rstrip('/')}{path}", body)
            found = json.loads(answer)
        except TimeoutError:
            raise Unanswered(f"{shown}: no answer within {TIMEOUT_S:g} s") from None
        except (OSError, HTTPException) as error:
            raise Unanswered(f"{shown}: {getattr(error, 'strerror', None) or str(error)}") from None
        except ValueError:
            raise Unanswered(f"{shown}: {_NOT_OURS}") from None
        if status == 200:
            return found
        detail = found.get("error", {}) if isinstance(found, dict) else {}
        message = str(detail.get("message", status))
        if detail.get("code") == "config_refused":
            raise _Refused("refused", message.splitlines()[1:] or [message])
        if status == 409:
            raise _Refused("conflict", [message])
        hint = "; the key is taken from HEADRACE_ADMIN_KEY" if status == 401 else ""
        raise Unanswered(f"{shown}: {status} {message}{hint}")

    def _send(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        host, port = self._parts.hostname or "", self._parts.port
        connection: HTTPConnection
        if self._parts.scheme == "https":
            context: ssl.SSLContext | None = loopback_tls(host)
            connection = HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
        else:
            connection = HTTPConnection(host, port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, body=body, headers=self._headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


class _Refused(Exception):
    def __init__(self, status: Any, lines: list[str]) -> None:
        self.status = status
        self.lines = lines
        super().__init__("\n".join(lines))
