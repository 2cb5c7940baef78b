"""How an engine's `api_key` travels."""

from __future__ import annotations

import dataclasses

from engines.http import Endpoint
from gateway.config import EngineOptions

BEARER = "authorization"


def with_key(endpoint: Endpoint, options: EngineOptions, header: str = BEARER) -> Endpoint:
    """`endpoint` with the key, if there is one, in `header`: as a bearer token, or alone in a header of its own."""
    if options.api_key is None:
        return endpoint
    key = options.api_key.get_secret_value()
    value = f"Bearer {key}" if header == BEARER else key
    return dataclasses.replace(endpoint, headers={**endpoint.headers, header: value})
