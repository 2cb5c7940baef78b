"""`kind: vertex`."""

from __future__ import annotations

from engines.base import Engine
from engines.http import Endpoint
from engines.outbox import Outbox
from engines.tokens import BearerSigner
from engines.vertex import GoogleTokens, VertexEngine
from gateway.config import EngineOptions


def make(options: EngineOptions, endpoint: Endpoint, outbox: Outbox) -> Engine:
    """With tokens of a service account, or of the machine."""
    google = options.google
    signer = BearerSigner(GoogleTokens(google.credentials_file), "engine.google.credentials_file")
    return VertexEngine(
        endpoint,
        google.project or "",
        google.location,
        signer,
        outbox,
        api_version=google.api_version,
        target=google.endpoint,
    )
