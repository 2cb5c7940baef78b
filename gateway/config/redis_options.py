"""The server through which gateways share what they know."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gateway.config.base import Name, Section


class Redis(Section):
    """A Redis or Valkey server. Each gateway tells there five times a second what it has in flight, so that several of
    them do not send everything to the same replica. Without it, or while it does not answer, each relies on its own
    books; no request ever waits for it."""

    url: Annotated[str, Field(pattern=r"^(rediss?|unix)://\S+$")]
    """`redis://user:password@host:6379/0`; `rediss://` for TLS, with `?ssl_ca_certs=FILE` for a CA of your own;
    `unix:///path` for a socket."""
    prefix: Name = "headrace"
    """What its keys begin with. Gateways with the same prefix know of each other."""
    timeout_s: Annotated[float, Field(gt=0, le=10)] = 0.05
    """How long an answer may take; after that the server counts as gone until it answers in time again."""
