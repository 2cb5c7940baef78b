"""What every part of the configuration is made of."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def without_version(url: str) -> str:
    """A base URL as people copy it, `…/v1` or `…/v1/`, without its version: the gateway adds that itself."""
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def to_instant(given: object) -> object:
    """The file has it as text, as ISO 8601 writes it."""
    if not isinstance(given, str):
        return given
    try:
        return datetime.fromisoformat(given)
    except ValueError:
        return given


Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$")]
Url = Annotated[str, Field(pattern=r"^https?://[^\s/?#]+[^\s?#]*$")]
BaseUrl = Annotated[Url, AfterValidator(without_version)]
Positive = Annotated[float, Field(gt=0)]
Instant = Annotated[datetime, BeforeValidator(to_instant)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    """A mapping of the file: unknown keys are refused, values never change after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True, allow_inf_nan=False
    )
