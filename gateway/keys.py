"""API keys: making them, and the salted hash under which the configuration keeps them."""

from __future__ import annotations

import hashlib
import secrets

PREFIX = "sk-hr-"


def hash_key(key: str, salt: str) -> str:
    """`sha256:` and 64 hex digits over salt and key. Keys are random, so that one fast round suffices."""
    return "sha256:" + hashlib.sha256(salt.encode() + key.encode()).hexdigest()


def new_key() -> str:
    """A new key: the prefix, a short public id, and 256 random bits, all safe in a URL."""
    return f"{PREFIX}{secrets.token_hex(4)}-{secrets.token_urlsafe(32)}"
