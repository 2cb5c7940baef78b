"""Which requests may go where: decided once for each call, before anything of it leaves (R11)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.config import Config
from gateway.errors import InvalidRequest
from gateway.http import Request
from gateway.identity import Caller

HEADER = b"x-headrace-sensitivity"


@dataclass(frozen=True, slots=True, eq=False)
class Clearance:
    """What a call of one sensitivity class may do. Every way out asks it.

    level:  place in `residency.classes`; more is more sensitive.
    pools:  the only pools that may see the call; None: all.
    traced: whether spans may go to the collector.
    """

    name: str
    level: int = 0
    pools: frozenset[str] | None = None
    traced: bool = True

    @property
    def is_confined(self) -> bool:
        """Whether there is anywhere that the call may not go."""
        return self.pools is not None

    def admits(self, pool: str) -> bool:
        return self.pools is None or pool in self.pools


ANYWHERE = Clearance("public")


class Residency:
    """The clearances of a configuration. What is not known to be allowed is not."""

    def __init__(self, config: Config) -> None:
        options = config.residency
        self._names = options.classes
        self._by_name: dict[str, Clearance] = {}
        sites: set[str] = {"on-premise", "cloud"}
        labels: set[tuple[str, str]] = set()
        for level, name in enumerate(options.classes):
            sites.intersection_update(options.sites.get(name, sites))
            labels.update(options.labels.get(name, {}).items())
            pools = frozenset(
                key for key, pool in config.pools.items() if pool.site in sites and labels <= pool.labels.items()
            )
            bound = len(sites) < 2 or bool(labels)
            traced = config.telemetry.tracing.site in sites
            self._by_name[name] = Clearance(name, level, pools if bound else None, traced)
        self.strictest = self._by_name[options.classes[-1]]
        """What is decided where nothing can be known."""
        self._default = self._by_name.get(options.default, self.strictest)
        self._of_tenants = {tenant: self._by_name.get(name, self.strictest) for tenant, name in options.tenants.items()}

    def of_key(self, caller: Caller) -> Clearance:
        """That of a caller who says nothing more."""
        name = caller.sensitivity
        clearance = self._by_name.get(name, self.strictest) if name else self._default
        least = self._of_tenants.get(caller.tenant)
        return clearance if least is None else self.stricter(clearance, least)

    def decide(self, caller: Caller, request: Request) -> Clearance:
        """From the key, tightened by the header `x-headrace-sensitivity`.

        Raises:
            InvalidRequest: the header names no class.
        """
        clearance = self.of_key(caller)
        if HEADER not in request.headers:
            return clearance
        # Proxies add lines and join them: the most sensitive one counts.
        values = [value for name, value in request.raw_headers if name == HEADER]
        return self.tightened(clearance, (part.strip() for value in values for part in value.split(b",")))

    def tightened(self, clearance: Clearance, names: Iterable[bytes]) -> Clearance:
        for raw in names:
            name = raw.decode("latin-1")
            found = self._by_name.get(name)
            if found is None:
                message = f"{HEADER.decode()} {name[:100]!r} is none of `residency.classes`: {', '.join(self._names)}."
                raise InvalidRequest(message, code="invalid_sensitivity", param=HEADER.decode())
            clearance = self.stricter(clearance, found)
        return clearance

    def judged(self, clearance: Clearance, name: str | None) -> Clearance:
        """Tightened by what a classifier said. None: nothing; what is no class counts as the most sensitive one."""
        if name is None:
            return clearance
        return self.stricter(clearance, self._by_name.get(name, self.strictest))

    @staticmethod
    def stricter(one: Clearance, other: Clearance) -> Clearance:
        return other if other.level > one.level else one
