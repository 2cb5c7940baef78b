"""Replicas that are the endpoints of a Kubernetes service: its EndpointSlices are listed, then watched.

https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path

import httpx
import msgspec

from gateway.config.pool_options import KubernetesOptions
from gateway.discovery.base import DiscoveryError, Found
from gateway.discovery.dns import base_url

WATCH_S = 240
"""The API server ends a watch after this long; the next one goes on where it ended."""
SILENCE_S = 75.0
"""A watch that is silent for this long is begun anew: bookmarks come every minute, and a dead peer says nothing."""
PAUSE_S = 1.0
"""Between two watches, so that a server that ends them at once is not asked without pause."""
REQUEST_S = 10.0
_GONE = 410


class Conditions(msgspec.Struct):
    """None is unknown; consumers take unknown readiness as ready."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Target(msgspec.Struct):
    uid: str = ""


class Endpoint(msgspec.Struct, rename="camel"):
    addresses: list[str]
    conditions: Conditions = msgspec.field(default_factory=Conditions)
    target_ref: Target | None = None


class SlicePort(msgspec.Struct):
    name: str | None = None
    port: int | None = None


class Meta(msgspec.Struct, rename="camel"):
    name: str = ""
    resource_version: str = ""


class EndpointSlice(msgspec.Struct, rename="camel"):
    metadata: Meta = msgspec.field(default_factory=Meta)
    address_type: str = "IPv4"
    endpoints: list[Endpoint] | None = None
    ports: list[SlicePort] | None = None


class SliceList(msgspec.Struct):
    metadata: Meta
    items: list[EndpointSlice]


class Event(msgspec.Struct):
    """One line of a watch. `object` is a slice, or a Status if `type` is ERROR."""

    type: str
    object: msgspec.Raw


class Status(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Expired(Exception):
    """The version from which to watch is too old: list again."""


_decode_list = msgspec.json.Decoder(SliceList).decode
_decode_event = msgspec.json.Decoder(Event).decode
_decode_slice = msgspec.json.Decoder(EndpointSlice).decode
_decode_status = msgspec.json.Decoder(Status).decode


class KubernetesDiscovery:
    """Implements `Discovery`."""

    def __init__(self, options: KubernetesOptions, silence_s: float = SILENCE_S, pause_s: float = PAUSE_S) -> None:
        self._options = options
        self._silence_s = silence_s
        self._pause_s = pause_s
        self._url = (
            f"{options.api_url.rstrip('/')}/apis/discovery.k8s.io/v1/namespaces/{options.namespace}/endpointslices"
        )
        self._slices: dict[str, EndpointSlice] = {}

    @property
    def source(self) -> str:
        return self._options.source

    async def watch(self, found: Found) -> None:
        try:
            async with await self._client() as client:
                while True:
                    version = await self._list(client)
                    found(self._urls())
                    with contextlib.suppress(_Expired):
                        await self._follow(client, version, found)
                    await asyncio.sleep(self._pause_s)
        except httpx.HTTPError as error:
            raise DiscoveryError(f"{self._options.api_url}: {str(error) or type(error).__name__}") from None
        except msgspec.DecodeError as error:
            raise DiscoveryError(f"{self._options.api_url}: not what the API server should say: {error}") from None
        except OSError as error:
            raise DiscoveryError(f"{error.filename or self._options.api_url}: {error.strerror or error}") from None

    async def _client(self) -> httpx.AsyncClient:
        ca_file, secure = self._options.ca_file, self._options.api_url.startswith("https")
        verify: ssl.SSLContext | bool = True
        if secure:
            verify = await asyncio.to_thread(ssl.create_default_context, cafile=ca_file)
        return httpx.AsyncClient(verify=verify if secure else False, trust_env=False, timeout=REQUEST_S)

    async def _list(self, client: httpx.AsyncClient) -> str:
        """Learn all slices; the version from which to watch."""
        response = await client.get(self._url, params=self._selector(), headers=await self._headers())
        if response.status_code != httpx.codes.OK:
            raise DiscoveryError(self._refusal(response.status_code, response.content))
        answer = _decode_list(response.content)
        self._slices = {one.metadata.name: one for one in answer.items}
        return answer.metadata.resource_version

    async def _follow(self, client: httpx.AsyncClient, version: str, found: Found) -> None:
        """Watch from `version` on, for as long as it goes.

        Raises:
            _Expired: list again.
        """
        while True:
            async with contextlib.aclosing(self._events(client, version)) as events:
                async for event in events:
                    version = self._take(event) or version
                    if event.type != "BOOKMARK":
                        found(self._urls())
            await asyncio.sleep(self._pause_s)

    async def _events(self, client: httpx.AsyncClient, version: str) -> AsyncGenerator[Event, None]:
        params = {
            **self._selector(),
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_S),
        }
        limits = httpx.Timeout(REQUEST_S, read=self._silence_s)
        request = client.build_request("GET", self._url, params=params, headers=await self._headers(), timeout=limits)
        try:
            response = await client.send(request, stream=True)
            try:
                if response.status_code == _GONE:
                    raise _Expired
                if response.status_code != httpx.codes.OK:
                    raise DiscoveryError(self._refusal(response.status_code, await response.aread()))
                async for line in response.aiter_lines():
                    if line:
                        yield _decode_event(line)
            finally:
                await response.aclose()
        except httpx.ReadTimeout:
            return

    def _take(self, event: Event) -> str:
        """Change what is known as the event says; its version.

        Raises:
            _Expired: list again.
        """
        if event.type == "ERROR":
            status = _decode_status(event.object)
            if status.code == _GONE:
                raise _Expired
            raise DiscoveryError(self._refusal(status.code, bytes(event.object)))
        one = _decode_slice(event.object)
        if event.type in ("ADDED", "MODIFIED"):
            self._slices[one.metadata.name] = one
        elif event.type == "DELETED":
            self._slices.pop(one.metadata.name, None)
        return one.metadata.resource_version

    def _urls(self) -> list[str]:
        return urls_of(self._slices.values(), self._options.port, self._options.scheme)

    def _selector(self) -> dict[str, str]:
        return {"labelSelector": f"kubernetes.io/service-name={self._options.service}"}

    async def _headers(self) -> dict[str, str]:
        """The token is read each time: the kubelet replaces it every hour."""
        headers = {"accept": "application/json"}
        if self._options.token_file is not None:
            token = await asyncio.to_thread(Path(self._options.token_file).read_text)
            headers["authorization"] = f"Bearer {token.strip()}"
        return headers

    def _refusal(self, code: int, body: bytes) -> str:
        try:
            said = _decode_status(body).message
        except msgspec.DecodeError:
            said = ""
        hint = ""
        if code in (401, 403):
            hint = "; the account needs the verbs list and watch on endpointslices of discovery.k8s.io"
        return f"{self._options.api_url} answered {code}: {said or 'no reason given'}{hint}"


def urls_of(slices: Iterable[EndpointSlice], port: str | None, scheme: str) -> list[str]:
    """The URLs of the endpoints to use: those that are ready.

    Only where none is, those that are shutting down and still serve, as kube-proxy does it. An endpoint with an address
    of each family is one replica, by its IPv4 address; of several addresses of a family the first one counts.
    """
    ready: dict[str, str] = {}
    leaving: dict[str, str] = {}
    for one in sorted(slices, key=lambda one: (one.address_type != "IPv4", one.metadata.name)):
        number = _port(one.ports or [], port)
        if number is None:
            continue
        for endpoint in one.endpoints or []:
            if not endpoint.addresses:
                continue
            host = endpoint.addresses[0]
            key = (endpoint.target_ref.uid if endpoint.target_ref else "") or host
            state = endpoint.conditions
            if state.ready is not False and not state.terminating:
                ready.setdefault(key, base_url(scheme, host, number))
            elif state.terminating and (state.serving if state.serving is not None else state.ready):
                leaving.setdefault(key, base_url(scheme, host, number))
    return sorted((ready or leaving).values())


def _port(ports: list[SlicePort], wanted: str | None) -> int | None:
    for one in ports:
        if one.port is not None and (wanted is None or wanted in (one.name, str(one.port))):
            return one.port
    return None
