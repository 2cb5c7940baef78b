"""One conversation with Redis or Valkey: what is asked while an answer is awaited goes together in the next round."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from hashlib import sha1
from typing import Any, NamedTuple, TypeAlias

from redis.exceptions import NoScriptError, RedisError, ResponseError

from gateway.config import Redis as Options
from gateway.limits.seam import StoreLost
from gateway.redis_client import CONNECT_S, hang_up, open_client, ping, pipeline_of

Answer: TypeAlias = Any
"""What the script returns: bytes, or a whole number."""


class Refused(StoreLost):
    """All calls were answered, and to one of them the server will never say anything else."""


class Call(NamedTuple):
    """One run of the script. In a cluster all keys share a hash tag."""

    keys: Sequence[str]
    args: Sequence[str | int]


class _Asked(NamedTuple):
    calls: Sequence[Call]
    answers: asyncio.Future[list[Answer]]


class RedisLink:
    """Runs one script. There is one round trip at a time, over one connection (to each node of a cluster), so that
    the server sees calls in the order in which they were made. An answer that comes too late closes the connection.

    Raises:
        ValueError: the URL is not what redis-py takes.
    """

    def __init__(self, options: Options, script: str) -> None:
        self._timeout_s = options.timeout_s
        self._client = open_client(options)
        self._script = script
        self._sha = sha1(script.encode()).hexdigest()  # noqa: S324 - the name that the protocol gives it
        self._waiting: list[_Asked] = []
        self._talking: asyncio.Task[None] | None = None
        self._connected = False

    def __repr__(self) -> str:
        return f"<RedisLink {'connected' if self._connected else 'not connected'} waiting={len(self._waiting)}>"

    async def ask(self, calls: Sequence[Call]) -> list[Answer]:
        """The script's answers, in order.

        Raises:
            StoreLost: not all of them came in time; nobody knows which calls were carried out.
            Refused: they came, but one of them is an error that stays.
        """
        loop = asyncio.get_running_loop()
        asked = _Asked(calls, loop.create_future())
        self._waiting.append(asked)
        if self._talking is None:
            self._talking = loop.create_task(self._talk())
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asked.answers
        except TimeoutError:
            raise StoreLost(self._too_slow()) from None

    async def aclose(self) -> None:
        """Takes a moment at most."""
        if self._talking is not None:
            self._talking.cancel()
            await asyncio.wait((self._talking,))
        await self._hang_up()

    async def _talk(self) -> None:
        """Until nobody waits."""
        try:
            while self._waiting:
                if not self._connected:
                    await self._connect()
                asked, self._waiting = self._waiting, []
                # Whoever has given up must not get what he could not use.
                wanted = [one for one in asked if not one.answers.done()]
                if wanted:
                    await self._answer(wanted)
        finally:
            self._talking = None

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_S):
                await ping(self._client)
            self._connected = True
        except (RedisError, OSError) as error:
            await self._lose(self._waiting, _told(error))
            self._waiting = []

    async def _answer(self, asked: Sequence[_Asked]) -> None:
        calls = [call for one in asked for call in one.calls]
        try:
            async with asyncio.timeout(self._timeout_s):
                answers = await self._round(calls)
        except TimeoutError:
            await self._lose(asked, self._too_slow())
            return
        except (RedisError, OSError) as error:
            await self._lose(asked, _told(error))
            return
        start = 0
        for one in asked:
            _settle(one.answers, answers[start : start + len(one.calls)])
            start += len(one.calls)

    async def _round(self, calls: Sequence[Call]) -> list[Answer]:
        answers = await self._run("EVALSHA", self._sha, calls)
        unknown = [index for index, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:  # those alone: the others were carried out
            again = await self._run("EVAL", self._script, [calls[index] for index in unknown])
            for index, answer in zip(unknown, again, strict=True):
                answers[index] = answer
        for answer in answers:
            if isinstance(answer, Exception) and not _stays(answer):
                raise answer
        return answers

    async def _run(self, command: str, script: str, calls: Sequence[Call]) -> list[Answer]:
        pipeline = pipeline_of(self._client)
        for call in calls:
            pipeline.execute_command(command, script, len(call.keys), *call.keys, *call.args)
        return await pipeline.execute(raise_on_error=False)

    async def _lose(self, asked: Sequence[_Asked], why: str) -> None:
        for one in asked:
            if not one.answers.done():
                one.answers.set_exception(StoreLost(why))
        await self._hang_up()

    async def _hang_up(self) -> None:
        self._connected = False
        with contextlib.suppress(ValueError):  # a node of a cluster that was forgotten meanwhile
            await hang_up(self._client, self._timeout_s)

    def _too_slow(self) -> str:
        return f"redis: no answer within redis.timeout_s of {self._timeout_s:g} s"


def _settle(waiting: asyncio.Future[list[Answer]], answers: list[Answer]) -> None:
    if waiting.done():
        return
    refusal = next((answer for answer in answers if isinstance(answer, Exception)), None)
    if refusal is None:
        waiting.set_result(answers)
    else:
        waiting.set_exception(Refused(_told(refusal)))


def _stays(error: Exception) -> bool:
    """Out of memory, read-only, loading, down: what passes has a class of its own in redis-py."""
    return type(error) is ResponseError


def _told(error: Exception) -> str:
    return f"redis: {str(error) or type(error).__name__}"
