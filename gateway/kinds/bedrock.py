"""The kind `bedrock`."""

from __future__ import annotations

import dataclasses

from engines.adapter import AdapterEngine
from engines.aws.bedrock import SERVICE, BedrockTranslator
from engines.base import Engine
from engines.http import Endpoint
from engines.outbox import Outbox
from gateway.config import EngineOptions
from gateway.kinds.aws import signer_for


def make(options: EngineOptions, endpoint: Endpoint, outbox: Outbox) -> Engine:
    """Signed requests, or a Bedrock API key if there is an `api_key`."""
    if options.api_key is None:
        signer = signer_for(options.aws, endpoint.url, SERVICE)
        return AdapterEngine(endpoint, BedrockTranslator(), signer, outbox)
    headers = {**endpoint.headers, "authorization": f"Bearer {options.api_key.get_secret_value()}"}
    return AdapterEngine(dataclasses.replace(endpoint, headers=headers), BedrockTranslator(), outbox=outbox)
