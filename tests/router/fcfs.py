"""An engine in virtual time: one prefill after the other, each at its speed, and a round trip."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from router.load import ReplicaLoad


@dataclass
class Engine:
    """rtt_s: half of it before a request reaches the engine, half before its first token is back.
    decode_s: from the first token to the end.
    """

    s_per_token: float
    rtt_s: float = 0.0
    s_per_pair: float = 0.0
    decode_s: float = 0.0
    free_s: float = 0.0

    def first_token_s(self, sent_s: float, prompt_tokens: int) -> float:
        work_s = prompt_tokens * (self.s_per_token + self.s_per_pair * prompt_tokens)
        self.free_s = max(self.free_s, sent_s + self.rtt_s / 2) + work_s
        return self.free_s + self.rtt_s / 2


def poisson(rng: random.Random, per_s: float, tokens: tuple[int, int], count: int) -> Iterator[tuple[float, int]]:
    """When each of `count` requests comes, and the tokens of its prompt."""
    now_s = 0.0
    for _ in range(count):
        now_s += rng.expovariate(per_s)
        yield now_s, rng.randint(*tokens)


def serve(
    requests: Iterator[tuple[float, int]],
    engines: list[Engine],
    loads: list[ReplicaLoad],
    choose: Callable[[float, int], int],
) -> list[int]:
    """Tokens that each engine was sent. `choose(now_s, prompt_tokens)` says which is next."""
    sent = [0] * len(engines)
    events: list[tuple[float, int, Callable[[], None]]] = []
    for number, (now_s, tokens) in enumerate(requests):
        while events and events[0][0] <= now_s:
            heapq.heappop(events)[2]()
        index = choose(now_s, tokens)
        sent[index] += tokens
        work = loads[index].begin(tokens, 0, 10.0, now_s)
        first_s = engines[index].first_token_s(now_s, tokens)
        heapq.heappush(events, (first_s, 2 * number, lambda work=work, at=first_s: work.first_token(at)))  # type: ignore[misc]
        heapq.heappush(events, (first_s + engines[index].decode_s, 2 * number + 1, work.close))
    while events:
        heapq.heappop(events)[2]()
    return sent
