"""What single kinds of cloud engines need to know."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr

from gateway.config.base import Section, Url


class AzureOptions(Section):
    """Azure OpenAI. By default requests go to its v1 path, with the variant's `model` as the deployment's name."""

    api_version: Annotated[str, Field(pattern=r"^(preview|\d{4}-\d{2}-\d{2}(-preview)?)$")] | None = None
    """A date, such as 2024-10-21: the classic path, one for each deployment. `preview`, or none: the v1 path."""
    entra: bool = False
    """Let the gateway in by Microsoft Entra ID instead of `api_key`; needs the extra `azure`. Without a client secret
    it takes what the machine has: managed or workload identity, or the AZURE_* variables."""
    tenant_id: str | None = None
    """Directory of the service principal."""
    client_id: str | None = None
    """The service principal, or a user-assigned managed identity."""
    client_secret: SecretStr | None = None
    """The service principal's secret."""
    authority: Annotated[Url, Field(pattern=r"^https://")] | None = None
    """Entra ID of another cloud, such as https://login.microsoftonline.us; none: the public cloud's."""
    scope: str = "https://cognitiveservices.azure.com/.default"
    """What tokens are for; other clouds have their own."""


class GoogleOptions(Section):
    """Google Vertex AI; needs the extra `google`."""

    project: str | None = None
    """Project that is charged. Required for `kind: vertex`."""
    location: str = "global"
    """Region, such as europe-west4. The URL has to be that region's."""
    credentials_file: str | None = None
    """A service account's key, JSON; none: Application Default Credentials."""
    endpoint: str = "openapi"
    """`openapi` for Google's and partners' models, or the number of an endpoint for a model that you deployed there."""
    api_version: Literal["v1", "v1beta1"] = "v1"
    """Version of the API in the path."""


class AnthropicOptions(Section):
    """Anthropic's Messages API."""

    version: str = "2023-06-01"
    """Sent as `anthropic-version`."""
    max_tokens: Annotated[int, Field(ge=1)] = 8192
    """For requests that set neither `max_tokens` nor `max_completion_tokens`: Anthropic requires a limit."""
