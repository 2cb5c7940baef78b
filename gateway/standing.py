"""What a tenant is to the queues: its share of engines that are full, and the class of its calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.config.limit_options import TenantOptions
from gateway.directory.entries import OrganisationEntry

FLOW = b"x-gateway-inference-fairness-id"
MAX_FLOW_BYTES = 128


class Standing:
    """
    tenants: of the configuration. What it sets of a tenant counts; what it does not, the directory says.
    organisation: what the directory has by that name.
    """

    def __init__(
        self,
        tenants: Mapping[str, TenantOptions] | None = None,
        organisation: Callable[[str], OrganisationEntry | None] = lambda name: None,
    ) -> None:
        self._organisation = organisation
        named = (tenants or {}).items()
        self._weights = {name: one.weight for name, one in named if "weight" in one.model_fields_set}
        self._priorities = {name: one.priority for name, one in named if "priority" in one.model_fields_set}

    def __repr__(self) -> str:
        return f"<Standing weights={self._weights} priorities={self._priorities}>"

    def weight(self, tenant: str) -> float:
        """Relative to the 1.0 of those of whom nothing is said."""
        weight = self._weights.get(tenant)
        if weight is not None:
            return weight
        entry = self._organisation(tenant)
        return 1.0 if entry is None else entry.weight

    def priority(self, tenant: str) -> int:
        """The class; a lower number goes first."""
        priority = self._priorities.get(tenant)
        if priority is not None:
            return priority
        entry = self._organisation(tenant)
        return 0 if entry is None else entry.priority


ALL_ALIKE = Standing()


class Weights:
    """Those of one queue: its own `weights`, and for tenants that are not among them those of everywhere."""

    def __init__(self, own: Mapping[str, float], standing: Standing) -> None:
        self._own = own
        self._standing = standing

    def __repr__(self) -> str:
        return f"<Weights {dict(self._own)} {self._standing!r}>"

    def get(self, tenant: str, otherwise: float, /) -> float:
        return self._own.get(tenant) or self._standing.weight(tenant)


def flow_of(headers: Mapping[bytes, bytes]) -> str:
    """Which of its tenant's flows a call belongs to, as a caller says who may; empty: to none in particular."""
    return headers.get(FLOW, b"")[:MAX_FLOW_BYTES].decode("latin-1")
