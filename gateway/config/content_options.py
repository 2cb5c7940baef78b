"""Prompts and answers of some calls, kept for later reading."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from gateway.config.base import Section


def _checked_pattern(text: str) -> str:
    try:
        compiled = re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    if compiled.match("") is not None:
        raise ValueError("finds the empty text, and so would blank out nothing, everywhere")
    return text


ContentKey = Annotated[SecretStr, Field(min_length=16)]
Pattern = Annotated[str, Field(min_length=1), AfterValidator(_checked_pattern)]


class ContentLog(Section):
    """Keeps prompts and answers of calls of organisations with `log_content` above 0, encrypted. Calls of a sensitivity
    class that residency confines are never kept. Needs the extra `content-log`."""

    path: str
    """Folder of the files."""
    key: ContentKey
    """What they are encrypted with (AES-256-GCM). Best 32 random bytes, as `openssl rand -base64 32` prints them, from
    the environment."""
    old_keys: list[ContentKey] = []
    """Keys of before, with which older files are still read."""
    retention_days: Annotated[int, Field(ge=1)] = 30
    """Files older than this are deleted."""
    redact: list[Pattern] = []
    """Regular expressions; what they find in prompts and answers is blanked out before anything is kept."""
