"""API keys: making them, and the salted hash under which the configuration keeps them."""

from __future__ import annotations

import hashlib
import re
import secrets

PREFIX = "sk-hr-"


def hash_key(key: str, salt: str) -> str:
    """`sha256:` and 64 hex digits over salt and key. Keys are random, so that one fast round suffices."""
    return "sha256:" + hashlib.sha256(salt.encode() + key.encode()).hexdigest()


def new_key() -> str:
    """A new key: the prefix, a public id of 12 hex digits, and 256 random bits, all safe in a URL."""
    return f"{PREFIX}{secrets.token_hex(6)}-{secrets.token_urlsafe(32)}"


def key_id(text: str) -> str:
    """The public id in a key, or `text` itself where it is none."""
    found = re.fullmatch(rf"{PREFIX}([0-9a-f]{{12}})-[\w-]+", text, re.ASCII)
    return found[1] if found else text


def digest_of(key: str, salt: str) -> bytes:
    """What the database keeps of a key."""
    return hashlib.sha256(salt.encode() + key.encode()).digest()
