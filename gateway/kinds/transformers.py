"""`kind: transformers`: a `transformers serve`."""

from __future__ import annotations

from dataclasses import replace

from engines.base import Engine
from engines.http import Endpoint
from engines.outbox import Outbox
from engines.transformers import TransformersEngine
from gateway.config import EngineOptions


def make(options: EngineOptions, endpoint: Endpoint, outbox: Outbox) -> Engine:
    if options.api_key is not None:
        bearer = {"authorization": f"Bearer {options.api_key.get_secret_value()}"}
        endpoint = replace(endpoint, headers={**endpoint.headers, **bearer})
    return TransformersEngine(endpoint, model=options.model, outbox=outbox)
