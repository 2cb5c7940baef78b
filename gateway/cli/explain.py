"""`headrace explain`: where a request would go, and why not elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
import typer

from gateway.cli.health import loopback_tls
from gateway.cli.output import refuse, say
from gateway.explanation import Explanation

if TYPE_CHECKING:
    from gateway.config import Config

PATH = "/admin/explain"
_OPERATIONS = ("chat", "completions", "embeddings")
_SHOWN_CHARS = 200


class Unexplained(Exception):
    """The message says why."""


def explain(
    request: Path = typer.Argument(help="The body of a model call, as JSON; `-` reads it from standard input."),
    live: bool = typer.Option(False, "--live", help="Ask the running gateway, which knows how its replicas are."),
    config: Path = typer.Option(
        Path("headrace.yaml"), "--config", "-c", envvar="HEADRACE_CONFIG", help="Without --live: the configuration."
    ),
    url: str = typer.Option("http://127.0.0.1:8080", envvar="HEADRACE_URL", help="With --live: the gateway."),
    key: str = typer.Option(
        "", envvar="HEADRACE_KEY", help="The key that it is sent with; for --live it has to have `admin: true`."
    ),
    header: list[str] = typer.Option([], help="A header of the call: `x-session-id=alice`. May be given again."),
    operation: str = typer.Option(
        "", help=f"What is asked: {', '.join(_OPERATIONS)}; if not given, the fields of the body tell."
    ),
    timeout: float = typer.Option(5.0, min=0.01, help="Seconds to wait for the gateway."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object, as POST /admin/explain answers."),
) -> None:
    """Explain how a model call would be routed: how it is read, every replica with the terms of its cost, and vetoes.

    With --live one worker of the running gateway answers from its books, and changes none of them. Without it there
    are only the configuration and empty books: no replica is busy, none has failed, no speed is known.
    No engine is asked. Exit status 1: the call would be refused, or there is nobody to ask.
    """
    if operation and operation not in _OPERATIONS:
        raise typer.BadParameter(f"{operation!r} is none of {', '.join(_OPERATIONS)}", param_hint="--operation")
    headers = dict(_header(one) for one in header)
    if key:
        headers["authorization"] = f"Bearer {key}"
    try:
        body = _body(request)
        told = ask(url, body, headers, operation, timeout) if live else _cold(config, body, headers, operation)
    except Unexplained as error:
        say(f"{error}")
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())
        return
    from gateway.cli.explain_output import show

    show(told)


def ask(url: str, body: bytes, headers: dict[str, str], operation: str, timeout_s: float) -> Explanation:
    """What the gateway says.

    Raises:
        Unexplained: it cannot be reached, or refuses.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise typer.BadParameter(f"{url!r} is not of the form http://HOST:PORT")
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{PATH}"
    lines = {"content-type": "application/json", **headers, "user-agent": "headrace-explain", "connection": "close"}
    connection: HTTPConnection
    if parts.scheme == "https":
        tls = loopback_tls(parts.hostname)
        connection = HTTPSConnection(parts.hostname, parts.port, timeout=timeout_s, context=tls)
    else:
        connection = HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    query = f"?operation={operation}" if operation else ""
    try:
        connection.request("POST", f"{parts.path.rstrip('/')}{PATH}{query}", body, lines)
        response = connection.getresponse()
        answer = response.read()
    except TimeoutError:
        raise Unexplained(f"{shown}: no answer within {timeout_s:g} s; --timeout changes that") from None
    except (OSError, HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Unexplained(f"{shown}: {why}") from None
    finally:
        connection.close()
    if response.status != 200:
        raise Unexplained(f"{shown}: {response.status} {_reason(answer)}")
    try:
        return msgspec.json.decode(answer, type=Explanation)
    except msgspec.DecodeError:
        raise Unexplained(f"{shown}: what answers there is no Headrace of this version") from None


def _cold(file: Path, body: bytes, headers: dict[str, str], operation: str) -> Explanation:
    from gateway.config.load import load_config
    from gateway.config.problems import ConfigError

    try:
        config = load_config(file)
    except ConfigError as error:
        refuse(error)
    return explain_cold(config, body, headers, operation)


def explain_cold(config: Config, body: bytes, headers: dict[str, str], operation: str) -> Explanation:
    """From the configuration alone.

    Raises:
        Unexplained: the call would be refused.
    """
    from engines.base import Operation
    from gateway.cold import explainer
    from gateway.errors import ApiError
    from gateway.http import Request
    from gateway.identity import ANYBODY, KeyRing
    from gateway.wire import operation_of

    raw = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
    message = Request(b"POST", b"", PATH, dict(raw), raw, body, "")
    try:
        caller = KeyRing(config.auth).identify(message.headers) if b"authorization" in message.headers else ANYBODY
        asked = Operation[operation.upper()] if operation else operation_of(body)
        with explainer(config) as cold:
            return asyncio.run(cold.explain(asked, message, caller))
    except ApiError as error:
        raise Unexplained(f"it would be refused: {error.status} {error.message}") from None


def _header(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    name = name.strip().lower()
    if not equals or not name or not name.isascii() or not value.isprintable():
        raise typer.BadParameter(f"{given!r} is not of the form NAME=VALUE", param_hint="--header")
    return name, value.strip()


def _body(request: Path) -> bytes:
    if str(request) == "-":
        return sys.stdin.buffer.read()
    try:
        return request.read_bytes()
    except OSError as error:
        raise Unexplained(f"{request}: {error.strerror}") from None


def _reason(body: bytes) -> str:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(body)["error"]["message"])
    return " ".join(body.decode("utf-8", "replace").split())[:_SHOWN_CHARS]
