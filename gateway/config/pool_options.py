"""What a pool says about its replicas beyond their URLs: where they are found, how they begin, how they are woken."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

from gateway.config.base import Port, Positive, Section, Url

_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


def _json_object(text: str) -> str:
    try:
        known = isinstance(json.loads(text), dict)
    except ValueError:
        known = False
    if not known:
        raise ValueError("must be a JSON object, written as text")
    return text


class DnsOptions(Section):
    """Replicas behind one name: every A and AAAA record is one, as a headless service has them."""

    name: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9_.-]+$")]
    """The name to resolve."""
    port: Annotated[Port, Field(ge=1)]
    """The port at which every replica listens."""
    scheme: Literal["http", "https"] = "http"
    """How the replicas are spoken to. A certificate of theirs has to name their address."""
    every_s: Positive = 5.0
    """How often the name is resolved."""

    @property
    def source(self) -> str:
        return f"dns {self.name}"


class KubernetesOptions(Section):
    """Replicas are the endpoints of a Kubernetes service, as its EndpointSlices have them."""

    service: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9-]+$")]
    """The service; it needs no cluster address, and headless ones do."""
    namespace: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9-]+$")] = "default"
    """The namespace of the service."""
    port: str | None = None
    """Name or number of the port to use; none: the first one."""
    scheme: Literal["http", "https"] = "http"
    """How the replicas are spoken to. A certificate of theirs has to name their address."""
    api_url: Url = "https://kubernetes.default.svc"
    """The API server."""
    token_file: str | None = f"{_ACCOUNT}/token"
    """The bearer token, read anew for each request; none: no token is sent."""
    ca_file: str | None = f"{_ACCOUNT}/ca.crt"
    """PEM bundle to trust for the API server; none: the system's."""

    @property
    def source(self) -> str:
        return f"kubernetes {self.namespace}/{self.service}"


class WarmUp(Section):
    """One small request that a replica answers before it gets traffic. Without `body` it is a chat of one token."""

    prompt: str = "Hello"
    """What the chat says."""
    body: Annotated[str, AfterValidator(_json_object)] | None = None
    """The request instead, as JSON text; `messages`, `prompt` or `input` in it says which kind. `model` is added."""
    timeout_s: Positive = 60.0
    """How long the answer may take; after that it is tried again."""


class ProbeOptions(Section):
    """Requests to the health path of replicas of which traffic says nothing. They call no model."""

    every_s: Positive | None = 10.0
    """How often a replica is asked, give or take half; none: never."""
    idle_s: Positive = 30.0
    """A replica without traffic for this long is asked; one whose breaker is open is asked at once."""


class ScrapeOptions(Section):
    """Reading the replicas' own metrics, which correct what the gateway knows of their load. No request waits for them,
    and none is refused because they are late or missing."""

    every_s: Positive | None = 5.0
    """How often a replica's page is read, give or take half; none: never. Clouds have none and are not asked."""
    path: Annotated[str, Field(pattern=r"^/[^\s]*$")] | None = None
    """Where the page is; none: the places where the known engines have it are tried."""
    port: Annotated[Port, Field(ge=1)] | None = None
    """The port of the page, if it is not the replica's own; Triton's is 8002."""


class Wake(Section):
    """How a pool is woken: exactly one of the two."""

    command: list[str] = []
    """Program and arguments, run without a shell. It should return; one that goes on is ended with its worker."""
    webhook: Url | None = None
    """A URL to which `{"pool": NAME}` is posted; any 2xx is consent."""
    webhook_headers: dict[str, SecretStr] = {}
    """Headers for the webhook."""


class ScaleToZero(Section):
    """The pool may have no replica that answers: requests then wait while it is woken, once for all of them."""

    wake: Wake
    """How the pool is woken."""
    wait_s: Positive = 60.0
    """How long a request waits; after that it gets 503."""
    hold_max: Annotated[int, Field(ge=1)] = 100
    """Requests that wait at once, per gateway worker; more get 503."""
