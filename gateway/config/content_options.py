"""Prompts and answers of some calls, kept for later reading."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from gateway.config.base import Section

KEY_BYTES = 32


def key_bytes(secret: SecretStr) -> bytes:
    """
    Raises:
        ValueError: it is not 32 bytes in base64.
    """
    text = secret.get_secret_value().strip().replace("-", "+").replace("_", "/")
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if len(found) != KEY_BYTES:
        raise ValueError(
            f"must be {KEY_BYTES} random bytes in base64, as `openssl rand -base64 {KEY_BYTES}` prints them"
        )
    return found


def _checked_key(secret: SecretStr) -> SecretStr:
    key_bytes(secret)
    return secret


def _checked_pattern(text: str) -> str:
    try:
        compiled = re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    if compiled.match("") is not None:
        raise ValueError("finds the empty text, and so would blank out nothing, everywhere")
    return text


ContentKey = Annotated[SecretStr, AfterValidator(_checked_key)]
Pattern = Annotated[str, Field(min_length=1), AfterValidator(_checked_pattern)]


class ContentLog(Section):
    """Keeps prompts and answers of calls of organisations with `log_content` above 0, encrypted. Calls of a sensitivity
    class that residency confines are never kept. Needs the extra `content-log`."""

    path: str
    """Folder of the files."""
    key: ContentKey
    """What they are encrypted with (AES-256-GCM): 32 random bytes in base64, from the environment."""
    old_keys: list[ContentKey] = []
    """Keys of before, with which older files are still read."""
    retention_days: Annotated[int, Field(ge=1)] = 30
    """Files older than this are deleted."""
    redact: list[Pattern] = []
    """Regular expressions; what they find in prompts and answers is blanked out before anything is kept."""
