"""How fast a replica is, learned from the times of its first tokens."""

from __future__ import annotations

FORGET = 0.98
"""Weight that an observation keeps with each later one: about the last fifty count."""
PRIOR_S_PER_TOKEN = 1e-4
"""Before anything is known: 10,000 tokens of prefill per second."""
PRIOR_WEIGHT_TOKENS = 500.0
"""A prompt of this length, as predicted, is what the prior counts for."""


class Speed:
    """A line through what was observed: time = fixed time + uncached tokens times time per token.

    The observed time is that between one first token and the one before it, while prefills wait: it holds no queueing,
    so a busy replica is judged like an idle one. The fixed time (round trip, scheduling) shows only where a request
    found nothing ahead of it.

    s_per_token: seconds of prefill per uncached prompt token.
    fixed_s:     seconds that every first token takes on top.
    """

    __slots__ = ("_ff", "_ft", "_fu", "_prior_s_per_token", "_ut", "_uu", "fixed_s", "observations", "s_per_token")

    def __init__(self, s_per_token: float = PRIOR_S_PER_TOKEN, fixed_s: float = 0.0) -> None:
        self._prior_s_per_token = s_per_token
        self.s_per_token = s_per_token
        self.fixed_s = fixed_s
        self.observations = 0
        weight = PRIOR_WEIGHT_TOKENS * PRIOR_WEIGHT_TOKENS
        self._uu = weight
        self._ut = weight * s_per_token
        self._ff = 1.0
        self._ft = fixed_s
        self._fu = 0.0

    def __repr__(self) -> str:
        return f"<Speed s_per_token={self.s_per_token:.3g} fixed_s={self.fixed_s:.3g} observations={self.observations}>"

    def prefill_s(self, uncached_tokens: float) -> float:
        """Seconds of prefill, without the fixed time."""
        return uncached_tokens * self.s_per_token

    def learn(self, took_s: float, uncached_tokens: int, *, opening: bool) -> None:
        """`opening`: the request found no prefill ahead of it, so that the fixed time is part of `took_s`."""
        self.observations += 1
        fixed = 1.0 if opening else 0.0
        self._uu = self._uu * FORGET + uncached_tokens * uncached_tokens
        self._ut = self._ut * FORGET + uncached_tokens * took_s
        self._ff = self._ff * FORGET + fixed
        self._ft = self._ft * FORGET + fixed * took_s
        self._fu = self._fu * FORGET + fixed * uncached_tokens
        self._solve()

    def _solve(self) -> None:
        """Least squares; neither figure may be negative."""
        det = self._uu * self._ff - self._fu * self._fu
        if det > 1e-9 * self._uu * self._ff:
            per_token = (self._ut * self._ff - self._ft * self._fu) / det
            fixed = (self._ft * self._uu - self._ut * self._fu) / det
        else:
            per_token, fixed = self._ut / self._uu, 0.0
        if fixed < 0.0:
            per_token, fixed = self._ut / self._uu, 0.0
        elif per_token < 0.0:
            per_token, fixed = 0.0, self._ft / self._ff
        self.s_per_token = max(per_token, 1e-9)
        self.fixed_s = fixed
