"""Azure OpenAI: OpenAI's protocol at the v1 path, or at one path for each deployment with an API version.

https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

import msgspec

from engines.adapter import error_body
from engines.base import EngineRequest, Operation
from engines.cloud import CloudEngine
from engines.http import Dialect, Endpoint
from engines.outbox import Outbox
from engines.tokens import BearerSigner, Token

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken

SCOPE = "https://cognitiveservices.azure.com/.default"
_OFFERED = (Operation.CHAT, Operation.COMPLETIONS, Operation.EMBEDDINGS)


class _Named(msgspec.Struct):
    model: str = ""


class _Error(msgspec.Struct):
    code: str | None = None
    message: str | None = None


class _Failure(msgspec.Struct):
    error: _Error | None = None


class AzureEngine(CloudEngine):
    """Implements `Engine`.

    api_version: a date, such as `2024-10-21`: the classic path, where the engine's model name is that of the
    deployment; None, or a word such as `preview`: the v1 path.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        api_version: str | None = None,
        signer: BearerSigner | None = None,
        outbox: Outbox | None = None,
    ) -> None:
        endpoint = dataclasses.replace(endpoint, url=endpoint.url.rstrip("/").removesuffix("/openai"))
        self._query = f"?api-version={quote(api_version, safe='')}" if api_version else ""
        self._classic = api_version is not None and api_version[0].isdigit()
        version = "" if self._classic else "/v1"
        paths = {} if self._classic else {one: f"/openai/v1/{one}{self._query}" for one in _OFFERED}
        super().__init__(endpoint, Dialect(f"/openai{version}/models{self._query}", paths), signer, outbox)
        self._by_deployment: dict[tuple[Operation, str], bytes] = {}

    def _head_for(self, request: EngineRequest) -> bytes | None:
        if not self._classic or request.operation not in _OFFERED:
            return super()._head_for(request)
        key = (request.operation, _model(request))
        head = self._by_deployment.get(key)
        if head is None:
            path = f"/openai/deployments/{quote(key[1], safe='')}/{request.operation}{self._query}"
            # Model names come from the configuration, never from callers: there are few.
            head = self._by_deployment[key] = self._head("POST", path)
        return head

    def _reworded(self, request: EngineRequest, status: int, body: bytes) -> bytes:
        """A deployment that does not exist is a wrong model name, not a wrong path."""
        if status != 404:
            return body
        try:
            error = msgspec.json.decode(body, type=_Failure).error
        except (msgspec.DecodeError, UnicodeDecodeError):
            return body
        if error is None or error.code != "DeploymentNotFound":
            return body
        return error_body(f"the model {_model(request)!r} is no deployment here: {error.message}", code=error.code)


class Credential(Protocol):
    """One of azure-identity's."""

    def get_token(self, *scopes: str) -> AccessToken: ...

    def close(self) -> None: ...


class EntraTokens:
    """Implements `TokenSource` over a credential of azure-identity."""

    def __init__(self, credential: Credential, scope: str = SCOPE) -> None:
        self._credential = credential
        self._scope = scope

    def fetch(self) -> Token:
        token = self._credential.get_token(self._scope)
        return Token(token.token, token.expires_on - time.time())  # noqa: TID251 - tokens expire by the wall clock

    def close(self) -> None:
        self._credential.close()


def entra_credential(
    tenant_id: str | None,
    client_id: str | None,
    client_secret: str | None,
    authority: str | None = None,
    ca_file: str | None = None,
) -> Credential:
    """A service principal if there is a secret; else what the machine has: workload or managed identity, environment.

    authority: of another cloud, or one's own; it is taken at its word.

    Raises:
        ImportError: the extra is missing.
    """
    try:
        from azure.identity import ClientSecretCredential, DefaultAzureCredential
    except ImportError as error:
        raise ImportError('Entra ID needs azure-identity: pip install "headrace[azure]"') from error
    options: dict[str, object] = {}
    if authority is not None:
        options |= {"authority": authority, "disable_instance_discovery": True}
    if ca_file is not None:
        options["connection_verify"] = ca_file
    if client_secret is not None:
        return ClientSecretCredential(tenant_id or "", client_id or "", client_secret, **options)
    if client_id is not None:
        options |= {"managed_identity_client_id": client_id, "workload_identity_client_id": client_id}
    return DefaultAzureCredential(**options)


def _model(request: EngineRequest) -> str:
    return msgspec.json.decode(request.body, type=_Named).model
