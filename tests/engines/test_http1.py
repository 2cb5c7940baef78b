"""The response decoder against llhttp, against the RFC's malformed cases, and against what real engines sent."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.base import EngineDied, EngineProtocolError
from engines.http1 import MAX_HEAD_BYTES, MAX_LINE_BYTES, ResponseDecoder
from tests.golden.loader import Case, cases

_CANONICAL = re.compile(rb"([0-9a-fA-F]+)\r\n(.*)\r\n", re.DOTALL)
_OK = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = _OK + b"Transfer-Encoding: chunked\r\n\r\n"


@dataclass
class Target:
    """Collects what a decoder says, and checks that it says it in order."""

    decoder: ResponseDecoder
    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    pieces: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    completed: int = 0
    keep_alive: bool | None = None

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        assert not self.status
        self.status, self.headers = status, headers

    def on_body(self, payload: bytes, framed: bytes | None) -> None:
        assert self.status
        assert not self.completed
        assert payload
        self.pieces.append((payload, framed))

    def on_complete(self) -> None:
        self.completed += 1
        self.keep_alive = self.decoder.keep_alive

    @property
    def body(self) -> bytes:
        return b"".join(payload for payload, _ in self.pieces)


def decode(pieces: Iterable[bytes], *, eof: bool = False) -> Target:
    decoder = ResponseDecoder()
    target = Target(decoder)
    decoder.start(target)
    for piece in pieces:
        decoder.feed(piece)
    if eof:
        decoder.eof()
    return target


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]


class Oracle:
    """What llhttp makes of the same bytes."""

    def __init__(self, raw: bytes, *, eof: bool) -> None:
        self.body = b""
        self.completed = 0
        self.keep_alive = False
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(raw)
        self.status = self._parser.get_status_code()
        self.completed += eof

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.completed += self._parser.get_status_code() >= 200
        if self._parser.get_status_code() >= 200:
            self.keep_alive = self._parser.should_keep_alive()


_NAMES = st.sampled_from([b"Server", b"date", b"X-Request-ID", b"Keep-Alive", b"Access-Control-Allow-Origin", b"Vary"])
_VALUES = st.sampled_from([b"", b"uvicorn", b"timeout=5, max=100", b"a:b;c", b"caf\xe9", b"tab\there"])
_FIELDS = st.lists(st.tuples(_NAMES, st.sampled_from([b":", b": ", b":\t ", b":  "]), _VALUES), max_size=4)
_INTERIM = st.sampled_from(
    [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 2]
)
_EXTENSIONS = st.sampled_from([b"", b"", b";a", b";a=b", b';a="b c"', b";a;b=1"])
_TRAILERS = st.sampled_from([b"", b"X-Sum: 1\r\n", b"a: b\r\nc: \r\n"])
_PAYLOADS = st.binary(min_size=1, max_size=40) | st.sampled_from([b"\r\n", b"data: x\n\n", b"0\r\n\r\n", b"z" * 20000])


@dataclass(frozen=True)
class Answer:
    raw: bytes
    status: int
    body: bytes
    keep_alive: bool
    until_close: bool


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    status = draw(st.sampled_from([200, 200, 201, 400, 404, 503, 204, 304]))
    fields = b"".join(b"%b%b%b\r\n" % part for part in draw(_FIELDS))
    connection = draw(st.sampled_from([b"", b"Connection: keep-alive\r\n", b"connection: Close\r\n"]))
    keep_alive = b"Close" not in connection
    payloads = draw(st.lists(_PAYLOADS, max_size=6)) if status not in (204, 304) else []
    body = b"".join(payloads)
    until_close = False
    if status in (204, 304):
        framing, sent = b"", b""
    elif draw(st.booleans()):
        framing, sent = b"Transfer-Encoding: chunked\r\n", draw(chunked(payloads))
    elif draw(st.booleans()):
        framing, sent = b"Content-Length: %d\r\n" % len(body), body
    else:
        framing, sent, until_close, keep_alive = b"", body, True, False
    head = b"HTTP/1.1 %d Whatever it is\r\n%b%b%b\r\n" % (status, fields, framing, connection)
    return Answer(draw(_INTERIM) + head + sent, status, body, keep_alive, until_close)


@st.composite
def chunked(draw: st.DrawFn, payloads: list[bytes]) -> bytes:
    sent = b""
    for payload in payloads:
        size = draw(st.sampled_from(["%x", "%X", "0%x", "000%X"])) % len(payload)
        sent += b"%b%b\r\n%b\r\n" % (size.encode(), draw(_EXTENSIONS), payload)
    last = draw(st.sampled_from([b"0", b"00", b"0;last"]))
    return sent + last + b"\r\n" + draw(_TRAILERS) + b"\r\n"


@given(answers(), st.lists(st.integers(0, 1 << 20), max_size=12))
def test_a_valid_answer_reads_as_llhttp_reads_it_wherever_it_is_cut(answer: Answer, places: list[int]) -> None:
    oracle = Oracle(answer.raw, eof=answer.until_close)
    target = decode(cut(answer.raw, places), eof=answer.until_close)
    assert (target.status, target.body, target.completed) == (oracle.status, oracle.body, oracle.completed)
    assert (target.status, target.body, target.completed) == (answer.status, answer.body, 1)
    assert target.keep_alive == answer.keep_alive
    assert target.keep_alive == oracle.keep_alive
    for payload, framed in target.pieces:
        if framed is not None:
            match = _CANONICAL.fullmatch(framed)
            assert match is not None
            assert int(match[1], 16) == len(payload)
            assert match[2] == payload


def test_a_chunk_that_arrives_whole_is_handed_on_with_its_framing() -> None:
    target = decode([_CHUNKED, b"5\r\nhello\r\n", b"A\r\n0123456789\r\n3\r\nabc\r\n", b"0\r\n\r\n"])
    assert target.pieces == [
        (b"hello", b"5\r\nhello\r\n"),
        (b"0123456789", b"A\r\n0123456789\r\n"),
        (b"abc", b"3\r\nabc\r\n"),
    ]


def test_a_chunk_with_an_extension_or_cut_in_two_is_handed_on_without_framing() -> None:
    target = decode([_CHUNKED + b"5 ;x=y\r\nhello\r\n", b"5\r\nwo", b"rld\r\n0\r\n\r\n"])
    assert target.pieces == [(b"hello", None), (b"wo", None), (b"rld", None)]


_BAD_SIZES = [
    *(
        b"+5",
        b"-5",
        b"0x5",
        b"1_0",
        b" 5",
        b"5 ",
        b"\t5",
        b"5\t",
        b"",
        b";x",
        b"g",
        b"5 5",
        b"5,5",
        b"5\x00",
        b"5;\x00",
    ),
    *(b"5;a\nb", b"5\r", b"5\n", b"f" * 16, b"\xef\xbc\x95", b"5.0", b"5;\x7f"),
]


def refused(raw: bytes) -> bool:
    """Whether `raw` is refused both in one piece and in pieces of one byte, at the latest when the peer closes."""
    for pieces in ([raw], [raw[i : i + 1] for i in range(len(raw))]):
        try:
            decode(pieces)
        except EngineProtocolError:
            continue
        return False
    return True


@pytest.mark.parametrize("size", _BAD_SIZES, ids=repr)
def test_a_malformed_chunk_size_is_refused_at_once(size: bytes) -> None:
    assert refused(_CHUNKED + size + b"\r\nhello\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xfe\x00\x01",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.2 200 OK\r\n\r\n",
        b"HTTP/1.1 200OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 600 No\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 200 O\nK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
        _OK + b"Content-Length: 2\n\r\n\r\nhi",
        _OK + b"Server: a\rb\r\nContent-Length: 2\r\n\r\nhi",
        _OK + b"Server: a\nX: y\r\nContent-Length: 2\r\n\r\nhi",
        _OK + b"Server: a\x00b\r\nContent-Length: 2\r\n\r\nhi",
        _OK + b"Server: a\r\n folded\r\nContent-Length: 2\r\n\r\nhi",
        _OK + b"Server : a\r\nContent-Length: 2\r\n\r\nhi",
        _OK + b"no colon\r\n\r\n",
        _OK + b": no name\r\n\r\n",
        _OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
        _OK + b"Content-Length: 2, 2\r\n\r\nhi",
        _OK + b"Content-Length: +2\r\n\r\nhi",
        _OK + b"Content-Length: -2\r\n\r\nhi",
        _OK + b"Content-Length: 0x2\r\n\r\nhi",
        _OK + b"Content-Length: 2_0\r\n\r\nhi",
        _OK + b"Content-Length: \xb2\r\n\r\nhi",
        _OK + b"Content-Length:\r\n\r\nhi",
        _OK + b"Content-Length: 9999999999999999\r\n\r\nhi",
        _OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        _OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        _OK + b"Transfer-Encoding: identity\r\n\r\n",
        _OK + b"Transfer-Encoding: chunke\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        _CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n",
        _CHUNKED + b"5\r\nhello\n0\r\n\r\n",
        _CHUNKED + b"5\r\nhello\r0\r\n\r\n",
        _CHUNKED + b"5\nhello\n0\n\n",
        _CHUNKED + b"0\r\n\n",
        _CHUNKED + b"0\r\nno colon\r\n\r\n",
        _CHUNKED + b"0\r\na: b\n\r\n\r\n",
        _CHUNKED + b"0\r\na: \x00\r\n\r\n",
        _CHUNKED + b"0\r\n folded: x\r\n\r\n",
    ],
    ids=repr,
)
def test_a_malformed_answer_is_refused_without_waiting_for_more(raw: bytes) -> None:
    assert refused(raw)


@pytest.mark.parametrize("tail", [b"", b"\r\n\r\n"])
def test_heads_and_lines_are_bounded_however_they_arrive(tail: bytes) -> None:
    long_head = _OK + b"x: " + b"y" * MAX_HEAD_BYTES + tail
    long_size = _CHUNKED + b"5;" + b"y" * MAX_LINE_BYTES + tail
    long_trailer = _CHUNKED + b"0\r\nx: " + b"y" * MAX_LINE_BYTES + tail
    for raw in (long_head, long_size, *([] if tail else [long_trailer])):
        with pytest.raises(EngineProtocolError, match=f"over {MAX_HEAD_BYTES}|over {MAX_LINE_BYTES}"):
            decode([raw])
        with pytest.raises(EngineProtocolError, match=f"over {MAX_HEAD_BYTES}|over {MAX_LINE_BYTES}"):
            decode(cut(raw, range(0, len(raw), 1000)))


@given(
    st.binary(max_size=200), st.sampled_from([b"", _OK, _CHUNKED, _OK + b"content-length: 5\r\n\r\n", b"HTTP/1.1 2"])
)
def test_arbitrary_bytes_end_in_an_answer_or_an_engine_error_and_cuts_do_not_matter(tail: bytes, head: bytes) -> None:
    def told(pieces: list[bytes]) -> tuple[str, bytes]:
        decoder = ResponseDecoder()
        target = Target(decoder)
        decoder.start(target)
        try:
            for piece in pieces:
                if decoder.complete:
                    break
                decoder.feed(piece)
            decoder.eof()
        except (EngineProtocolError, EngineDied) as error:
            return type(error).__name__, b""
        assert target.completed == 1
        return "complete", target.body

    raw = head + tail
    assert told([raw] if raw else []) == told([raw[i : i + 1] for i in range(len(raw))])


@pytest.mark.parametrize("fields", [b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b""])
@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_a_status_that_has_no_body_ends_with_its_head_whatever_the_head_announces(status: bytes, fields: bytes) -> None:
    target = decode([b"HTTP/1.1 %b\r\n%b\r\n" % (status, fields)])
    assert (target.completed, target.body, target.keep_alive) == (1, b"", True)


def test_chunked_wins_over_a_length_and_the_connection_is_not_used_again() -> None:
    target = decode([_OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"])
    assert (target.body, target.keep_alive) == (b"hello", False)


def test_the_same_length_twice_is_one_length() -> None:
    assert decode([_OK + b"Content-Length: 2\r\ncontent-length: 2\r\n\r\nhi"]).body == b"hi"


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nConnection: x-hop\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n", True),
    ],
)
def test_the_head_says_whether_the_connection_may_be_kept(head: bytes, keep_alive: bool) -> None:
    assert decode([head + b"Content-Length: 2\r\n\r\nhi"]).keep_alive is keep_alive


@pytest.mark.parametrize("answer", [_OK + b"Content-Length: 2\r\n\r\nhi", _CHUNKED + b"2\r\nhi\r\n0\r\n\r\n"])
def test_bytes_after_the_end_forbid_another_request_before_completion_is_told(answer: bytes) -> None:
    target = decode([answer + b"HTTP/1.1 200 OK\r\n"])
    assert (target.body, target.completed, target.keep_alive) == (b"hi", 1, False)


def test_bytes_that_nobody_asked_for_are_refused() -> None:
    decoder = ResponseDecoder()
    with pytest.raises(EngineProtocolError, match="after the end"):
        decoder.feed(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert not decoder.keep_alive


@pytest.mark.parametrize(
    "raw", [b"", b"HTTP/1.1 2", _CHUNKED, _CHUNKED + b"0\r\n", _OK + b"Content-Length: 2\r\n\r\nh"]
)
def test_a_close_before_the_end_is_a_death(raw: bytes) -> None:
    with pytest.raises(EngineDied, match="before its answer was complete"):
        decode([raw] if raw else [], eof=True)


def test_a_decoder_reads_one_answer_after_another() -> None:
    decoder = ResponseDecoder()
    for body in (b"first", b"second"):
        target = Target(decoder)
        decoder.start(target)
        assert not decoder.started
        assert not decoder.complete
        decoder.feed(_OK + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        assert decoder.started
        assert decoder.complete
        assert (target.body, target.headers) == (body, {b"content-length": b"%d" % len(body)})


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.id)
def test_recorded_answers_read_the_same_at_every_cut(case: Case) -> None:
    step = max(1, len(case.raw) // 3000)
    for place in range(1, len(case.raw), step):
        target = decode([case.raw[:place], case.raw[place:]])
        assert target.body == case.body
        assert (target.status, target.completed) == (case.status, 1)
    drip = decode([case.raw[i : i + 1] for i in range(len(case.raw))])
    assert (drip.body, drip.headers) == (case.body, case.headers)
