"""Checking tokens, where that is configured."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from gateway.clock import Clock
from gateway.config import Auth
from gateway.process.machine import state_folder

if TYPE_CHECKING:
    from gateway.jwt.verifier import Verifier


def tokens_of(auth: Auth, clock: Clock, rng: random.Random) -> Verifier | None:
    """What checks tokens of `auth.jwt`; None without that. PyJWT, of the extra `oidc`, is imported only here."""
    if not auth.jwt:
        return None
    from gateway.jwt.verifier import Verifier

    return Verifier(auth.jwt, clock, rng, state_folder() / "jwt")
