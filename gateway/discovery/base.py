"""The seam to whatever knows where replicas are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gateway.clock import Clock
    from gateway.config import Pool

Found = Callable[[Sequence[str]], None]
"""Takes the whole set of base URLs, as it is now. Called again with the same set it does nothing."""


class DiscoveryError(Exception):
    """Where the replicas are cannot be found out. What was known before stays; the message is for the operator."""


class Discovery(Protocol):
    """One source of a pool's URLs."""

    @property
    def source(self) -> str:
        """What it looks at, for people."""
        ...

    async def watch(self, found: Found) -> None:
        """Call `found` with what is there now, and again whenever it changes. Does not return.

        Raises:
            DiscoveryError: that cannot be found out. Who runs this calls it again, after a pause.
        """
        ...


def discovery_of(options: Pool, clock: Clock) -> Discovery | None:
    """The source that a pool names; None for one whose replicas stay as they are."""
    if options.dns is not None:
        from gateway.discovery.dns import DnsDiscovery

        return DnsDiscovery(options.dns, clock)
    if options.file is not None:
        from gateway.discovery.file import FileDiscovery

        return FileDiscovery(options.file, clock)
    if options.kubernetes is not None:
        from gateway.discovery.kubernetes import KubernetesDiscovery

        return KubernetesDiscovery(options.kubernetes)
    return None
