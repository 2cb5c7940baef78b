"""Encodes a text into token ids, and does not encode again what it has seen: incremental over a conversation.

A special token such as <|im_end|> splits the text for the tokenizer: what stands before it has no influence on the ids
of what stands behind. So a text is cut behind each, and the pieces are encoded, and remembered, one by one.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xxhash import xxh3_128_digest

from gateway.prompts.body import id_bytes

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

BATCH_CHARS = 8192
"""Text that is encoded between two looks at the clock."""
_ENTRY_BYTES = 200
"""What a remembered segment takes besides its ids."""
_MAX_CUTTERS = 16
_SAMPLES = ("", " ", "\n", "a", " a b ", "\n\nA  b\n", "é\u0301 ﬁ①", "▁x", "<")


@dataclass(frozen=True, slots=True)
class Encoded:
    """ids: uint32 little-endian. rest_chars: how much of the text's end there was no time for."""

    ids: bytes
    rest_chars: int = 0


class SegmentEncoder:
    """A tokenizer, and a memory of what it has encoded. Not thread-safe.

    cut_behind: special tokens behind which a text may be cut; those where that would change the ids are left out.
    max_bytes: memory for ids; the least recently used segments are dropped.
    now_s: the clock that deadlines are on.
    """

    def __init__(self, tokenizer: Tokenizer, cut_behind: list[str], max_bytes: int, now_s: Callable[[], float]) -> None:
        self._tokenizer = tokenizer
        self._now_s = now_s
        self._max_bytes = max_bytes
        self._held_bytes = 0
        self._known: OrderedDict[bytes, bytes] = OrderedDict()
        cutters = _cutters(tokenizer, cut_behind)
        self._cutter: re.Pattern[str] | None = None
        if cutters:
            self._cutter = re.compile("|".join(re.escape(token) for token in cutters))
            if not self._cuts_well(cutters):
                self._cutter = None
        self._known.clear()
        self._held_bytes = 0

    def __repr__(self) -> str:
        cuts = "cuts" if self._cutter else "whole"
        return f"<SegmentEncoder {cuts} segments={len(self._known)} held_bytes={self._held_bytes}/{self._max_bytes}>"

    def encode(self, text: str, deadline_s: float, most_chars: int | None = None) -> Encoded:
        """The ids of the text without those that a post-processor adds, as far as they are had by the deadline.

        most_chars: nothing is encoded if more than this is not remembered; None: whatever it takes.
        """
        segments = list(self._segments(text))
        found = [self._recall(name) for name, _, _ in segments]
        missing = [index for index, ids in enumerate(found) if ids is None]
        too_much = most_chars is not None and sum([len(segments[index][2]) for index in missing]) > most_chars
        while missing:
            if too_much or self._now_s() >= deadline_s:
                first = missing[0]
                encoded = b"".join(ids for ids in found[:first] if ids is not None)
                return Encoded(encoded, sum(len(segment) for _, _, segment in segments[first:]))
            batch = _batch(missing, segments)
            del missing[: len(batch)]
            for index, ids in zip(batch, self._encode([segments[index] for index in batch]), strict=True):
                found[index] = ids
        return Encoded(b"".join(ids for ids in found if ids is not None))

    def _segments(self, text: str) -> Iterator[tuple[bytes, str, str]]:
        """(name, the special token before it, text) of each segment."""
        context, start = "", 0
        if self._cutter is not None:
            for match in self._cutter.finditer(text):
                yield _segment(context, text[start : match.end()])
                context, start = match[0], match.end()
        if start < len(text):
            yield _segment(context, text[start:])

    def _encode(self, segments: list[tuple[bytes, str, str]]) -> list[bytes]:
        # The special token goes along: some tokenizers treat the start of a text unlike its middle.
        texts = [context + text for _, context, text in segments]
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        packed = []
        for (name, context, _), encoding in zip(segments, encodings, strict=True):
            ids = id_bytes(encoding.ids[1:] if context else encoding.ids)
            self._remember(name, ids)
            packed.append(ids)
        return packed

    def _recall(self, name: bytes) -> bytes | None:
        ids = self._known.get(name)
        if ids is not None:
            self._known.move_to_end(name)
        return ids

    def _remember(self, name: bytes, ids: bytes) -> None:
        if name in self._known:
            return
        self._known[name] = ids
        self._held_bytes += len(ids) + _ENTRY_BYTES
        while self._held_bytes > self._max_bytes:
            _, dropped = self._known.popitem(last=False)
            self._held_bytes -= len(dropped) + _ENTRY_BYTES

    def _cuts_well(self, cutters: list[str]) -> bool:
        """Whether samples come out the same, cut and whole."""
        for one in cutters:
            for other in cutters:
                text = "".join(f"{sample}{one}{sample}{other}{sample}" for sample in _SAMPLES)
                whole = self._tokenizer.encode(text, add_special_tokens=False).ids
                if self.encode(text, float("inf")).ids != id_bytes(whole):
                    return False
        return True


def _segment(context: str, text: str) -> tuple[bytes, str, str]:
    return xxh3_128_digest(f"{len(context)} {context}{text}".encode()), context, text


def _batch(missing: list[int], segments: list[tuple[bytes, str, str]]) -> list[int]:
    """The first few of `missing` that make up `BATCH_CHARS`."""
    chars = 0
    for count, index in enumerate(missing, 1):
        chars += len(segments[index][2])
        if chars >= BATCH_CHARS:
            return missing[:count]
    return list(missing)


def _cutters(tokenizer: Tokenizer, wanted: list[str]) -> list[str]:
    """Those of `wanted` that are found in every text wherever they stand in it, longest first."""
    tokens = tokenizer.get_added_tokens_decoder().values()
    contents = [token.content for token in tokens]
    good = [token.content for token in tokens if token.content in wanted and _plain(token)]
    good = [one for one in good if not any(_hides(other, one) for other in contents if other != one)]
    return sorted(good, key=len, reverse=True)[:_MAX_CUTTERS]


def _plain(token: AddedToken) -> bool:
    return not token.normalized and not token.single_word


def _hides(other: str, token: str) -> bool:
    """Whether an `other` before, or at, the place of `token` can take a part of it: a tokenizer finds the first, and of
    those the longest."""
    if token in other:
        return True
    return any(other.endswith(token[:size]) for size in range(1, min(len(other), len(token))))
