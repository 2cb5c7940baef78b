"""Lets chat apps in browsers call the API from the origins that the configuration names."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.http import Request, Sink

_EXPOSED = (
    b"x-request-id, x-headrace-config, x-headrace-variant, x-headrace-pool, x-headrace-replica, x-headrace-attempts, "
    b"x-headrace-cache, retry-after, retry-after-ms, x-should-retry"
)


class Cors:
    """Answers browsers' questions, by the fetch standard's CORS protocol. `*` among the origins allows every one."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origin.rstrip("/").encode() for origin in origins)

    def lines(self, request: Request) -> bytes:
        """The header lines that an answer to `request` needs; none if its origin may not read it."""
        origin = request.headers.get(b"origin")
        if origin is None or not (self._any or origin in self._origins):
            return b""
        allowed = b"*" if self._any else origin
        return b"access-control-allow-origin: %b\r\naccess-control-expose-headers: %b\r\nvary: origin\r\n" % (
            allowed,
            _EXPOSED,
        )

    def is_preflight(self, request: Request) -> bool:
        return request.method == b"OPTIONS" and b"access-control-request-method" in request.headers

    @staticmethod
    def preflight(request: Request, sink: Sink, methods: bytes = b"GET, POST") -> None:
        """What may be sent; `lines` says whether this origin may at all."""
        wanted = request.headers.get(b"access-control-request-headers", b"authorization, content-type")
        sink.start(
            200,
            b"access-control-allow-methods: %b\r\naccess-control-allow-headers: %b\r\n"
            b"access-control-max-age: 600\r\n" % (methods, wanted),
            0,
        )
        sink.end()
