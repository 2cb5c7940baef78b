"""Where a pool's replicas are found while the gateway runs."""

from gateway.discovery.base import Discovery, DiscoveryError, Found, discovery_of

__all__ = ["Discovery", "DiscoveryError", "Found", "discovery_of"]
