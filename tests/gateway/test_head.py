"""Which heads are served, as pure functions; tests/fuzz asks the same of the whole server."""

from __future__ import annotations

import pytest

from gateway.http.head import fault_of, origin_form

HOST = (b"host", b"a")


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        (b"GET", b"/a?b", b"/a?b"),
        (b"GET", b"http://a/b?c", b"/b?c"),
        (b"GET", b"HTTPS://a:1", b"/"),
        (b"GET", b"http://a?b", b"/?b"),
        (b"OPTIONS", b"*", b"*"),
        (b"GET", b"*", None),
        (b"GET", b"http://", None),
        (b"GET", b"ftp://a/", None),
        (b"CONNECT", b"a:80", None),
        (b"CONNECT", b"/a", None),
    ],
)
def test_a_target_is_a_path_or_a_whole_url(method: bytes, target: bytes, expected: bytes | None) -> None:
    assert origin_form(method, target) == expected


@pytest.mark.parametrize(
    ("version", "headers", "status"),
    [
        ("1.1", [HOST], None),
        ("1.0", [], None),
        ("1.1", [HOST, (b"content-length", b"10 \t")], None),
        ("1.1", [HOST, (b"transfer-encoding", b"Chunked ")], None),
        ("1.1", [], 400),
        ("1.1", [HOST, HOST], 400),
        ("1.1", [(b"host", b"a b")], 400),
        ("1.1", [HOST, (b"content-length", b"+1")], 400),
        ("1.1", [HOST, (b"content-length", b"1" * 19)], 400),
        ("1.1", [HOST, (b"content-length", b"11")], 413),
        ("1.1", [HOST, (b"transfer-encoding", b"gzip, chunked")], 400),
        ("1.1", [HOST, (b"transfer-encoding", b"chunked"), (b"content-length", b"1")], 400),
        ("1.0", [HOST, (b"transfer-encoding", b"chunked")], 400),
        ("0.9", [HOST], 400),
        ("2.0", [HOST], 400),
    ],
)
def test_a_head_that_two_readers_could_take_in_two_ways_is_refused(
    version: str, headers: list[tuple[bytes, bytes]], status: int | None
) -> None:
    fault = fault_of(version, headers, max_body_bytes=10)
    assert (fault.status if fault else None) == status
