"""`headrace health`: whether a gateway or an engine serves, for containers' health checks and for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn
from urllib.parse import SplitResult, urlsplit

import typer

from gateway.cli.output import say

if TYPE_CHECKING:
    import ssl

_READY = "/health/ready"
_SHOWN_CHARS = 200


def health(
    url: str = typer.Argument(
        "http://127.0.0.1:8080",
        envvar="HEADRACE_HEALTH_URL",
        help=f"Of a gateway or an engine. Without a path it is {_READY}, which engines do not have: give theirs.",
    ),
    timeout: float = typer.Option(5.0, min=0.01, help="Seconds to wait for the connection, and for the answer."),
) -> None:
    """Ask a gateway or an engine whether it is ready, and print what it says.

    A loopback address may show any certificate: those of a gateway name the host that its callers know.
    Exit status 0: it answered with 2xx; 1: it did not.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise typer.BadParameter(f"{url!r} is not of the form http://HOST:PORT")
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    if target in ("", "/"):
        target = _READY
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{target}"
    try:
        status, text = _get(parts, target, timeout)
    except TimeoutError:
        _fail(f"{shown}: no answer within {timeout:g} s; --timeout changes that")
    except (OSError, ValueError) as error:
        _fail(f"{shown}: {getattr(error, 'strerror', None) or str(error) or type(error).__name__}")
    if not 200 <= status < 300:
        _fail(f"{shown}: {status} {text}".rstrip())
    typer.echo(f"{shown}: {text or status}")


def _get(parts: SplitResult, target: str, timeout_s: float) -> tuple[int, str]:
    """Status, and the beginning of the body in one line. Asks no proxy and follows no redirection.

    Raises:
        OSError: it cannot be reached, or not in time.
        ValueError: what answers does not speak HTTP, or there is no such port.
    """
    from http.client import HTTPConnection, HTTPException, HTTPSConnection

    assert parts.hostname is not None
    if parts.scheme == "https":
        tls = loopback_tls(parts.hostname)
        connection: HTTPConnection = HTTPSConnection(parts.hostname, parts.port, timeout=timeout_s, context=tls)
    else:
        connection = HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    try:
        connection.request("GET", target, headers={"user-agent": "headrace-health", "connection": "close"})
        response = connection.getresponse()
        body = response.read(_SHOWN_CHARS * 4)
    except HTTPException as error:
        raise ValueError(f"no HTTP answer ({type(error).__name__})") from None
    finally:
        connection.close()
    return response.status, " ".join(body.decode("utf-8", "replace").split())[:_SHOWN_CHARS]


def loopback_tls(host: str) -> ssl.SSLContext:
    """The system's trust; a loopback address may show any certificate."""
    import ssl

    from gateway.config.sites import is_loopback

    context = ssl.create_default_context()
    if is_loopback(host):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _fail(message: str) -> NoReturn:
    say(message)
    raise typer.Exit(1)
