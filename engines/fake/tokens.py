"""A tokenizer without a vocabulary: a word with the space before it, in pieces of at most six bytes.

A token's id is its bytes read as a number behind a leading 1, so ids are exact in JSON (below 2**53) and reversible.
"""

from __future__ import annotations

import random
import re

_TOKEN = re.compile(rb"\s?[^\s]{1,5}|\s{1,6}")
_TEXT = "the model reads each word and makes a short reply with care then goes on to give more plain text as you asked"
_WORDS = _TEXT.split()


def split_tokens(text: str) -> list[bytes]:
    """The tokens of `text`; joined they are its UTF-8 bytes."""
    return _TOKEN.findall(text.encode("utf-8", "surrogatepass"))


def split_text(text: str) -> list[str]:
    """As `split_tokens`, but never inside a character: the pieces are text."""
    pieces: list[str] = []
    pending = b""
    for token in split_tokens(text):
        pending += token
        try:
            pieces.append(pending.decode())
        except UnicodeDecodeError:
            continue
        pending = b""
    if pending:
        pieces.append(pending.decode("utf-8", "replace"))
    return pieces


def token_id(token: bytes) -> int:
    return int.from_bytes(b"\x01" + token, "big")


def token_bytes(number: int) -> bytes:
    """The bytes of a token id; an id that no token has gives U+FFFD."""
    raw = number.to_bytes(8, "big").lstrip(b"\x00") if 0 < number < 2**56 else b""
    return raw[1:] if raw[:1] == b"\x01" else "\ufffd".encode()


def make_words(count: int, seed: str) -> list[str]:
    """`count` tokens of made-up text, the same for the same seed."""
    if count <= 0:
        return []
    words = random.Random(seed).choices(_WORDS, k=count)  # noqa: S311 (made-up text)
    return [words[0].capitalize(), *(f" {word}" for word in words[1:])]
