"""An issuer's keys in a file, so that a worker that starts while the issuer is away knows them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from gateway.config.jwt_options import JwtIssuer
from gateway.process.machine import read_own


class Kept(msgspec.Struct):
    """fetched_at: Unix time in seconds. body: the JWK Set."""

    issuer: str
    fetched_at: float
    body: str


_decode = msgspec.json.Decoder(Kept).decode


class Keepsake:
    """Blocks for as long as the disk takes. Workers share the file; each writes it whole.

    Whoever can write it can vouch for anybody, so that it is read only where nobody else can.
    """

    def __init__(self, folder: Path, options: JwtIssuer) -> None:
        whose = f"{options.issuer}\n{options.jwks_url or ''}".encode()
        self._issuer = options.issuer
        self.path = folder / f"{hashlib.sha256(whose).hexdigest()[:32]}.json"

    def read(self) -> Kept:
        """What was last written.

        Raises:
            OSError: there is nothing, or others could have written it. ValueError: it makes no sense.
        """
        try:
            kept = _decode(read_own(self.path))
        except msgspec.MsgspecError as error:
            raise ValueError(str(error)) from None
        if kept.issuer != self._issuer:
            raise ValueError(f"it is of {kept.issuer!r}")
        return kept

    def write(self, body: bytes, fetched_at: float) -> None:
        """Raises:
        OSError: the keys cannot be kept.
        """
        kept = msgspec.json.encode(Kept(self._issuer, fetched_at, body.decode()))
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        beside.unlink(missing_ok=True)
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(kept)
        beside.rename(self.path)
