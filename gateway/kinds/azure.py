"""`kind: azure`."""

from __future__ import annotations

import dataclasses

from engines.azure import AzureEngine, EntraTokens, entra_credential
from engines.base import Engine
from engines.http import Endpoint
from engines.outbox import Outbox
from engines.tokens import BearerSigner
from gateway.config import EngineOptions


def make(options: EngineOptions, endpoint: Endpoint, outbox: Outbox) -> Engine:
    """With a key in a header of its own, or with tokens of Entra ID."""
    azure = options.azure
    if options.api_key is not None:
        headers = {**endpoint.headers, "api-key": options.api_key.get_secret_value()}
        endpoint = dataclasses.replace(endpoint, headers=headers)
    signer = None
    if azure.entra:
        secret = azure.client_secret.get_secret_value() if azure.client_secret is not None else None
        credential = entra_credential(azure.tenant_id, azure.client_id, secret, azure.authority, endpoint.ca_file)
        signer = BearerSigner(EntraTokens(credential, azure.scope), "engine.azure")
    return AzureEngine(endpoint, azure.api_version, signer, outbox)
