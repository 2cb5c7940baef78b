"""`kind: azure`."""

from __future__ import annotations

from engines.azure import AzureEngine, EntraTokens, entra_credential
from engines.base import Engine
from engines.http import Endpoint
from engines.outbox import Outbox
from engines.tokens import BearerSigner
from gateway.config import EngineOptions
from gateway.kinds.key import with_key


def make(options: EngineOptions, endpoint: Endpoint, outbox: Outbox) -> Engine:
    """With a key in a header of its own, or with tokens of Entra ID."""
    azure = options.azure
    signer = None
    if azure.entra:
        secret = azure.client_secret.get_secret_value() if azure.client_secret is not None else None
        credential = entra_credential(azure.tenant_id, azure.client_id, secret, azure.authority, endpoint.ca_file)
        signer = BearerSigner(EntraTokens(credential, azure.scope), "engine.azure")
    return AzureEngine(with_key(endpoint, options, "api-key"), azure.api_version, signer, outbox)
