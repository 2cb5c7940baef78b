"""Finds out what a server is and can do, by asking it: `headrace engines probe`."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from .abilities import Ability, Asking, said
from .identify import ModelCard, Seen, identify, models_in
from .kinds import SERVERS

if TYPE_CHECKING:
    import httpx

PATHS = (
    "/v1/models",
    "/health",
    "/version",
    "/metrics",
    "/props",
    "/get_server_info",
    "/info",
    "/api/version",
    "/v2",
    "/fake/stats",
    "/openapi.json",
)
_MAX_BYTES = 1024 * 1024


class ProbeError(Exception):
    """Nothing can be said of the server: it cannot be reached, or does not let the probe in."""


class Report(msgspec.Struct, frozen=True):
    """`server`: a name of `engines.kinds.SERVERS`. `evidence`: what it was recognized by."""

    url: str
    server: str
    title: str
    kind: str
    version: str
    evidence: list[str]
    models: list[ModelCard]
    abilities: dict[str, Ability]
    tested: str

    @property
    def unknown(self) -> list[str]:
        """What could not be told."""
        missing = [name for name, value in (("version", self.version), ("models", self.models)) if not value]
        if self.models and not any(model.context_tokens for model in self.models):
            missing.append("context length")
        return missing + [name for name, ability in self.abilities.items() if ability.able is None]


async def probe(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    ca_file: str | None = None,
    model: str | None = None,
    generate: bool = True,
    timeout_s: float = 60.0,
) -> Report:
    """Ask the server at `url`, which is what comes before `/v1`.

    model: to ask for; None: the first that the server lists. generate: send requests that cost some tokens.
    timeout_s: for each request.

    Raises:
        ProbeError: it cannot be reached, or wants a key.
    """
    import httpx  # several megabytes, of use only to who probes

    verify = ssl.create_default_context(cafile=ca_file)
    async with httpx.AsyncClient(
        base_url=url, headers=dict(headers or {}), trust_env=False, timeout=timeout_s, verify=verify
    ) as client:
        seen = await _look(client, url)
        _let_in(seen["/v1/models"], url, keyed=bool(headers))
        identity = identify(seen)
        models = models_in(seen, identity) or ([ModelCard(model)] if model else [])
        chosen = model or (models[0].id if models else None)
        asking = Asking(client, chosen) if generate and chosen is not None else None
        abilities = await asking.abilities() if asking is not None else {}
        known = SERVERS[identity.server]
        return Report(
            url,
            identity.server,
            known.title,
            known.kind,
            identity.version,
            list(identity.evidence),
            models,
            abilities,
            known.tested,
        )


async def _look(client: httpx.AsyncClient, url: str) -> dict[str, Seen]:
    first = await _get(client, PATHS[0], url)
    rest = await asyncio.gather(*(_get(client, path, url) for path in PATHS[1:]), return_exceptions=True)
    seen = {path: one for path, one in zip(PATHS[1:], rest, strict=True) if isinstance(one, Seen)}
    return {PATHS[0]: first, **seen}


async def _get(client: httpx.AsyncClient, path: str, url: str) -> Seen:
    """Raises ProbeError where there is no answer at all."""
    import httpx

    try:
        async with client.stream("GET", path) as response:
            body = b""
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > _MAX_BYTES:
                    break
            return Seen(response.status_code, dict(response.headers), body)
    except httpx.TimeoutException:
        limit_s = client.timeout.read
        raise ProbeError(f"{url}{path}: no answer within {limit_s:g} s; --timeout changes that") from None
    except (httpx.HTTPError, ssl.SSLError) as error:
        raise ProbeError(_trouble(url, error)) from None


def _trouble(url: str, error: BaseException) -> str:
    kind, text = type(error).__name__, _root_text(error)
    folded = text.lower()
    if "certificate" in folded:
        return f"{url}: its certificate is not trusted ({text}); --ca-file names the PEM bundle that it is signed by"
    if "ssl" in folded or "record layer" in folded:
        return f"{url}: it does not speak TLS ({text}); is it http://?"
    if "connect" in kind.lower():
        return f"{url}: no connection ({text}); does the server run, and does it listen on this address?"
    return f"{url}: no HTTP answer ({text}); if it serves HTTPS, the URL begins with https://"


def _root_text(error: BaseException) -> str:
    """What the system said, below what the libraries made of it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionError) and cause.errno:
            return os.strerror(cause.errno)  # asyncio says `Connect call failed` in its place
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__


def _let_in(answer: Seen, url: str, *, keyed: bool) -> None:
    if answer.status not in (401, 403):
        return
    if keyed:
        raise ProbeError(f"{url}: the server refuses the key ({answer.status}): {said(answer.body)}")
    raise ProbeError(f"{url}: the server wants a key ({answer.status}); set HEADRACE_ENGINE_KEY, or give --key")
