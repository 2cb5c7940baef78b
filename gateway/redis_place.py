"""Notes of gateways in Redis or Valkey.

Each gateway's note is a key of its own that expires; a set has the names of all. One round trip leaves the note, asks
for the set and reads the notes of those who were in it the last time: so a newcomer is read a round later.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import cast

from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as SlowRedis

from gateway.config import Redis as Options
from gateway.peers import GONE_S, PlaceFailed
from gateway.redis_client import CONNECT_S, hang_up, open_client, pipeline_of

MAX_PEERS = 256
_GONE_MS = int(GONE_S * 1000)
_SET_S = 3600


class RedisPlace:
    """Implements `Place`. All keys share a hash tag, so that they lie in one slot.

    Raises:
        ValueError: the URL is not what redis-py takes.
    """

    name = "redis"

    def __init__(self, options: Options) -> None:
        self._timeout_s = options.timeout_s
        self._client = open_client(options)
        self._me = secrets.token_hex(8).encode()
        self._root = f"{{{options.prefix}}}:peers"
        self._others: list[bytes] = []
        self._connected = False

    async def trade(self, note: bytes | None) -> list[bytes]:
        try:
            async with asyncio.timeout(self._timeout_s if self._connected else CONNECT_S):
                found = await self._round(note)
        except (TimeoutError, SlowRedis):
            await self._hang_up()
            raise PlaceFailed(f"no answer within redis.timeout_s of {self._timeout_s:g} s") from None
        except (RedisError, OSError) as error:
            await self._hang_up()
            raise PlaceFailed(str(error) or type(error).__name__) from None
        self._connected = True
        return found

    async def aclose(self) -> None:
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                pipeline = pipeline_of(self._client)
                pipeline.delete(self._key(self._me))
                pipeline.srem(self._root, self._me)
                await pipeline.execute()
        await self._hang_up()

    async def _round(self, note: bytes | None) -> list[bytes]:
        asked = self._others
        pipeline = pipeline_of(self._client)
        if note is not None:
            pipeline.set(self._key(self._me), note, px=_GONE_MS)
            pipeline.sadd(self._root, self._me)
            pipeline.expire(self._root, _SET_S)
        pipeline.smembers(self._root)
        if asked:
            pipeline.mget([self._key(one) for one in asked])
        answers = await pipeline.execute()
        notes = cast("list[bytes | None]", answers.pop()) if asked else []
        members = sorted(cast("set[bytes]", answers.pop()) - {self._me})
        gone = {one for one, told in zip(asked, notes, strict=True) if told is None}
        self._others = [one for one in members if one not in gone][:MAX_PEERS]
        if gone:
            pipeline.srem(self._root, *gone)  # one that comes back adds itself again
            await pipeline.execute()
        return [told for told in notes if told is not None]

    async def _hang_up(self) -> None:
        self._connected = False
        self._others = []
        await hang_up(self._client, self._timeout_s)

    def _key(self, name: bytes) -> bytes:
        return self._root.encode() + b":" + name
