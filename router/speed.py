"""How fast replicas are, learned from the times of their first tokens."""

from __future__ import annotations

from collections.abc import Sequence

FORGET = 0.98
"""Weight that an observation keeps with each later one: about the last fifty count."""
PRIOR_S_PER_TOKEN = 1e-4
"""Before anything is known: 10,000 tokens of prefill per second."""
TOKENS, PAIRS = 1e3, 1e7
"""Tokens and pairs of them are counted in units of these, so that all sums have figures of like size."""
BELIEF = (0.0025, 1e-9, 0.02, 0.02)
"""Weight of what is believed already (of tokens, pairs, requests, openings) beside each observation. It comes to that
of a prompt of 50 tokens: so what does not show for thousands of requests, as a round trip on busy replicas, is kept."""
EAGER, EVERY = 32, 8
"""The figures follow each of the first observations, then every eighth."""
PEERS = 4.0
"""What is known of its family weighs as much in a replica's own figure as so many observations. The fixed time is part
of their weight: what chance adds to it is no sign of speed, and of short prompts it is nearly all."""
CHANCE = 4.0
"""Of the variance of a replica's own figure: what lies within two standard errors of its family's is taken for chance.
Believed, it would send more to some of equal replicas than to others."""
MOST = 10.0
"""A first token that took so many times longer than predicted waited for something else than prefills."""
LEAST_S = 1e-9
"""Of what is predicted in all; where it is less there is nothing to compare with."""
SETTLE = 0.05
"""Weight of the newest observation in what is a replica's own of the fixed time."""


class Family:
    """What equal replicas have in common: time = tokens * per token + pairs * per pair + per request + fixed.

    Pairs are what attention is computed over: n² - c² for a prompt of n tokens of which c are cached (half of it,
    exactly; the factor is learned with the rest). The fixed time shows only where a request found nothing ahead of it;
    of what cannot be told apart from it, all is taken to be fixed. Least squares, no figure negative. Shared, as what
    one replica's observations say is little, and much of it chance.
    """

    __slots__ = ("_sums", "_times", "figures", "members", "observations")

    def __init__(
        self,
        s_per_token: float = PRIOR_S_PER_TOKEN,
        s_per_pair: float = 0.0,
        s_per_request: float = 0.0,
        fixed_s: float = 0.0,
    ) -> None:
        self.figures = [s_per_token * TOKENS, s_per_pair * PAIRS, s_per_request, fixed_s]
        self.observations = 0
        self.members: list[Speed] = []
        """Who is to hear of new figures."""
        self._believe(self.figures)

    def __repr__(self) -> str:
        return f"<Family figures={[f'{figure:.3g}' for figure in self.figures]} observations={self.observations}>"

    def _believe(self, figures: list[float]) -> None:
        """Before anything is observed."""
        # What the first prompts took is put down to their tokens: else cached ones would seem to save little.
        prior = (0.01, 6e-4, 1.0, 1.0)
        self._sums = [[prior[i] if i == j else 0.0 for j in range(4)] for i in range(4)]
        self._times = [prior[i] * figures[i] for i in range(4)]
        self.figures = figures

    @property
    def fixed_s(self) -> float:
        return self.figures[3]

    def begin_like(self, others: Sequence[Speed]) -> None:
        """Take over what is known of `others`, if nothing is known here."""
        if not self.observations:
            known = [(o.s_per_token * TOKENS, o.s_per_pair * PAIRS, o.s_per_request, o.fixed_s) for o in others]
            self._believe([sum(column) / len(others) for column in zip(*known, strict=True)])
            self._tell()

    def prefill_s(self, prompt_tokens: int, cached_tokens: int) -> float:
        """Seconds of a prompt's prefill, without the fixed time."""
        per_token, per_pair, per_request, _ = self.figures
        uncached = prompt_tokens - cached_tokens
        return per_request + uncached * (per_token / TOKENS + per_pair / PAIRS * (prompt_tokens + cached_tokens))

    def learn(self, took_s: float, prompt_tokens: int, cached_tokens: int, *, opening: bool) -> None:
        self.observations += 1
        tokens = (prompt_tokens - cached_tokens) / TOKENS
        row = (tokens, tokens * (prompt_tokens + cached_tokens) * (TOKENS / PAIRS), 1.0, 1.0 if opening else 0.0)
        times, figures = self._times, self.figures
        for i, sums in enumerate(self._sums):
            one = row[i]
            times[i] = times[i] * FORGET + one * took_s + (BELIEF[i] * figures[i] if i != 2 else 0.0)
            for j in range(4):
                sums[j] = sums[j] * FORGET + one * row[j]
            sums[i] += BELIEF[i]
        if self.observations < EAGER or not self.observations % EVERY:
            self.figures = _least_squares(self._sums, times)
            self._tell()

    def _tell(self) -> None:
        for member in self.members:
            member.follow()


def _least_squares(sums: Sequence[Sequence[float]], times: Sequence[float]) -> list[float]:
    """What would be negative is left out, the most negative first."""
    active = list(range(len(times)))
    while True:
        found = _solved([[sums[i][j] for j in active] + [times[i]] for i in active])
        least = min(found)
        if least >= 0.0:
            break
        del active[found.index(least)]
    figures = [0.0] * len(times)
    for i, figure in zip(active, found, strict=True):
        figures[i] = figure
    return figures


def _solved(rows: list[list[float]]) -> list[float]:
    """Gauss, for a positive definite matrix; the right side is the last column."""
    count = len(rows)
    for i in range(count):
        pivot = rows[i]
        for below in rows[i + 1 :]:
            share = below[i] / pivot[i]
            for j in range(i, count + 1):
                below[j] -= share * pivot[j]
    found = [0.0] * count
    for i in range(count - 1, -1, -1):
        row = rows[i]
        found[i] = (row[count] - sum([row[j] * found[j] for j in range(i + 1, count)])) / row[i]
    return found


def _beyond_chance(times: float, variance: float) -> float:
    """`times`, as far as it differs from 1 by more than chance would have it."""
    apart = times - 1.0
    if not apart:
        return 1.0
    return 1.0 + apart * apart**4 / (apart**4 + (CHANCE * variance) ** 2)


class Speed:
    """One replica's: its family's, so many times slower.

    The observed time is that between one first token and the one before it, while prefills wait: it holds no queueing,
    so a busy replica is judged like an idle one. The fixed time (round trip, scheduling) shows only where a request
    found nothing ahead of it.

    s_per_token, s_per_pair, s_per_request: seconds of prefill.
    fixed_s: seconds that a first token takes on top where nothing is ahead.
    """

    __slots__ = (
        "_apart_s",
        "_family",
        "_noise",
        "_predicted_s",
        "_times",
        "_took_s",
        "fixed_s",
        "observations",
        "s_per_pair",
        "s_per_request",
        "s_per_token",
    )

    def __init__(
        self,
        s_per_token: float = PRIOR_S_PER_TOKEN,
        fixed_s: float = 0.0,
        s_per_pair: float = 0.0,
        family: Family | None = None,
    ) -> None:
        self._family = Family(s_per_token, s_per_pair, 0.0, fixed_s) if family is None else family
        self._took_s = self._predicted_s = self._apart_s = self._noise = 0.0
        self._times = 1.0
        """So many times slower than its family."""
        self.observations = 0
        self._family.members.append(self)
        self.follow()

    def __repr__(self) -> str:
        return (
            f"<Speed s_per_token={self.s_per_token:.3g} s_per_pair={self.s_per_pair:.3g} "
            f"s_per_request={self.s_per_request:.3g} fixed_s={self.fixed_s:.3g} observations={self.observations}>"
        )

    def begin_like(self, others: Sequence[Speed]) -> None:
        """Take over what is known of `others`, to begin with."""
        self._family.begin_like(others)

    def leave(self) -> None:
        """Its replica is gone: the family need not tell it anything more. Idempotent."""
        if self in self._family.members:
            self._family.members.remove(self)

    def prefill_s(self, prompt_tokens: int, cached_tokens: int) -> float:
        """Seconds of a prompt's prefill, without the fixed time."""
        uncached = prompt_tokens - cached_tokens
        return self.s_per_request + uncached * (self.s_per_token + self.s_per_pair * (prompt_tokens + cached_tokens))

    def learn(self, took_s: float, prompt_tokens: int, cached_tokens: int, *, opening: bool) -> None:
        """`opening`: the request found no prefill ahead of it, so that the fixed time is part of `took_s`."""
        self.observations += 1
        family = self._family
        if family.observations >= EAGER:
            most_s = MOST * family.prefill_s(prompt_tokens, cached_tokens)
            took_s = min(took_s, most_s + self.fixed_s if opening else most_s)
        family.learn(took_s, prompt_tokens, cached_tokens, opening=opening)
        predicted_s = family.prefill_s(prompt_tokens, cached_tokens)
        if opening:
            if family.observations > EAGER:
                over_s = took_s - self.prefill_s(prompt_tokens, cached_tokens) - family.fixed_s
                self._apart_s += SETTLE * (over_s - self._apart_s)
            took_s = max(0.0, took_s - self.fixed_s)
        self._took_s = self._took_s * FORGET + took_s
        self._predicted_s = self._predicted_s * FORGET + predicted_s
        self._noise = self._noise * FORGET * FORGET + (took_s - self._times * predicted_s) ** 2
        peers_s = PEERS * (predicted_s + family.fixed_s)
        known_s = self._predicted_s + peers_s
        if known_s > LEAST_S:
            self._times = _beyond_chance((self._took_s + peers_s) / known_s, self._noise / known_s**2)
            self.follow()

    def follow(self) -> None:
        """Its family's figures are these now."""
        times = self._times
        per_token, per_pair, per_request, fixed_s = self._family.figures
        self.s_per_token = max(times * per_token / TOKENS, 1e-9)
        self.s_per_pair = times * per_pair / PAIRS
        self.s_per_request = times * per_request
        self.fixed_s = max(0.0, fixed_s + self._apart_s)
