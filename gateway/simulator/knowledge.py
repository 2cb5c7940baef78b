"""What the simulated gateway knows of the engines' KV caches."""

from __future__ import annotations

from typing import Protocol

from gateway.simulator.blocks import Holders
from gateway.simulator.trace import Request
from router.prefix import Prefix, PrefixIndex


class Knowledge(Protocol):
    """Which leading tokens of a prompt each engine holds, and what teaches it."""

    def cached(self, request: Request) -> list[int]:
        """Tokens of the prompt that each engine holds, in the engines' order."""
        ...

    def sent(self, request: Request, engine: int) -> None: ...

    def prefilled(self, request: Request, engine: int) -> None:
        """The first token of what was `sent` arrived."""
        ...

    def answered(self, request: Request, engine: int, predicted_tokens: int, cached_tokens: int) -> None:
        """The last token arrived, and with it what the engine had cached."""
        ...


class Exact:
    """What the engines hold, without delay, and what is under way to them as if they held it already."""

    def __init__(self, holders: Holders, engines: int, block_tokens: int) -> None:
        self._holders = holders
        self._engines = engines
        self._block_tokens = block_tokens
        self._coming: dict[int, int] = {}
        self._counts: list[dict[int, int]] = [{} for _ in range(engines)]

    def cached(self, request: Request) -> list[int]:
        cached = [0] * self._engines
        mask = (1 << self._engines) - 1
        held, coming = self._holders.get, self._coming.get
        count = 0
        for count, key in enumerate(request.keys):
            left = mask & (held(key, 0) | coming(key, 0))
            if left != mask:
                self._fill(cached, mask & ~left, count)
                mask = left
                if not mask:
                    return cached
        self._fill(cached, mask, len(request.keys))
        return cached

    def sent(self, request: Request, engine: int) -> None:
        counts, coming, bit = self._counts[engine], self._coming, 1 << engine
        for key in request.keys:
            counts[key] = counts.get(key, 0) + 1
            coming[key] = coming.get(key, 0) | bit

    def prefilled(self, request: Request, engine: int) -> None:
        counts, coming, bit = self._counts[engine], self._coming, 1 << engine
        for key in request.keys:
            left = counts[key] - 1
            if left:
                counts[key] = left
                continue
            del counts[key]
            others = coming[key] & ~bit
            if others:
                coming[key] = others
            else:
                del coming[key]

    def answered(self, request: Request, engine: int, predicted_tokens: int, cached_tokens: int) -> None:
        pass

    def _fill(self, cached: list[int], mask: int, blocks: int) -> None:
        tokens = blocks * self._block_tokens
        while mask:
            lowest = mask & -mask
            cached[lowest.bit_length() - 1] = tokens
            mask ^= lowest


class Predicted:
    """What the gateway's own index makes of what the engines were sent and of what they say they had cached."""

    def __init__(self, engines: int, kv_tokens: int, block_tokens: int) -> None:
        self._index = PrefixIndex()
        self._slots = [self._index.open(kv_tokens) for _ in range(engines)]
        self._block_tokens = float(block_tokens)

    def cached(self, request: Request) -> list[int]:
        held = self._index.match(self._prefix(request))
        return [held[slot.bit] for slot in self._slots]

    def sent(self, request: Request, engine: int) -> None:
        self._index.insert(self._slots[engine], self._prefix(request))

    def prefilled(self, request: Request, engine: int) -> None:
        pass

    def answered(self, request: Request, engine: int, predicted_tokens: int, cached_tokens: int) -> None:
        self._slots[engine].answered(predicted_tokens, cached_tokens)

    def _prefix(self, request: Request) -> Prefix:
        return Prefix(request.keys, self._block_tokens)
