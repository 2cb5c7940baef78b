"""Google Vertex AI at its OpenAI-compatible path, with tokens of a service account or of the machine.

https://cloud.google.com/vertex-ai/generative-ai/docs/start/openai
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import msgspec

from engines.base import EngineRequest, Operation
from engines.cloud import CloudEngine
from engines.http import Dialect, Endpoint
from engines.outbox import Outbox
from engines.tokens import BearerSigner, Token

SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)


class VertexEngine(CloudEngine):
    """Implements `Engine`.

    target: `openapi` for Google's and partners' models; the number of an endpoint for a model that you deployed there.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        project: str,
        location: str,
        signer: BearerSigner | None = None,
        outbox: Outbox | None = None,
        *,
        api_version: str = "v1",
        target: str = "openapi",
    ) -> None:
        where = "/".join(
            quote(part, safe="") for part in ("projects", project, "locations", location, "endpoints", target)
        )
        path = f"/{api_version}/{where}/chat/completions"
        super().__init__(endpoint, Dialect("/", {Operation.CHAT: path}), signer, outbox)

    def _reworded(self, request: EngineRequest, status: int, body: bytes) -> bytes:
        """Google puts an error into an array of one."""
        try:
            errors = msgspec.json.decode(body, type=list[msgspec.Raw])
        except (msgspec.DecodeError, UnicodeDecodeError):
            return body
        return bytes(errors[0]) if errors else body

    def _is_well(self, status: int) -> bool:
        """There is no path that is free of charge and of permissions: any answer will do."""
        return status < 500


class GoogleTokens:
    """Implements `TokenSource` over google-auth.

    credentials_file: a service account's key; None: Application Default Credentials, which are a file of any kind named
    by GOOGLE_APPLICATION_CREDENTIALS, those of gcloud, or those of the machine.

    Raises:
        ImportError: the extra is missing.
    """

    def __init__(self, credentials_file: str | None = None) -> None:
        try:
            import google.auth
            import google.auth.transport.requests
        except ImportError as error:
            raise ImportError('Vertex AI needs google-auth: pip install "headrace[google]"') from error
        self._file = credentials_file
        self._transport = google.auth.transport.requests.Request()
        self._credentials: Any = None

    def fetch(self) -> Token:
        if self._credentials is None:
            self._credentials = self._load()
        self._credentials.refresh(self._transport)
        # google-auth's times are UTC without saying so.
        expires = self._credentials.expiry.replace(tzinfo=datetime.UTC)
        left = expires - datetime.datetime.now(datetime.UTC)
        return Token(self._credentials.token, left.total_seconds())

    def close(self) -> None:
        self._transport.session.close()

    def _load(self) -> Any:
        import google.auth
        from google.oauth2 import service_account

        if self._file is None:
            return google.auth.default(scopes=SCOPES, request=self._transport)[0]
        load: Callable[..., Any] = service_account.Credentials.from_service_account_file
        return load(self._file, scopes=SCOPES)
