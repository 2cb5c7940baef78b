"""What a load asks for."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

_TEXT = "what time does each river reach this old town and how far is the next one from here if we walk along it"
_WORDS = _TEXT.split()


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, and how its client behaves.

    key:             the client's API key, if not the target's.
    hang_up_after_s: it goes away this long after sending.
    read_pause_s:    it has a small receive buffer, and pauses this long after each read.
    """

    body: bytes
    key: str | None = None
    hang_up_after_s: float | None = None
    read_pause_s: float = 0.0


def chat_asks(
    model: str, *, stream: bool, prompt_words: int = 50, max_tokens: int = 128, seed: int = 0, **fields: object
) -> Iterator[Ask]:
    """Endless chat requests, no two alike but the same for the same seed. `fields` are added to each body."""
    for prompt in _prompts(prompt_words, seed):
        yield _ask({"model": model, "messages": [{"role": "user", "content": prompt}]}, stream, max_tokens, fields)


def completion_asks(
    model: str, *, stream: bool, prompt_words: int = 50, max_tokens: int = 128, seed: int = 0, **fields: object
) -> Iterator[Ask]:
    """As `chat_asks`, for `/v1/completions`."""
    for prompt in _prompts(prompt_words, seed):
        yield _ask({"model": model, "prompt": prompt}, stream, max_tokens, fields)


def _ask(body: dict[str, object], stream: bool, max_tokens: int, fields: dict[str, object]) -> Ask:
    body |= {"max_tokens": max_tokens, "stream": stream}
    if stream:
        body["stream_options"] = {"include_usage": True}
    return Ask(msgspec.json.encode(body | fields))


def _prompts(words: int, seed: int) -> Iterator[str]:
    rng = random.Random(seed)  # noqa: S311 - made-up text
    fillers = [" ".join(rng.choices(_WORDS, k=max(0, words - 2))) for _ in range(64)]
    number = 0
    while True:
        number += 1
        yield f"Question {seed}-{number}: {fillers[number % 64]}"
