"""How long prompts and answers are, learned from what engines count."""

from __future__ import annotations

import math

PRIOR_BYTES_PER_TOKEN = 4.0
PRIOR_OUTPUT_TOKENS = 200.0
_PRIOR_TOKENS = 1000.0
"""Prompt tokens that the prior weighs."""
_KEPT = 0.98
"""What a request's weight is multiplied with at each later one."""
_DEVIATIONS = 2.0
"""Of an answer that is long, above the mean. If answers were as long as the exponential distribution has it, 5 % would
be longer."""
_MIN_BYTES_PER_TOKEN, _MAX_BYTES_PER_TOKEN = 0.5, 32.0


class Lengths:
    """Means over the recent requests of one deployment, whoever sent them. Plain arithmetic: safe to read anywhere."""

    def __init__(self) -> None:
        self._tokens = _PRIOR_TOKENS
        self._bytes = _PRIOR_TOKENS * PRIOR_BYTES_PER_TOKEN
        self._answers = 1.0
        self._output_tokens = PRIOR_OUTPUT_TOKENS
        self._variance = PRIOR_OUTPUT_TOKENS**2
        self.bytes_per_token = PRIOR_BYTES_PER_TOKEN
        """Of prompts: bytes of text to tokens, the chat template's included."""

    def __repr__(self) -> str:
        return f"<Lengths bytes_per_token={self.bytes_per_token:.2f} output_tokens={self._output_tokens:.0f}>"

    def output_tokens(self, limit: int | None) -> float:
        """Expected length of an answer that may have `limit` tokens; None: as many as it likes."""
        return self._output_tokens if limit is None else min(float(limit), self._output_tokens)

    @property
    def long_answer_tokens(self) -> int:
        """Few answers are longer than this many tokens."""
        return math.ceil(self._output_tokens + _DEVIATIONS * math.sqrt(self._variance))

    def prompt_tokens(self, text_bytes: int) -> int:
        """Expected length of a prompt of that many bytes."""
        return round(text_bytes / self.bytes_per_token)

    def learn_prompt(self, text_bytes: int, prompt_tokens: int) -> None:
        """The engine counted `prompt_tokens` in a prompt of `text_bytes`."""
        if text_bytes <= 0 or prompt_tokens <= 0:
            return
        self._bytes = self._bytes * _KEPT + text_bytes
        self._tokens = self._tokens * _KEPT + prompt_tokens
        self.bytes_per_token = min(max(self._bytes / self._tokens, _MIN_BYTES_PER_TOKEN), _MAX_BYTES_PER_TOKEN)

    def learn_output(self, output_tokens: int, *, cut: bool) -> None:
        """An answer had that many tokens. cut: its limit ended it, so that it says only that answers are no shorter."""
        if output_tokens < 0 or (cut and output_tokens < self._output_tokens):
            return
        self._answers = self._answers * _KEPT + 1.0
        off = output_tokens - self._output_tokens
        self._output_tokens += off / self._answers
        self._variance += (off * (output_tokens - self._output_tokens) - self._variance) / self._answers
