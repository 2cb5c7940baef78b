"""Texts of several callers, embedded together; the work is held until a test lets it go on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import numpy as np
import pytest

from cache.embed.batches import Batches, Outcome, Room
from cache.embed.seam import NoVector, Vector

ROOM = Room(texts=3, chars=60, waiting=6, timeout_s=5.0)


class Work:
    """Answers with the length of each text, a batch at a time, when `go` is called; notes what it was given."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.failure: Exception | None = None
        self._free = asyncio.Semaphore(0)
        self._begun = asyncio.Semaphore(0)

    async def __call__(self, texts: Sequence[str]) -> Sequence[Outcome]:
        self.batches.append(list(texts))
        self._begun.release()
        await self._free.acquire()
        if self.failure is not None:
            raise self.failure
        return [NoVector("long", "too long") if text == "long" else vector(text) for text in texts]

    def go(self, batches: int = 1) -> None:
        for _ in range(batches):
            self._free.release()

    async def begun(self) -> None:
        """The next batch has begun."""
        await self._begun.acquire()


def vector(text: str) -> Vector:
    return np.array([len(text)], "f4")


def asked(batches: Batches, *texts: str, urgent: bool = True) -> asyncio.Task[list[Vector]]:
    return asyncio.get_running_loop().create_task(batches.run(texts, urgent=urgent))


async def reasons(*calls: asyncio.Task[list[Vector]]) -> list[str | None]:
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    return [one.reason if isinstance(one, NoVector) else None for one in outcomes]


async def test_a_single_text_goes_at_once_and_what_waits_meanwhile_goes_together() -> None:
    work = Work()
    batches = Batches("test", work, ROOM)
    first = asked(batches, "a")
    await work.begun()
    others = [asked(batches, "bb"), asked(batches, "ccc", "dddd")]
    work.go(2)
    assert await first == [vector("a")]
    assert [await other for other in others] == [[vector("bb")], [vector("ccc"), vector("dddd")]]
    assert work.batches == [["a"], ["bb", "ccc", "dddd"]]


async def test_a_batch_is_no_larger_than_there_is_room() -> None:
    work = Work()
    batches = Batches("test", work, ROOM)
    work.go(4)
    await batches.run(["a", "b", "c", "d"], urgent=True)
    await batches.run(["x" * 40, "y" * 40], urgent=True)
    assert work.batches == [["a", "b", "c"], ["d"], ["x" * 40], ["y" * 40]]


async def test_short_texts_do_not_wait_for_long_ones_in_their_batch() -> None:
    work = Work()
    batches = Batches("test", work, Room(waiting=9))
    held = asked(batches, "a")
    await work.begun()
    calls = [asked(batches, text) for text in ("short", "l" * 300, "other", "m" * 250)]
    work.go(3)
    await asyncio.gather(held, *calls)
    assert work.batches[1:] == [["short", "other"], ["l" * 300, "m" * 250]]


async def test_what_is_not_urgent_waits_for_what_is() -> None:
    work = Work()
    batches = Batches("test", work, Room(texts=1))
    held = asked(batches, "a")
    await work.begun()
    calls = [asked(batches, "later", urgent=False), asked(batches, "now")]
    work.go(3)
    await asyncio.gather(held, *calls)
    assert work.batches == [["a"], ["now"], ["later"]]


async def test_over_the_bound_there_is_no_vector_rather_than_a_late_one() -> None:
    work = Work()
    batches = Batches("test", work, ROOM)
    held = asked(batches, "a")
    await work.begun()
    waiting = asked(batches, *"bcdefg")
    await asyncio.sleep(0)
    with pytest.raises(NoVector, match="busy: 6 texts wait already, 6 may"):
        await batches.run(["h"], urgent=True)
    work.go(3)
    assert await reasons(held, waiting) == [None, None]


async def test_who_waited_long_enough_gets_none_and_its_text_is_not_begun() -> None:
    work = Work()
    batches = Batches("test", work, Room(timeout_s=0.01))
    held = asked(batches, "a", urgent=False)
    await work.begun()
    with pytest.raises(NoVector, match=r"timeout: after 0\.01 s"):
        await batches.run(["b"], urgent=True)
    work.go(2)
    await held
    assert await asked(batches, "c", urgent=False) == [vector("c")]
    assert work.batches == [["a"], ["c"]]


async def test_who_gives_up_is_not_embedded() -> None:
    work = Work()
    batches = Batches("test", work, ROOM)
    held, given_up, other = asked(batches, "a"), asked(batches, "b"), asked(batches, "c")
    await work.begun()
    given_up.cancel()
    work.go(2)
    await asyncio.gather(held, other)
    assert "b" not in [text for batch in work.batches[1:] for text in batch]


async def test_a_text_without_a_vector_costs_only_its_own_caller() -> None:
    work = Work()
    batches = Batches("test", work, ROOM)
    work.go(2)
    assert await reasons(asked(batches, "long"), asked(batches, "ok")) == ["long", None]


async def test_a_failure_is_told_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    work = Work()
    batches = Batches("tests@1", work, ROOM)
    work.go(4)
    with caplog.at_level(logging.WARNING, "headrace.cache"):
        for failure in (OSError("no route"), NoVector("unfit", "no number"), None, None):
            work.failure = failure
            (reason,) = await reasons(asked(batches, "a"))
            assert reason == (None if failure is None else getattr(failure, "reason", "failed"))
    assert [record.getMessage() for record in caplog.records] == [
        "questions get no vectors from tests@1, so that similar ones are misses: failed: no route",
        "questions get vectors from tests@1 again",
    ]


async def test_closing_leaves_nobody_waiting() -> None:
    work = Work()
    batches = Batches("test", work, Room(texts=1))
    calls = [asked(batches, "a"), asked(batches, "b"), asked(batches, "c", urgent=False)]
    await work.begun()
    await batches.aclose()
    assert await reasons(*calls) == ["failed"] * 3
    assert await reasons(asked(batches, "d")) == ["failed"]


async def test_lanes_are_batches_under_way_together() -> None:
    work = Work()
    batches = Batches("test", work, Room(texts=1, lanes=2))
    calls = [asked(batches, text) for text in "abc"]
    await work.begun()
    await work.begun()
    assert work.batches == [["a"], ["b"]]
    work.go(3)
    await asyncio.gather(*calls)
