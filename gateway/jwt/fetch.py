"""Where an issuer's keys come from: its discovery document, then its JWK Set. Bounded in time and size."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

import httpx
import msgspec

from gateway.config.jwt_options import JwtIssuer
from gateway.config.sites import is_secure
from gateway.jwt.keys import Key, read_keys

FETCH_S = 10.0
"""For all of one fetch."""
MAX_BYTES = 512 * 1024
"""Of one answer."""
DISCOVERY = "/.well-known/openid-configuration"


class FetchFailed(Exception):
    """The keys of an issuer cannot be had; the message says why."""


class Fetched(NamedTuple):
    """body: the JWK Set that the keys are from."""

    keys: list[Key]
    body: bytes


class Fetch(Protocol):
    async def __call__(self) -> Fetched:
        """The keys as they are now.

        Raises:
            FetchFailed
        """
        ...


class Discovery(msgspec.Struct):
    """https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderMetadata"""

    issuer: str
    jwks_uri: str


_decode = msgspec.json.Decoder(Discovery).decode


class HttpFetch:
    """Implements `Fetch`. A CA file and a token file are read anew each time."""

    def __init__(self, options: JwtIssuer) -> None:
        self._options = options
        self._trusted = {_origin(url) for url in (options.issuer, options.jwks_url) if url is not None}
        """Who may see the bearer token: what a discovery document names elsewhere may not."""

    async def __call__(self) -> Fetched:
        try:
            async with asyncio.timeout(FETCH_S), await self._client() as client:
                url = self._options.jwks_url or await self._discovered(client)
                body = await self._get(client, url)
        except TimeoutError:
            raise FetchFailed(f"no answer within {FETCH_S:g} s") from None
        except (OSError, ValueError) as error:  # a CA file or a token file that is none
            raise FetchFailed(str(error)) from None
        try:
            return Fetched(read_keys(body, self._options.algorithms), body)
        except ValueError as error:
            raise FetchFailed(f"{url}: {error}") from None

    async def _client(self) -> httpx.AsyncClient:
        context = await asyncio.to_thread(ssl.create_default_context, cafile=self._options.ca_file)
        return httpx.AsyncClient(verify=context, trust_env=False, timeout=FETCH_S)

    async def _discovered(self, client: httpx.AsyncClient) -> str:
        url = self._options.issuer.rstrip("/") + DISCOVERY
        try:
            found = _decode(await self._get(client, url))
        except (msgspec.MsgspecError, RecursionError) as error:
            raise FetchFailed(f"{url} is no discovery document: {error}") from None
        if found.issuer != self._options.issuer:
            raise FetchFailed(f'{url} is that of the issuer "{found.issuer[:200]}", not "{self._options.issuer}"')
        # Plain http is for an issuer that is on loopback itself: no other has any business on this machine.
        allowed = ("https://",) if url.startswith("https://") else ("https://", "http://")
        if not is_secure(found.jwks_uri) or not found.jwks_uri.startswith(allowed):
            raise FetchFailed(f'{url} names keys at "{found.jwks_uri[:200]}", which is no https address')
        return found.jwks_uri

    async def _get(self, client: httpx.AsyncClient, url: str) -> bytes:
        body = bytearray()
        headers = await self._headers(url)
        try:
            async with client.stream("GET", url, headers=headers) as response:
                if response.status_code != httpx.codes.OK:
                    raise FetchFailed(f"{url} answered {response.status_code}")
                async for piece in response.aiter_raw():  # not unpacked: it could become any size
                    body += piece
                    if len(body) > MAX_BYTES:
                        raise FetchFailed(f"{url} answered over {MAX_BYTES} bytes")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise FetchFailed(f"{url}: {str(error) or type(error).__name__}") from None
        return bytes(body)

    async def _headers(self, url: str) -> dict[str, str]:
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        if self._options.token_file is not None and _origin(url) in self._trusted:
            token = await asyncio.to_thread(Path(self._options.token_file).read_text)
            headers["authorization"] = f"Bearer {token.strip()}"
        return headers


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()
