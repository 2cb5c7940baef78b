"""Which configuration is meant: a running number, and a hash of everything that it comes to."""

from __future__ import annotations

import hashlib

import msgspec

from gateway.config import Config
from gateway.config.secrets import revealed

DIGEST_BYTES = 6


class Version(msgspec.Struct, frozen=True):
    """Written `12-3f9a1c7d2b40`.

    number: of this installation; each change takes the next one.
    digest: of the effective configuration, so that equal ones are known at a glance.
    """

    number: int
    digest: str

    def __str__(self) -> str:
        return f"{self.number}-{self.digest}"


UNVERSIONED = Version(0, "0" * 2 * DIGEST_BYTES)
"""Of a gateway that nobody supervises."""


def digest_of(config: Config, salt: bytes) -> str:
    """Keyed with `salt`, at most 64 bytes: without it nobody can try out guesses at the configuration's secrets."""
    canonical = msgspec.json.encode(config.model_dump(), enc_hook=revealed, order="sorted")
    return hashlib.blake2b(canonical, key=salt, digest_size=DIGEST_BYTES).hexdigest()
