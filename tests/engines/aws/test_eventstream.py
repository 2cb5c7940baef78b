"""Frames of `application/vnd.amazon.eventstream`, with botocore's decoder as the judge."""

from __future__ import annotations

import contextlib
import struct
from zlib import crc32

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from engines.aws.eventstream import MAX_HEADERS_BYTES, MAX_PAYLOAD_BYTES, EventStreamDecoder
from engines.base import EngineDied, EngineProtocolError
from tests.engines.aws.wire import encoded, event, header, message

STREAM = message({":message-type": "event", ":event-type": "a"}, b"one") + message({}, b"") + event("b", n="ü")


def of_botocore(data: bytes) -> list[tuple[dict[str, object], bytes]]:
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    return [(found.headers, found.payload) for found in buffer]


def of_ours(*pieces: bytes) -> list[tuple[dict[str, object], bytes]]:
    decoder = EventStreamDecoder()
    found = [(dict[str, object](one.headers), one.payload) for piece in pieces for one in decoder.feed(piece)]
    decoder.finish()
    return found


def test_messages_are_read_as_botocore_reads_them() -> None:
    assert of_ours(STREAM) == of_botocore(STREAM)
    assert [payload for _, payload in of_ours(STREAM)][:2] == [b"one", b""]


@pytest.mark.parametrize("at", range(len(STREAM)))
def test_a_stream_may_be_cut_at_every_byte(at: int) -> None:
    assert of_ours(STREAM[:at], STREAM[at:]) == of_botocore(STREAM)


def test_a_stream_may_come_byte_by_byte() -> None:
    assert of_ours(*(bytes([byte]) for byte in STREAM)) == of_botocore(STREAM)


names = st.text(min_size=1, max_size=20).filter(lambda name: len(name.encode()) < 256)


@given(
    st.lists(
        st.tuples(
            st.dictionaries(names, st.text(max_size=50), max_size=4),
            st.binary(max_size=200),
        ),
        max_size=4,
    ),
    st.integers(1, 50),
)
def test_whatever_is_framed_is_read_as_botocore_reads_it(
    messages: list[tuple[dict[str, str], bytes]], step: int
) -> None:
    data = b"".join(message(headers, payload) for headers, payload in messages)
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    assert of_ours(*pieces) == messages == of_botocore(data)


def test_every_type_of_header_is_read() -> None:
    raw = (
        header("true", b"", 0)
        + header("false", b"", 1)
        + header("byte", b"\xfe", 2)
        + header("short", struct.pack("!h", -3), 3)
        + header("int", struct.pack("!i", -4), 4)
        + header("long", struct.pack("!q", -5), 5)
        + header("bytes", b"\x00\xff", 6)
        + header("text", b"ol\xc3\xa9", 7)
        + header("time", struct.pack("!q", 1_700_000_000_000), 8)
        + header("uuid", bytes(range(16)), 9)
    )
    data = encoded(raw, b"")
    assert of_ours(data) == of_botocore(data)
    headers = of_ours(data)[0][0]
    assert headers["true"] is True and headers["false"] is False and headers["text"] == "olé"


@pytest.mark.parametrize("at", range(len(STREAM)))
def test_a_byte_that_was_changed_is_noticed(at: int) -> None:
    broken = STREAM[:at] + bytes([STREAM[at] ^ 0x01]) + STREAM[at + 1 :]
    with pytest.raises(EngineProtocolError):
        of_ours(broken)


@pytest.mark.parametrize("length", [1, 11, 12, 40, len(STREAM) - 1])
def test_an_end_inside_a_message_is_no_end(length: int) -> None:
    with pytest.raises(EngineDied, match="into a message"):
        of_ours(STREAM[:length])


@pytest.mark.parametrize(
    ("total", "headers"),
    [
        (16 + MAX_PAYLOAD_BYTES + 1, 0),
        (16 + MAX_HEADERS_BYTES + 1, MAX_HEADERS_BYTES + 1),
        (15, 0),
        (20, 5),
        (0, 0),
        (2**32 - 1, 2**32 - 1),
    ],
)
def test_lengths_over_the_limits_are_refused_before_anything_is_held(total: int, headers: int) -> None:
    lengths = struct.pack("!II", total, headers)
    decoder = EventStreamDecoder()
    with pytest.raises(EngineProtocolError, match="limits"):
        decoder.feed(lengths + struct.pack("!I", crc32(lengths)))


def test_the_largest_message_is_read() -> None:
    data = message({"h": "x" * 60_000, "i": "y" * 60_000}, b"p" * MAX_PAYLOAD_BYTES)
    assert len(of_ours(data[:1000], data[1000:])[0][1]) == MAX_PAYLOAD_BYTES


@pytest.mark.parametrize(
    "raw",
    [
        header("a", b"1") + header("a", b"2"),
        header("a", b"", 10),
        header("a", b"\xff\xff\xff"),
        header("a", b"x")[:-1] + b"",
        header("a", b"", 9),
        header("a", b"\x01", 4),
        b"\x05ab",
        b"\x01",
        b"\x01\xff\x00",
        header("a", b"1")[:4],
    ],
    ids=[
        "twice",
        "no type",
        "no text",
        "cut text",
        "cut uuid",
        "cut number",
        "cut name",
        "name alone",
        "bad name",
        "4",
    ],
)
def test_headers_that_cannot_be_read_are_refused(raw: bytes) -> None:
    with pytest.raises(EngineProtocolError, match="headers"):
        of_ours(encoded(raw, b""))


@given(st.binary(max_size=60), st.booleans())
def test_no_bytes_make_it_fail_in_any_other_way(raw: bytes, framed: bool) -> None:
    with contextlib.suppress(EngineProtocolError, EngineDied):
        of_ours(encoded(raw, b"") if framed else raw)


def test_the_kind_and_the_name_of_a_message_are_in_its_headers() -> None:
    decoder = EventStreamDecoder()
    data = message({":message-type": "exception", ":exception-type": "throttlingException"}) + message({})
    failed, plain = decoder.feed(data + message({":message-type": "error", ":error-code": "Broken"})[:-1])
    assert (failed.kind, failed.name) == ("exception", "throttlingException")
    assert (plain.kind, plain.name) == ("event", "")
    assert (
        repr(decoder)
        == f"<EventStreamDecoder held={len(message({':message-type': 'error', ':error-code': 'Broken'})) - 1}>"
    )
