"""`kind: anthropic`."""

from __future__ import annotations

import dataclasses

from engines.adapter import AdapterEngine
from engines.anthropic import AnthropicTranslator
from engines.base import Engine
from engines.http import Endpoint
from engines.outbox import Outbox
from gateway.config import EngineOptions


def make(options: EngineOptions, endpoint: Endpoint, outbox: Outbox) -> Engine:
    """With the key in a header of Anthropic's own."""
    headers = {"anthropic-version": options.anthropic.version, **endpoint.headers}
    if options.api_key is not None:
        headers["x-api-key"] = options.api_key.get_secret_value()
    endpoint = dataclasses.replace(endpoint, headers=headers)
    translator = AnthropicTranslator(options.anthropic.max_tokens)
    return AdapterEngine(endpoint, translator, outbox=outbox)
