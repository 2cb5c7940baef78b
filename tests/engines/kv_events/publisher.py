"""A publisher that keeps to the wire format of vLLM's `vllm/distributed/kv_events.py` as of 0.32, and what hears it.

Its hashes are its own, chained over the tokens and what else tells blocks apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
import zmq
import zmq.asyncio
from xxhash import xxh3_64_intdigest

Json = dict[str, Any]
BLOCK = 4
END = (-1).to_bytes(8, "big", signed=True)


def engine_hash(parent: int | None, tokens: Sequence[int], more: object = None, *, seed: str = "") -> int:
    text = repr((seed, parent, tuple(tokens), more)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[-8:], "big")


def chained(tokens: Sequence[int], more: Sequence[object] = (), *, block: int = BLOCK, seed: str = "") -> list[int]:
    """The engine's hashes of the full blocks. `more`: what each block's hash holds besides."""
    hashes: list[int] = []
    for index in range(len(tokens) // block):
        extra = more[index] if index < len(more) else None
        parent = hashes[-1] if hashes else None
        hashes.append(engine_hash(parent, tokens[index * block : (index + 1) * block], extra, seed=seed))
    return hashes


def keys_of(tokens: Sequence[int], adapter: str = "", salt: str = "", *, block: int = BLOCK) -> list[int]:
    """The gateway's keys, by their definition."""
    seed = xxh3_64_intdigest(adapter.encode() + b"\0" + salt.encode())
    keys = []
    for start in range(0, len(tokens) - block + 1, block):
        data = b"".join(token.to_bytes(4, "little") for token in tokens[start : start + block])
        seed = xxh3_64_intdigest(data, seed)
        keys.append(seed)
    return keys


def stored(tokens: Sequence[int], *, first: int = 0, block: int = BLOCK, seed: str = "", **fields: Any) -> Json:
    """The event for the full blocks of `tokens` from the block `first` on."""
    extras: Sequence[object] = fields.get("extra_keys") or ()
    hashes = chained(tokens, extras, block=block, seed=seed)
    end = len(hashes) * block
    event: Json = {
        "type": "BlockStored",
        "block_hashes": hashes[first:],
        "parent_block_hash": hashes[first - 1] if first else None,
        "token_ids": list(tokens[first * block : end]),
        "block_size": block,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
    }
    if extras:
        fields["extra_keys"] = list(extras)[first:]
    return event | {"group_idx": 0, "kv_cache_spec_kind": "full_attention"} | fields


def removed(*hashes: int, **fields: Any) -> Json:
    return {"type": "BlockRemoved", "block_hashes": list(hashes), "medium": "GPU", "group_idx": 0} | fields


CLEARED: Json = {"type": "AllBlocksCleared"}


def as_array(event: Json) -> list[Any]:
    """As releases before maps sent it: name first, fields in order, none after the adapter's number."""
    order = {"BlockStored": ("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id")}
    return [event["type"], *(event[name] for name in order.get(event["type"], ("block_hashes",)) if name in event)]


class Publisher:
    """PUB and ROUTER on loopback.

    arrays: events as arrays; old: replays without topic, as before 0.14. deaf: the replay socket never answers.
    lose: numbers whose live message gets lost; lose_replay: those that a replay drops, once.
    """

    def __init__(self, *, topic: str = "", buffer_steps: int = 10_000, arrays: bool = False, old: bool = False) -> None:
        self.topic = topic.encode()
        self.arrays, self.old, self.deaf = arrays, old, False
        self.lose: set[int] = set()
        self.lose_replay: set[int] = set()
        self.number = 0
        self.ts_s = 1000.0
        self.asked: list[int] = []
        self.endpoint = self.replay_endpoint = ""
        self._buffer: deque[tuple[int, bytes]] = deque(maxlen=buffer_steps)
        self._context: zmq.asyncio.Context | None = None

    async def start(self) -> None:
        """Bind, at the ports of the last time if there was one."""
        self._context = zmq.asyncio.Context()
        self._pub, self._router = self._context.socket(zmq.XPUB), self._context.socket(zmq.ROUTER)
        self._pub.setsockopt(zmq.XPUB_VERBOSE, 1)
        self.endpoint = await self._bound(self._pub, self.endpoint)
        self.replay_endpoint = await self._bound(self._router, self.replay_endpoint)
        self._task = asyncio.get_running_loop().create_task(self._answer())

    async def stop(self) -> None:
        if self._context is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._pub.close(linger=0)
        self._router.close(linger=0)
        self._context.term()
        self._context = None

    async def restart(self) -> None:
        """Another process at the same ports: it knows nothing, and counts from 0."""
        await self.stop()
        self.number = 0
        self._buffer.clear()
        await self.start()

    async def subscribed(self) -> None:
        """Returns when a reader is there whom live messages reach."""
        while not (await self._pub.recv()).startswith(b"\1"):
            pass

    async def publish(self, *events: Json | list[Any], rank: int | None = 0) -> None:
        self.ts_s += 0.01
        told = [as_array(one) if self.arrays and isinstance(one, dict) else one for one in events]
        await self.send(msgspec.msgpack.encode([self.ts_s, told, rank]))

    async def send(self, payload: bytes) -> None:
        number = self.number
        self.number += 1
        if number not in self.lose:
            await self._pub.send_multipart((self.topic, number.to_bytes(8, "big"), payload))
        self._buffer.append((number, payload))

    async def send_frames(self, *frames: bytes) -> None:
        """A live message that is none."""
        await self._pub.send_multipart(frames)

    async def _answer(self) -> None:
        while True:
            client, _, start = await self._router.recv_multipart()
            first = int.from_bytes(start, "big")
            self.asked.append(first)
            if self.deaf:
                continue
            before = (client, b"") if self.old else (client, b"", self.topic)
            for number, payload in list(self._buffer):
                if number in self.lose_replay:
                    self.lose_replay.discard(number)
                elif number >= first:
                    await self._router.send_multipart((*before, number.to_bytes(8, "big"), payload))
            await self._router.send_multipart((*((client, b"") if self.old else (client, b"", b"")), END, b""))

    async def _bound(self, socket: zmq.asyncio.Socket, endpoint: str) -> str:
        while True:  # a port that was just given up may be taken for a moment longer
            try:
                socket.bind(endpoint or "tcp://127.0.0.1:*")
            except zmq.ZMQError:
                await asyncio.sleep(0.01)
            else:
                return str(socket.getsockopt_string(zmq.LAST_ENDPOINT))


@contextlib.asynccontextmanager
async def publishing(**options: Any) -> AsyncIterator[Publisher]:
    publisher = Publisher(**options)
    await publisher.start()
    try:
        yield publisher
    finally:
        await publisher.stop()


class Heard:
    """A sink that remembers: what is held, whether that is all, and every call."""

    def __init__(self) -> None:
        self.keys: set[int] = set()
        self.exact = False
        self.calls: list[str] = []
        self._changed = asyncio.Event()

    def stored(self, keys: Sequence[int]) -> None:
        self.keys.update(keys)
        self._note("stored")

    def removed(self, keys: Sequence[int]) -> None:
        self.keys.difference_update(keys)
        self._note("removed")

    def cleared(self) -> None:
        self.keys.clear()
        self._note("cleared")

    def certain(self, exact: bool) -> None:
        self.exact = exact
        self._note("exact" if exact else "not exact")

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self._changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        """Returns when `condition` holds; it is looked at after every call."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def holds(self, *keys: Sequence[int], exact: bool = True) -> None:
        """Returns when exactly these keys are held, and it is known whether that is all."""
        wanted = {key for some in keys for key in some}
        try:
            async with asyncio.timeout(10.0):
                await self.until(lambda: self.keys == wanted and self.exact is exact)
        except TimeoutError:
            more, less = len(self.keys - wanted), len(wanted - self.keys)
            raise AssertionError(f"{more} too many, {less} missing, exact={self.exact}: {self.calls}") from None
