"""`kind: anthropic`."""

from __future__ import annotations

import dataclasses

from engines.adapter import AdapterEngine
from engines.anthropic import AnthropicTranslator
from engines.base import Engine
from engines.http import Endpoint
from engines.outbox import Outbox
from gateway.config import EngineOptions
from gateway.kinds.key import with_key


def make(options: EngineOptions, endpoint: Endpoint, outbox: Outbox) -> Engine:
    """With the key in a header of Anthropic's own."""
    headers = {"anthropic-version": options.anthropic.version, **endpoint.headers}
    endpoint = with_key(dataclasses.replace(endpoint, headers=headers), options, "x-api-key")
    return AdapterEngine(endpoint, AnthropicTranslator(options.anthropic.max_tokens), outbox=outbox)
