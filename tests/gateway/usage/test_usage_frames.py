"""A file that is cut or damaged anywhere gives what is whole in it, and never anything else."""

from __future__ import annotations

import struct
import zlib

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.usage.frames import MAX_PAYLOAD, Ending, Item, framed, parse
from gateway.usage.record import Tariff
from tests.gateway.usage.calls import MODEL, call, kept, pricing

_PRICING = pricing()
_PRICE = _PRICING.price(MODEL)
assert _PRICE is not None
_TARIFF = Tariff("v", MODEL, _PRICE)
_BASE = kept(call())


def item_of(number: int) -> Item:
    return _TARIFF if number % 7 == 0 else kept(call(number, completion=number), f"id-{number}")


numbers = st.lists(st.integers(1, 10_000), max_size=8)


@given(numbers)
def test_items_come_back_as_they_were(given_: list[int]) -> None:
    items = list(map(item_of, given_))
    data = b"".join(map(framed, items))
    piece = parse(data)
    assert (piece.items, piece.end, piece.ending) == (items, len(data), Ending.WHOLE)


@given(numbers, st.data())
def test_of_a_file_that_is_cut_anywhere_the_items_before_the_cut_are_there(
    given_: list[int], data: st.DataObject
) -> None:
    items = list(map(item_of, given_))
    frames = [framed(item) for item in items]
    whole = b"".join(frames)
    cut = data.draw(st.integers(0, len(whole)))
    piece = parse(whole[:cut])
    assert whole[: piece.end] == b"".join(frames[: len(piece.items)])
    assert piece.items == items[: len(piece.items)]
    assert piece.ending is (Ending.WHOLE if piece.end == cut else Ending.CUT)
    again = parse(whole[piece.end :])
    assert piece.items + again.items == items


@given(numbers, st.integers(1, 5000))
def test_zeros_at_the_end_are_what_never_reached_the_disk(given_: list[int], zeros: int) -> None:
    items = list(map(item_of, given_))
    piece = parse(b"".join(map(framed, items)) + bytes(zeros))
    assert (piece.items, piece.ending) == (items, Ending.CUT)


@settings(max_examples=300)
@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=6), st.data())
def test_a_flipped_bit_is_seen_and_nothing_false_is_read(given_: list[int], data: st.DataObject) -> None:
    items = list(map(item_of, given_))
    frames = [framed(item) for item in items]
    whole = bytearray(b"".join(frames))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    piece = parse(bytes(whole))
    assert piece.ending is not Ending.WHOLE
    assert piece.items == items[: len(piece.items)]
    assert piece.end <= at


@given(st.binary(max_size=400))
def test_anything_can_be_looked_at(data: bytes) -> None:
    piece = parse(data)
    assert piece.end <= len(data)


def test_a_frame_that_is_whole_and_no_record_is_damage() -> None:
    good = framed(_BASE)
    for payload in (b"\xc0", b"\x93\x01\x02\x03"):
        frame = struct.pack(">II", len(payload), zlib.crc32(payload)) + payload
        piece = parse(good + frame + good)
        assert (piece.items, piece.ending) == ([_BASE], Ending.DAMAGED)


def test_a_length_that_nothing_has_is_damage() -> None:
    assert parse((MAX_PAYLOAD + 1).to_bytes(4, "big") + b"\x01" * 2000).ending is Ending.DAMAGED
