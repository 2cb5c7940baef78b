"""Requests written by hand: those that must be served whole, and those that must be refused."""

from __future__ import annotations

from collections.abc import Sequence

BODY = b'{"model":"m","messages":[{"role":"user","content":"by hand"}],"max_tokens":1}'
CHAT = b"POST /v1/chat/completions HTTP/1.1"
HOST = b"Host: gateway"
LENGTH = b"Content-Length: %d" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked"


def request(line: bytes = CHAT, *fields: bytes, body: bytes = BODY) -> bytes:
    return b"\r\n".join([line, *(fields or (HOST, LENGTH)), b"", b""]) + body


def chunked(payload: bytes = BODY, size: bytes = b"", tail: bytes = b"0\r\n\r\n", end: bytes = b"\r\n") -> bytes:
    """A body of one chunk. `size`: its size line without the end."""
    return (size or b"%x" % len(payload)) + b"\r\n" + payload + end + tail


def in_chunks(payload: bytes = BODY, *, sizes: Sequence[int] = (1, 7, 16)) -> bytes:
    pieces, at = b"", 0
    for size in (*sizes, len(payload)):
        piece = payload[at : at + size]
        pieces += b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
        at += size
    return pieces + b"0\r\n\r\n"


def coded(*fields: bytes, body: bytes = b"") -> bytes:
    return request(CHAT, HOST, *fields, body=body or chunked())


def of_size(line: bytes) -> bytes:
    """A chunk whose size line is `line`, with its size at %x."""
    return coded(CHUNKED, body=chunked(size=line.replace(b"%x", b"%x" % len(BODY))))


def get(target: bytes, *fields: bytes, method: bytes = b"GET", version: bytes = b"HTTP/1.1") -> bytes:
    return request(b"%b %b %b" % (method, target, version), *(fields or (HOST,)), body=b"")


SMUGGLED = request(CHAT, HOST, b"Content-Length: 80", body=BODY.replace(b"by hand", b"smuggled").ljust(80))
"""What must not reach the engine when it follows a refused request."""

SERVED = {
    "with a length": request(),
    "with a padded length": request(CHAT, HOST, b"Content-Length: 000%d" % len(BODY)),
    "with space around the length": request(CHAT, HOST, b"Content-Length:\t %d \t " % len(BODY)),
    "chunked": coded(CHUNKED),
    "in many chunks": coded(CHUNKED, body=in_chunks()),
    "chunked after a tab": coded(b"Transfer-Encoding:\tchunked"),
    "chunked in capitals": coded(b"TRANSFER-ENCODING: CHUNKED"),
    "chunked after an empty header": coded(b"X:", CHUNKED),
    "chunk size in capitals": of_size(b"%x".upper().replace(b"%X", b"%X" % len(BODY))),
    "chunk size with zeros": of_size(b"00000%x"),
    "chunk with an extension": of_size(b"%x;name=value"),
    "chunk with a quoted extension": of_size(b'%x;name="a;b"'),
    "last chunk of two zeros": coded(CHUNKED, body=chunked(tail=b"00\r\n\r\n")),
    "trailers": coded(CHUNKED, body=chunked(tail=b"0\r\nX-Checksum: 1\r\nExpires: 0\r\n\r\n")),
    "a trailer that names a key": coded(CHUNKED, body=chunked(tail=b"0\r\nAuthorization: Bearer x\r\n\r\n")),
    "a trailer that names a coding": coded(CHUNKED, body=chunked(tail=b"0\r\nContent-Encoding: gzip\r\n\r\n")),
    "a trailer that names a host": coded(CHUNKED, body=chunked(tail=b"0\r\nHost: other\r\n\r\n")),
    "HTTP/1.0": request(b"POST /v1/chat/completions HTTP/1.0", LENGTH),
    "a whole URL": request(b"POST http://other:80/v1/chat/completions HTTP/1.1"),
    "a whole URL in capitals": request(b"POST HTTPS://other/v1/chat/completions?a=b HTTP/1.1"),
    "an offer of h2c": request(
        CHAT, HOST, LENGTH, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQ"
    ),
    "an offer of h2c, chunked": coded(CHUNKED, b"Connection: Upgrade", b"Upgrade: h2c"),
    "an offer of a web socket": request(CHAT, HOST, LENGTH, b"Connection: upgrade", b"Upgrade: websocket"),
    "expecting 100": request(CHAT, HOST, LENGTH, b"Expect: 100-continue"),
    "expecting 100 twice": request(CHAT, HOST, LENGTH, b"Expect: 100-continue", b"Expect: 100-Continue"),
    "expecting tea": request(CHAT, HOST, LENGTH, b"Expect: tea"),
    "a body that is announced as hop-by-hop": request(CHAT, HOST, LENGTH, b"Connection: content-length"),
    "blank lines before it": b"\r\n\r\n" + request(),
    "a header of other bytes": request(CHAT, HOST, LENGTH, b"X: \xff\xfe\t\xc3\xa9"),
    "an empty host": request(CHAT, b"Host:", LENGTH),
    "an address as host": request(CHAT, b"Host: [::1]:8080", LENGTH),
    "a query": request(b"POST /v1/chat/completions?a=%zz&b=../.. HTTP/1.1"),
    "without v1": request(b"POST /chat/completions HTTP/1.1"),
    "closing": request(CHAT, HOST, LENGTH, b"Connection: close"),
}

REFUSED = {
    "two lengths": request(CHAT, HOST, LENGTH, LENGTH),
    "two different lengths": request(CHAT, HOST, LENGTH, b"Content-Length: 1"),
    "a list of lengths": request(CHAT, HOST, b"%b, %d" % (LENGTH, len(BODY))),
    "a signed length": request(CHAT, HOST, b"Content-Length: +%d" % len(BODY)),
    "a negative length": request(CHAT, HOST, b"Content-Length: -1"),
    "a hexadecimal length": request(CHAT, HOST, b"Content-Length: 0x4d"),
    "a length of two numbers": request(CHAT, HOST, b"Content-Length: 7 7"),
    "an empty length": request(CHAT, HOST, b"Content-Length:"),
    "a huge length": request(CHAT, HOST, b"Content-Length: 99999999999999999999999"),
    "a length over 64 bits by its own size": request(CHAT, HOST, b"Content-Length: 18446744073709551693"),
    "length and chunked": coded(LENGTH, CHUNKED),
    "chunked and length": coded(CHUNKED, LENGTH),
    "chunked and no length": coded(CHUNKED, b"Content-Length: 0"),
    "chunked in HTTP/1.0": request(b"POST /v1/chat/completions HTTP/1.0", HOST, CHUNKED, body=chunked()),
    "xchunked": coded(b"Transfer-Encoding: xchunked"),
    "chunkedx": coded(b"Transfer-Encoding: chunkedx"),
    "chunked, identity": coded(b"Transfer-Encoding: chunked, identity"),
    "identity": coded(b"Transfer-Encoding: identity"),
    "identity with a length": request(CHAT, HOST, LENGTH, b"Transfer-Encoding: identity"),
    "gzip, chunked": coded(b"Transfer-Encoding: gzip, chunked"),
    "chunked, chunked": coded(b"Transfer-Encoding: chunked, chunked"),
    "chunked with a parameter": coded(b"Transfer-Encoding: chunked;q=1"),
    "chunked in quotes": coded(b'Transfer-Encoding: "chunked"'),
    "chunked after a comma": coded(b"Transfer-Encoding: ,chunked"),
    "chunked before a comma": coded(b"Transfer-Encoding: chunked,"),
    "chunked after a vertical tab": coded(b"Transfer-Encoding: \x0bchunked"),
    "chunked folded": coded(b"Transfer-Encoding:\r\n chunked"),
    "chunked before a space and a colon": coded(b"Transfer-Encoding : chunked"),
    "chunked twice": coded(CHUNKED, CHUNKED),
    "identity and chunked": coded(b"Transfer-Encoding: identity", CHUNKED),
    "chunked and identity": coded(CHUNKED, b"Transfer-Encoding: identity"),
    "an empty coding": request(CHAT, HOST, b"Transfer-Encoding:", LENGTH),
    "a coding cut by NUL": coded(b"Transfer-Encoding: chunked\0"),
    "a signed chunk size": of_size(b"+%x"),
    "a negative chunk size": of_size(b"-%x"),
    "a chunk size with 0x": of_size(b"0x%x"),
    "a chunk size with an underscore": of_size(b"4_d"),
    "a chunk size before a space": of_size(b"%x "),
    "a chunk size after a space": of_size(b" %x"),
    "a chunk size before a tab": of_size(b"%x\t"),
    "an extension after a space": of_size(b"%x ;a=b"),
    "an extension of nothing": of_size(b"%x;"),
    "an extension with LF": of_size(b"%x;a\nb"),
    "an extension with CR": of_size(b"%x;a\rb"),
    "an extension with NUL": of_size(b"%x;a\0b"),
    "a quoted extension with LF": of_size(b'%x;a="\n"'),
    "a quoted extension with CRLF": of_size(b'%x;a="\r\n"'),
    "a chunk size over 64 bits": of_size(b"10000000000000%x"[:-2] + b"000004d"),
    "no chunk size": coded(CHUNKED, body=b"\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk longer than its size": of_size(b"%x" % (len(BODY) - 1)),
    "a chunk shorter than its size": of_size(b"%x" % (len(BODY) + 1)),
    "a chunk without its end": coded(CHUNKED, body=chunked(end=b"")),
    "a chunk that ends in LF": coded(CHUNKED, body=chunked(end=b"\n")),
    "a chunk that ends in letters": coded(CHUNKED, body=chunked(end=b"XX")),
    "a size line that ends in LF": coded(CHUNKED, body=chunked().replace(b"\r\n", b"\n", 1)),
    "a last chunk that ends in LF": coded(CHUNKED, body=chunked(tail=b"0\n\n")),
    "a trailer that folds": coded(CHUNKED, body=chunked(tail=b"0\r\nX: a\r\n b\r\n\r\n")),
    "a trailer that ends in LF": coded(CHUNKED, body=chunked(tail=b"0\r\nX: a\n\n")),
    "a trailer that is a length": coded(CHUNKED, body=chunked(tail=b"0\r\nContent-Length: 5\r\n\r\n")),
    "a trailer that is a coding": coded(CHUNKED, body=chunked(tail=b"0\r\nTransfer-Encoding: chunked\r\n\r\n")),
    "a folded header": request(CHAT, HOST, b"X: a\r\n b", LENGTH),
    "a folded first header": request(CHAT, b" X: a", HOST, LENGTH),
    "LF for CRLF": request().replace(b"\r\n", b"\n"),
    "CR for CRLF": request().replace(b"\r\n", b"\r"),
    "LF after the request line": request().replace(b"\r\n", b"\n", 1),
    "LF after a header": request().replace(b"gateway\r\n", b"gateway\n"),
    "CR after a header": request().replace(b"gateway\r\n", b"gateway\r"),
    "LF before the body": request().replace(b"\r\n\r\n", b"\r\n\n"),
    "CR in a header": request(CHAT, HOST, b"X: a\rb", LENGTH),
    "CR before CRLF": request(CHAT, HOST, b"X: a\r", LENGTH),
    "NUL in a header": request(CHAT, HOST, b"X: a\0b", LENGTH),
    "NUL in a name": request(CHAT, HOST, b"X\0: a", LENGTH),
    "a control character in a header": request(CHAT, HOST, b"X: a\x01", LENGTH),
    "DEL in a header": request(CHAT, HOST, b"X: \x7f", LENGTH),
    "a space before the colon": request(CHAT, HOST, b"X : a", LENGTH),
    "a length with a space before the colon": request(CHAT, HOST, b"Content-Length : 5", LENGTH),
    "no name": request(CHAT, HOST, b": a", LENGTH),
    "no colon": request(CHAT, HOST, b"Xa", LENGTH),
    "a name of other bytes": request(CHAT, HOST, b"\xc3\xa9: a", LENGTH),
    "no host": request(CHAT, LENGTH),
    "two hosts": request(CHAT, HOST, HOST, LENGTH),
    "a host with a space": request(CHAT, b"Host: a b", LENGTH),
    "a host with a path": request(CHAT, b"Host: a/b", LENGTH),
    "a host with a name": request(CHAT, b"Host: me@a", LENGTH),
    "half an address as host": request(CHAT, b"Host: [::1", LENGTH),
    "an authority": get(b"other:80"),
    "a tunnel": get(b"other:80", method=b"CONNECT"),
    "a tunnel to a path": request(b"CONNECT /v1/chat/completions HTTP/1.1"),
    "a star": get(b"*"),
    "another scheme": get(b"ftp://other/version"),
    "a URL without a host": get(b"http:///version"),
    "a relative path": get(b"version"),
    "a query alone": get(b"?a"),
    "a backslash": get(b"\\version"),
    "NUL in the target": get(b"/ver\0sion"),
    "other bytes in the target": get(b"/v1/models/\xc3\xa9"),
    "a tab in the target": get(b"/v1/models/\tm"),
    "a form feed in the target": get(b"/v1/models/\x0cm"),
    "a method in small letters": request(b"post /v1/chat/completions HTTP/1.1"),
    "an unknown method": get(b"/version", method=b"BREW"),
    "a tab after the method": request(b"POST\t/v1/chat/completions HTTP/1.1"),
    "a space before the method": b" " + request(),
    "a space after the version": request(CHAT + b" "),
    "HTTP/0.9": get(b"/version", version=b"HTTP/0.9"),
    "HTTP/1.2": get(b"/version", version=b"HTTP/1.2"),
    "HTTP/1.10": get(b"/version", version=b"HTTP/1.10"),
    "HTTP/2.0": get(b"/version", version=b"HTTP/2.0"),
    "HTTP/3": get(b"/version", version=b"HTTP/3"),
    "http/1.1": get(b"/version", version=b"http/1.1"),
    "a HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0",
    "no version": b"GET /version\r\n" + HOST + b"\r\n\r\n",
    "an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "a TLS hello": bytes.fromhex("16030100c5010000c10303") + bytes(range(48)),
    "garbage": bytes(range(128, 256)),
}
"""One 400 each, then the end."""

TOO_LARGE = {
    "a target": get(b"/" + b"a" * 20_000),
    "a header": request(CHAT, HOST, LENGTH, b"X: " + b"a" * 70_000),
    "a header name": request(CHAT, HOST, LENGTH, b"a" * 70_000 + b": x"),
    "a header without an end": request(CHAT, HOST, b"X: " + b"a" * 400_000)[:-10],
    "many headers": request(CHAT, HOST, LENGTH, *[b"X: a"] * 201),
    "headers in sum": request(CHAT, HOST, LENGTH, *[b"X: " + b"a" * 1000] * 70),
    "trailers": coded(CHUNKED, body=chunked(tail=b"0\r\n" + b"X: a\r\n" * 80_000 + b"\r\n")),
    "an extension": of_size(b"%x;" + b"a" * 400_000),
}
"""One 431 each, then the end."""

ANSWERED = {
    "TRACE": (get(b"/version", method=b"TRACE"), 405),
    "PURGE": (get(b"/version", method=b"PURGE"), 405),
    "a model call with GET": (get(b"/v1/chat/completions"), 405),
    "a model call with HEAD": (get(b"/v1/chat/completions", method=b"HEAD"), 405),
    "a body on GET": (request(b"GET /version HTTP/1.1"), 200),
    "OPTIONS for all": (get(b"*", method=b"OPTIONS"), 404),
    "dots in the path": (get(b"/v1/../version"), 404),
    "coded dots in the path": (get(b"/v1/%2e%2e/version"), 404),
    "a coded slash": (request(b"POST /v1%2Fchat%2Fcompletions HTTP/1.1"), 404),
    "a coded letter": (request(b"POST /v1/%63hat/completions HTTP/1.1"), 404),
    "a double slash": (request(b"POST //v1/chat/completions HTTP/1.1"), 404),
    "a slash at the end": (get(b"/version/"), 404),
    "broken codes": (get(b"/v1/models/%zz%00%ff%"), 404),
    "a coded CRLF": (get(b"/v1/models/%0d%0aX:%20y"), 404),
    "a fragment": (get(b"/version#a"), 404),
    "marks in the path": (get(b'/v1/models/"<>^`{|}'), 404),
    "a URL without a path": (get(b"http://other"), 404),
    "a URL with a query alone": (get(b"http://other?a"), 404),
    "a web socket": (get(b"/version", HOST, b"Connection: Upgrade", b"Upgrade: websocket"), 200),
    "expecting 100 without a body": (get(b"/version", HOST, b"Expect: 100-continue"), 200),
}
"""Whole requests and their status; the connection goes on."""
