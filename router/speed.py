"""How fast a replica is, learned from the times of its first tokens."""

from __future__ import annotations

FORGET = 0.98
"""Weight that an observation keeps with each later one: about the last fifty count."""
PRIOR_S_PER_TOKEN = 1e-4
"""Before anything is known: 10,000 tokens of prefill per second."""
PRIOR_WEIGHT_TOKENS = 500.0
"""A prompt of this length, as predicted, is what the prior counts for."""
PAIRS = 1e4
"""Pairs of tokens are counted in units of this, so that all sums have figures of like size."""

BELIEF = (50.0, 1e-3, 0.02)
"""Weight of what is believed already (time per token, per pair, fixed) beside each observation. It comes to that of one
prompt of 50 tokens: so what does not show for thousands of requests, as a round trip on a busy replica, is kept, and
the first that shows it again does not decide alone."""
_SQUARES = (0, 3, 5)
"""Places of tt, pp and oo among the sums."""


class Speed:
    """A plane through what was observed: time = fixed + tokens * per token + pairs of tokens * per pair.

    The observed time is that between one first token and the one before it, while prefills wait: it holds no queueing,
    so a busy replica is judged like an idle one. The fixed time (round trip, scheduling) shows only where a request
    found nothing ahead of it. Pairs are what attention is computed over: n² - c² for a prompt of n tokens of which c
    are cached (half of it, exactly; the factor is learned with the rest).

    s_per_token: seconds of prefill per uncached prompt token.
    s_per_pair:  seconds of prefill per pair.
    fixed_s:     seconds that a first token takes on top where nothing is ahead.
    """

    __slots__ = ("_sums", "_times", "fixed_s", "observations", "s_per_pair", "s_per_token")

    def __init__(self, s_per_token: float = PRIOR_S_PER_TOKEN, fixed_s: float = 0.0, s_per_pair: float = 0.0) -> None:
        self.s_per_token = s_per_token
        self.s_per_pair = s_per_pair
        self.fixed_s = fixed_s
        self.observations = 0
        tokens = PRIOR_WEIGHT_TOKENS * PRIOR_WEIGHT_TOKENS
        pairs = tokens * tokens / (PAIRS * PAIRS)
        self._sums = [tokens, 0.0, 0.0, pairs, 0.0, 1.0]
        """Of the products of tokens, pairs and openings: tt, tp, to, pp, po, oo."""
        self._times = [tokens * s_per_token, pairs * s_per_pair * PAIRS, fixed_s]
        """Of the products of each with the time."""

    def __repr__(self) -> str:
        return (
            f"<Speed s_per_token={self.s_per_token:.3g} s_per_pair={self.s_per_pair:.3g} "
            f"fixed_s={self.fixed_s:.3g} observations={self.observations}>"
        )

    def prefill_s(self, prompt_tokens: int, cached_tokens: int) -> float:
        """Seconds of a prompt's prefill, without the fixed time."""
        uncached = prompt_tokens - cached_tokens
        return uncached * (self.s_per_token + self.s_per_pair * (prompt_tokens + cached_tokens))

    def learn(self, took_s: float, prompt_tokens: int, cached_tokens: int, *, opening: bool) -> None:
        """`opening`: the request found no prefill ahead of it, so that the fixed time is part of `took_s`."""
        self.observations += 1
        tokens = float(prompt_tokens - cached_tokens)
        pairs = tokens * (prompt_tokens + cached_tokens) / PAIRS
        fixed = 1.0 if opening else 0.0
        sums, times = self._sums, self._times
        seen = (tokens * tokens, tokens * pairs, tokens * fixed, pairs * pairs, pairs * fixed, fixed)
        for i in range(6):
            sums[i] = sums[i] * FORGET + seen[i]
        belief = (self.s_per_token, self.s_per_pair * PAIRS, self.fixed_s)
        for i, one in enumerate((tokens, pairs, fixed)):
            sums[_SQUARES[i]] += BELIEF[i]
            times[i] = times[i] * FORGET + one * took_s + BELIEF[i] * belief[i]
        per_token, per_pair, self.fixed_s = _least_squares(sums, times)
        self.s_per_token, self.s_per_pair = max(per_token, 1e-9), per_pair / PAIRS


def _least_squares(sums: list[float], times: list[float]) -> tuple[float, float, float]:
    """None of the three is negative: what would be is left out, pairs before the fixed time."""
    tt, tp, to, pp, po, oo = sums
    t, p, o = times
    # Gauss on the columns tokens, openings, pairs; a column that says nothing new is left out.
    oo1, po1, o1 = oo - to * to / tt, po - to * tp / tt, o - to * t / tt
    pp1, p1 = pp - tp * tp / tt, p - tp * t / tt
    det = pp1 * oo1 - po1 * po1
    if det > 1e-9 * pp1 * oo1:
        pair, fixed = (p1 * oo1 - o1 * po1) / det, (o1 * pp1 - p1 * po1) / det
        if pair >= 0.0 and fixed >= 0.0:
            token = (t - tp * pair - to * fixed) / tt
            if token >= 0.0:
                return token, pair, fixed
    best = (t / tt, 0.0, 0.0)
    best_gain = t * best[0]
    for pair, fixed in ((p1 / pp1 if pp1 > 1e-9 * pp else 0.0, 0.0), (0.0, o1 / oo1 if oo1 > 1e-9 * oo else 0.0)):
        token = (t - tp * pair - to * fixed) / tt
        gain = t * token + p * pair + o * fixed
        if pair >= 0.0 and fixed >= 0.0 and token >= 0.0 and gain > best_gain:
            best, best_gain = (token, pair, fixed), gain
    return best
