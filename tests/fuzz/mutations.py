"""Valid requests, and mutations of them: the same seed makes the same ones."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator

from tests.fuzz import corpus

_SPICE = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b",", b"\x0b", b"\x7f", b"\xff", b"0", b"-", b"+", b"%",
    b"\r\n\r\n", b"\r\n ", b"\n\n", b"0\r\n\r\n", b"\r\n0\r\n\r\n", b"1\r\nx\r\n", b"ffffffff\r\n", b"5;x\r\n",
    b"Content-Length: 0\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: x\r\n",
    b"Connection: close\r\n", b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"Host: b\r\n",
    b"Host: [\r\n", b"Trailer: x\r\n", b"Content-Encoding: gzip\r\n", b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n",
    b"X: " + b"a" * 5000 + b"\r\n", b"X: a\r\n" * 210, b"/" * 17000, b"HTTP/1.1", b"HTTP/0.9", b"HTTP/2.0", b"{", b'"',
]  # fmt: skip


def requests(seed: int, count: int) -> Iterator[tuple[bytes, ...]]:
    """`count` mutated requests as the pieces to send: most in one, some in several."""
    rng = random.Random(seed)
    for number in range(count):
        data = _valid(rng, number)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            data = rng.choice(_MUTATIONS)(rng, data)
        yield _cut(rng, data) if rng.random() < 0.2 else (data,)


def _valid(rng: random.Random, number: int) -> bytes:
    one = rng.choice(_MAKERS)(rng, number)
    return one if rng.random() < 0.7 else one + rng.choice(_MAKERS)(rng, number)


def _call(rng: random.Random, number: int) -> tuple[bytes, bytes]:
    text = f"{number}-{rng.randrange(1 << 30)}"
    messages = [{"role": "user", "content": text}]
    calls: dict[bytes, dict[str, object]] = {
        b"/v1/chat/completions": {"messages": messages, "max_tokens": 1},
        b"/chat/completions": {"messages": messages, "max_tokens": 2, "stream": True},
        b"/v1/completions": {"prompt": text, "max_tokens": 1},
        b"/v1/embeddings": {"input": text},
        b"/tokenize": {"prompt": text},
    }
    path = rng.choice(list(calls))
    return path, json.dumps({"model": "m"} | calls[path]).encode()


def _fields(rng: random.Random) -> list[bytes]:
    some = [b"User-Agent: x", b"Content-Type: application/json", b"Expect: 100-continue", b"X-Request-Id: a1", b"X:",
            b"Connection: keep-alive", b"Connection: close", b"Connection: Upgrade\r\nUpgrade: h2c"]  # fmt: skip
    return [corpus.HOST, *rng.sample(some, rng.randrange(4))]


def _with_length(rng: random.Random, number: int) -> bytes:
    path, body = _call(rng, number)
    return corpus.request(b"POST %b HTTP/1.1" % path, *_fields(rng), b"Content-Length: %d" % len(body), body=body)


def _in_chunks(rng: random.Random, number: int) -> bytes:
    path, body = _call(rng, number)
    coded = corpus.in_chunks(body, sizes=[rng.randrange(1, 40) for _ in range(rng.randrange(3))])
    if rng.random() < 0.3:
        coded = coded[:-2] + b"X-Sum: 1\r\n\r\n"
    return corpus.request(b"POST %b HTTP/1.1" % path, *_fields(rng), corpus.CHUNKED, body=coded)


def _smuggling(rng: random.Random, number: int) -> bytes:
    """A body that is a request."""
    inner = _with_length(rng, number)
    inner = rng.choice((inner, b"0\r\n\r\n" + inner, b"\r\n" + inner))
    if rng.random() < 0.5:
        return corpus.request(corpus.CHAT, *_fields(rng), corpus.CHUNKED, body=corpus.chunked(inner))
    return corpus.request(corpus.CHAT, *_fields(rng), b"Content-Length: %d" % len(inner), body=inner)


def _plain(rng: random.Random, number: int) -> bytes:
    method = rng.choice((b"GET", b"GET", b"HEAD", b"OPTIONS", b"DELETE", b"POST"))
    target = rng.choice((b"/version", b"/v1/models", b"/v1/models/m", b"/health", b"/metrics", b"http://a/version"))
    version = rng.choice((b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"))
    return corpus.request(b"%b %b %b" % (method, target, version), *_fields(rng), body=b"")


_MAKERS: list[Callable[[random.Random, int], bytes]] = [_with_length, _with_length, _in_chunks, _in_chunks, _smuggling,
                                                       _plain]  # fmt: skip


def _somewhere(rng: random.Random, data: bytes) -> int:
    """Any place, most often in a head or beside an end of line, where requests are won."""
    ends = [at for at in range(len(data)) if data[at] in b"\r\n:"]
    if ends and rng.random() < 0.5:
        return rng.choice(ends)
    return rng.randrange(len(data) + 1)


def _insert(rng: random.Random, data: bytes) -> bytes:
    at = _somewhere(rng, data)
    return data[:at] + rng.choice(_SPICE) + data[at:]


def _insert_line(rng: random.Random, data: bytes) -> bytes:
    at = data.find(b"\r\n", rng.randrange(len(data) + 1)) + 2
    return data[:at] + rng.choice(_SPICE) + data[at:]


def _replace(rng: random.Random, data: bytes) -> bytes:
    at = _somewhere(rng, data)
    return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]


def _delete(rng: random.Random, data: bytes) -> bytes:
    at = _somewhere(rng, data)
    return data[:at] + data[at + rng.choice((1, 1, 1, 2, 4, 30)) :]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    at = _somewhere(rng, data)
    end = at + rng.randrange(1, 40)
    return data[:end] + data[at:end] * rng.choice((1, 1, 2, 50)) + data[end:]


def _repeat_line(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    at = rng.randrange(len(lines))
    return b"\r\n".join(lines[: at + 1] + lines[at:])


def _swap_lines(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\r\n".join(lines)


def _other_ends(rng: random.Random, data: bytes) -> bytes:
    return data.replace(
        b"\r\n", rng.choice((b"\n", b"\r", b"\n\r", b"\r\r\n", b"\r\n ", b" \r\n")), rng.choice((1, 2, -1))
    )


def _other_number(rng: random.Random, data: bytes) -> bytes:
    digits = [at for at in range(len(data)) if data[at : at + 1].isdigit()]
    at = rng.choice(digits) if digits else 0
    return data[:at] + rng.choice((b"0", b"1", b"9", b"99", b"+1", b"0x1", b"-1", b"", b"1 1", b"1,1")) + data[at + 1 :]


def _other_case(rng: random.Random, data: bytes) -> bytes:
    at = _somewhere(rng, data)
    return data[:at] + data[at : at + 20].swapcase() + data[at + 20 :]


def _cut_short(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(1, len(data) + 1)]


def _cut(rng: random.Random, data: bytes) -> tuple[bytes, ...]:
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 4)))
    return tuple(data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True))


_MUTATIONS: list[Callable[[random.Random, bytes], bytes]] = [
    _insert, _insert, _insert_line, _insert_line, _replace, _replace, _delete, _repeat, _repeat_line, _swap_lines,
    _other_ends, _other_number, _other_number, _other_case, _cut_short,
]  # fmt: skip
