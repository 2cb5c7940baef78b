"""The kind `bedrock`."""

from __future__ import annotations

from engines.adapter import AdapterEngine
from engines.aws.bedrock import SERVICE, BedrockTranslator
from engines.base import Engine
from engines.http import Endpoint
from engines.outbox import Outbox
from gateway.config import EngineOptions
from gateway.kinds.aws import signer_for
from gateway.kinds.key import with_key


def make(options: EngineOptions, endpoint: Endpoint, outbox: Outbox) -> Engine:
    """Signed requests, or a Bedrock API key if there is an `api_key`."""
    signer = signer_for(options.aws, endpoint.url, SERVICE) if options.api_key is None else None
    return AdapterEngine(with_key(endpoint, options), BedrockTranslator(), signer, outbox)
