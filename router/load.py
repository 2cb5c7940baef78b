"""The gateway's own books on one replica: what it was sent and has not answered, and how fast it has proved (R07)."""

from __future__ import annotations

from collections.abc import Sequence

from router.speed import Speed

RECENT_S = 10.0
"""Time constant in which the work of late is forgotten."""


class Work:
    """One request's entry in the books of a replica, from its sending to its end. Closed exactly once.

    prompt_tokens, cached_tokens, uncached_tokens, output_tokens: as predicted when it was sent.
    pairs: of tokens that attend to each other, as `Speed` counts them.
    streamed: whether its first token shows; that of a whole answer is taken to come when its prefill should be over.
    """

    __slots__ = (
        "_load",
        "_opening",
        "_stage",
        "_took_s",
        "cached_tokens",
        "output_tokens",
        "pairs",
        "prompt_tokens",
        "sent_s",
        "streamed",
        "uncached_tokens",
    )

    def __init__(
        self,
        load: ReplicaLoad,
        prompt_tokens: int,
        cached_tokens: int,
        output_tokens: float,
        sent_s: float,
        streamed: bool,
    ) -> None:
        self._load = load
        self._stage = 0  # 0: prefill, 1: decode, 2: closed
        self._took_s = -1.0
        self._opening = False
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = cached_tokens
        self.uncached_tokens = prompt_tokens - cached_tokens
        self.pairs = prompt_tokens * prompt_tokens - cached_tokens * cached_tokens
        self.output_tokens = output_tokens
        self.sent_s = sent_s
        self.streamed = streamed

    def first_token(self, now_s: float) -> None:
        """The prefill is over. Idempotent."""
        if self._stage == 0:
            self._stage = 1
            self._took_s, self._opening = self._load.prefilled(self, now_s)

    def assumed(self, now_s: float) -> None:
        """As `first_token`, for want of anything to see: nothing is learned from it."""
        if self._stage == 0:
            self._stage = 1
            self._load.prefilled(self, now_s)

    def leave(self) -> None:
        """It ended, however it did, and is off the books. Idempotent."""
        if self._stage < 2:
            if self._stage == 0:
                self._load.prefill_given_up(self)
            self._stage = 2
            self._load.ended(self)

    def close(self, prompt_tokens: int = 0, cached_tokens: int = 0) -> None:
        """It is off the books, and the replica's speed is learned from it. Idempotent.

        prompt_tokens, cached_tokens: as the engine counted them; 0 and 0: it did not tell of both.
        """
        self.leave()
        if self._took_s >= 0.0:
            if not prompt_tokens:
                prompt_tokens, cached_tokens = self.prompt_tokens, self.cached_tokens
            self._load.speed.learn(self._took_s, prompt_tokens, cached_tokens, opening=self._opening)
            self._took_s = -1.0


class ReplicaLoad:
    """What is outstanding at one replica, by this gateway's own count. Policies read its attributes.

    in_flight:       requests sent and not yet answered to the end.
    served:          requests ever sent.
    waiting:         those in flight that have no first token yet.
    prefill_tokens:  uncached prompt tokens of those; prefill_pairs: their pairs, as `Speed` counts them.
    context_tokens:  tokens that the requests in flight will hold in the KV cache at their end, prompt and answer.
    kv_capacity_tokens: tokens that fit the KV cache; 0: unknown.
    others_in_flight, others_prefill_tokens, others_context_tokens: the same sums of everybody else's requests, as far
                     as other gateways and the engine's own metrics tell; they may be late, so they only ever correct.
    speed:           what was learned of its speed.
    last_sent_s:     when it was last sent anything.
    sent_sum_s:      the sum of when those in flight were sent, so that their ages are in_flight * now - sent_sum_s.
    """

    __slots__ = (
        "_blurred",
        "_mark_s",
        "_opening",
        "_pending",
        "_recent_tokens",
        "context_tokens",
        "in_flight",
        "kv_capacity_tokens",
        "last_sent_s",
        "name",
        "others_context_tokens",
        "others_in_flight",
        "others_prefill_tokens",
        "prefill_pairs",
        "prefill_tokens",
        "sent_sum_s",
        "served",
        "speed",
        "waiting",
    )

    def __init__(self, name: str, speed: Speed | None = None, kv_capacity_tokens: int = 0) -> None:
        self.name = name
        self.speed = Speed() if speed is None else speed
        self.kv_capacity_tokens = kv_capacity_tokens
        self.in_flight = 0
        self.served = 0
        self.waiting = 0
        self.prefill_tokens = 0
        self.prefill_pairs = 0
        self.context_tokens = 0.0
        self.others_in_flight = 0.0
        self.others_prefill_tokens = 0.0
        self.others_context_tokens = 0.0
        self._recent_tokens = 0.0
        self.last_sent_s = 0.0
        self.sent_sum_s = 0.0
        self._pending: dict[Work, None] = {}
        self._mark_s = 0.0
        """When the prefill that goes on now began, as far as can be seen from here."""
        self._opening = False
        """Whether the prefill that goes on now found the replica without any."""
        self._blurred = False
        """Whether the next first token says nothing about speed."""

    def __repr__(self) -> str:
        return (
            f"<ReplicaLoad {self.name} in_flight={self.in_flight} waiting={self.waiting} "
            f"prefill_tokens={self.prefill_tokens} context_tokens={self.context_tokens:.0f}>"
        )

    def begin(
        self, prompt_tokens: int, cached_tokens: int, output_tokens: float, now_s: float, *, streamed: bool = True
    ) -> Work:
        """Put a request on the books."""
        work = Work(self, prompt_tokens, min(cached_tokens, prompt_tokens), output_tokens, now_s, streamed)
        if not self._pending:
            self._mark_s, self._opening, self._blurred = now_s, True, False
        self._pending[work] = None
        self.in_flight += 1
        self.served += 1
        self.waiting += 1
        self.prefill_tokens += work.uncached_tokens
        self.prefill_pairs += work.pairs
        self.context_tokens += prompt_tokens + output_tokens
        self._recent_tokens = self.recent_tokens(now_s) + work.uncached_tokens
        self.last_sent_s = now_s
        self.sent_sum_s += now_s
        return work

    def recent_tokens(self, now_s: float) -> float:
        """Uncached prompt tokens sent of late, older ones counting less."""
        idle_s = now_s - self.last_sent_s
        return self._recent_tokens / (1.0 + idle_s / RECENT_S) ** 2 if idle_s > 0 else self._recent_tokens

    def level_with(self, others: Sequence[ReplicaLoad]) -> None:
        """Begin as if it had done as much as the one of `others` that did least, and were as fast as they are."""
        self.served = min(other.served for other in others)
        least = min(others, key=lambda other: other._recent_tokens)
        self._recent_tokens, self.last_sent_s = least._recent_tokens, least.last_sent_s
        if not self.speed.observations:
            self.speed.begin_like([other.speed for other in others])

    def backlog_s(self, now_s: float) -> float:
        """Seconds of prefill that are ahead of a request that is sent now.

        A first token that is overdue is taken to need as long again: so a replica that hangs is soon left alone.
        """
        speed = self.speed
        backlog_s = (self.prefill_tokens + self.others_prefill_tokens) * speed.s_per_token
        backlog_s += self.prefill_pairs * speed.s_per_pair + self.waiting * speed.s_per_request
        while self._pending:
            head = next(iter(self._pending))
            left_s = speed.prefill_s(head.prompt_tokens, head.cached_tokens)
            done_s = now_s - self._mark_s
            if done_s <= left_s:
                return backlog_s - done_s if backlog_s > done_s else 0.0  # rounding must not make it negative
            backlog_s = backlog_s - left_s if backlog_s > left_s else 0.0
            if head.streamed:
                return backlog_s + max(0.0, done_s - left_s - speed.fixed_s)
            head.assumed(self._mark_s + left_s)
        return backlog_s

    def kv_usage(self, more_tokens: float = 0.0) -> float:
        """Share of the KV cache that is spoken for, with `more_tokens` on top; 0.0 where its size is unknown."""
        if not self.kv_capacity_tokens:
            return 0.0
        return (self.context_tokens + self.others_context_tokens + more_tokens) / self.kv_capacity_tokens

    # What `Work` tells

    def prefilled(self, work: Work, now_s: float) -> tuple[float, bool]:
        """How long its prefill took, with nothing of those before it, and whether it found none; -1.0: nobody knows."""
        hidden = self._blurred or not work.streamed or not next(iter(self._pending)).streamed
        opening = self._opening or work.sent_s + self.speed.fixed_s > self._mark_s  # it came to an engine without any
        took_s = now_s - (work.sent_s if opening else self._mark_s)
        self._left_prefill(work)
        self._mark_s, self._opening, self._blurred = now_s, False, not work.streamed
        return -1.0 if hidden else took_s, opening

    def prefill_given_up(self, work: Work) -> None:
        self._left_prefill(work)
        self._blurred = True  # nobody knows how much of the time since the last first token went into it

    def ended(self, work: Work) -> None:
        self.in_flight -= 1
        self.context_tokens -= work.prompt_tokens + work.output_tokens
        self.sent_sum_s -= work.sent_s
        if not self.in_flight:
            self.context_tokens = self.sent_sum_s = 0.0  # rounding must not add up

    def _left_prefill(self, work: Work) -> None:
        del self._pending[work]
        self.waiting -= 1
        self.prefill_tokens -= work.uncached_tokens
        self.prefill_pairs -= work.pairs
