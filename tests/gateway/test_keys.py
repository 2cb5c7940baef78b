"""API keys and their hashes (A18)."""

from __future__ import annotations

import re

from gateway.keys import hash_key, new_key


def test_a18_a_hash_is_sha256_over_salt_and_key() -> None:
    # printf 'saltkey' | sha256sum
    assert hash_key("key", "salt") == "sha256:4a466ea0657e479545b1d6c2d994824f80d8eecd7030f3092ff42a9bcad751d8"


def test_a18_salt_and_key_both_change_the_hash() -> None:
    assert len({hash_key(key, salt) for key in ("a", "b") for salt in ("", "s", "t")}) == 6


def test_a_new_key_is_long_safe_in_a_url_and_never_the_same() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"sk-hr-[0-9a-f]{12}-[A-Za-z0-9_-]{43}", key) for key in keys)
