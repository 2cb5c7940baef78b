"""What a request of the admin API must be before any route sees it: from the right page, few enough, of somebody known.

A browser sends no key by itself, and nothing here is remembered in one: no cookie, no session. That is what protects
against forged requests; that a page of another origin is refused is a second lock on the same door.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

from gateway.config.database_options import Admin
from gateway.directory.roles import Role
from gateway.errors import ApiError, Forbidden, RateLimited, UnsupportedMediaType
from gateway.http import Request
from gateway.identity import Caller
from gateway.office.api.access import OPEN, Actor

MAX_CALLERS = 4096
"""Keys and addresses whose rates are known at once; the one seen longest ago is forgotten first."""
HEADER_LINES = (
    b"cache-control: no-store\r\n"
    b"x-content-type-options: nosniff\r\n"
    b"x-frame-options: DENY\r\n"
    b"referrer-policy: no-referrer\r\n"
)
"""Of every answer."""


class Rates:
    """Requests of each caller: a bucket that holds a second's worth and fills at the same rate."""

    def __init__(self, per_second: float, monotonic: Callable[[], float]) -> None:
        self._per_second = per_second
        self._burst = max(1.0, per_second)
        self._monotonic = monotonic
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def spend(self, who: str) -> float:
        """Count one request. Returns 0.0, or in how many seconds there is room for it."""
        now_s = self._monotonic()
        left, at_s = self._left.pop(who, (self._burst, now_s))
        left = min(self._burst, left + (now_s - at_s) * self._per_second)
        wait_s = 0.0 if left >= 1.0 else (1.0 - left) / self._per_second
        self._left[who] = (left if wait_s else left - 1.0, now_s)
        if len(self._left) > MAX_CALLERS:
            self._left.popitem(last=False)
        return wait_s


class Gate:
    """Lets requests in.

    identify: who sent it, by its headers and address; raises Unauthenticated for keys without a role.
    """

    def __init__(
        self,
        options: Admin,
        identify: Callable[[dict[bytes, bytes], str], Awaitable[Caller]],
        monotonic: Callable[[], float],
    ) -> None:
        self._origins = frozenset(origin.rstrip("/").encode() for origin in options.origins)
        self._per_second = options.requests_per_second
        self._identify = identify
        self._rates = Rates(options.requests_per_second, monotonic)

    async def admit(self, request: Request, request_id: str) -> Actor | None:
        """Who sent it, which `check_origin` let pass; None for paths that need no key.

        Raises:
            ApiError: it is not let in. Nothing was done.
        """
        if request.path in OPEN:
            self._count(f"from {request.client}")
            return None
        try:
            caller = await self._identify(request.headers, request.client)
        except ApiError:
            self._count(f"from {request.client}")
            raise
        self._count(f"key {caller.key_id or caller.key_name}")
        _check_body(request)
        role = Role(caller.role)
        return Actor(caller.key_name, role, caller.tenant, caller.key_id, request.client, request_id)

    def check_origin(self, request: Request) -> None:
        """Raises Forbidden: it comes from a page that has no business here."""
        origin = request.headers.get(b"origin")
        if origin is not None and origin not in self._origins:
            message = "Pages of this origin may not use the admin API; see admin.origins."
            raise Forbidden(message, code="origin_not_allowed")

    def _count(self, who: str) -> None:
        wait_s = self._rates.spend(who)
        if wait_s:
            message = f"Over {self._per_second:g} requests a second of one key or address (admin.requests_per_second)."
            raise RateLimited(message, code="admin_rate_limit", retry_after_s=wait_s)


def _check_body(request: Request) -> None:
    """A form of another page can send anything but JSON without asking first."""
    kind = request.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if (request.body or kind) and request.method not in (b"GET", b"HEAD") and kind != b"application/json":
        raise UnsupportedMediaType("The body must be JSON, with `content-type: application/json`.")
