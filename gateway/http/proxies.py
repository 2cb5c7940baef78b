"""Who the client is behind proxies that are trusted to say so."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.http import Request
from gateway.identity import address_of, networks_of

HEADER = b"x-forwarded-for"
MAX_HOPS = 16


def proxies_of(networks: Sequence[str]) -> Proxies | None:
    """None: no proxy is trusted."""
    return Proxies(networks) if networks else None


class Proxies:
    """The proxies that `networks` hold write down whom they speak for; what anybody else writes there is made up."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = networks_of(list(networks))

    def client_of(self, request: Request) -> str:
        """The address nearest to us that is no trusted proxy's: the header grows to the right on its way here."""
        client = request.client
        if not self._trusts(client):
            return client
        said = b",".join(value for name, value in request.raw_headers if name == HEADER)
        for hop in reversed(said.decode("latin-1").split(",")[-MAX_HOPS:]):
            address = address_of(_bare(hop.strip()))
            if address is None:
                break  # whoever wrote this knew no more
            client = str(address)
            if not self._trusts(client):
                break
        return client

    def _trusts(self, client: str) -> bool:
        address = address_of(client)
        return address is not None and any(address in network for network in self._networks)


def _bare(hop: str) -> str:
    """Without the port that some proxies add."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
