"""A running gateway, asked over HTTP with a key with `admin: true`."""

from __future__ import annotations

import contextlib
import json
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

import typer

from gateway.cli.health import loopback_tls

_SHOWN_CHARS = 200


class Unanswered(Exception):
    """The gateway cannot be asked, or refuses; the message says why."""


def ask_running(
    url: str, key: str, timeout_s: float, path: str, body: bytes | None = None, *, agent: str = "headrace"
) -> bytes:
    """What the gateway at `url` answers: to a GET, or to a POST of `body`.

    Raises:
        Unanswered: it cannot be reached, or refuses.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise typer.BadParameter(f"{url!r} is not of the form http://HOST:PORT")
    shown = f"{without_login(url)}{path}"
    headers = {"user-agent": agent, "connection": "close"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    if body is not None:
        headers["content-type"] = "application/json"
    connection: HTTPConnection
    if parts.scheme == "https":
        connection = HTTPSConnection(
            parts.hostname, parts.port, timeout=timeout_s, context=loopback_tls(parts.hostname)
        )
    else:
        connection = HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    try:
        method = "GET" if body is None else "POST"
        connection.request(method, f"{parts.path.rstrip('/')}{path}", body, headers)
        response = connection.getresponse()
        answer = response.read()
    except TimeoutError:
        raise Unanswered(f"{shown}: no answer within {timeout_s:g} s; --timeout changes that") from None
    except (OSError, HTTPException) as error:
        raise Unanswered(f"{shown}: {getattr(error, 'strerror', None) or str(error) or type(error).__name__}") from None
    finally:
        connection.close()
    if response.status != 200:
        raise Unanswered(f"{shown}: {response.status} {_reason(answer)}")
    return answer


def without_login(url: str) -> str:
    """Scheme, host and port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _reason(body: bytes) -> str:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(body)["error"]["message"])
    return " ".join(body.decode("utf-8", "replace").split())[:_SHOWN_CHARS]
