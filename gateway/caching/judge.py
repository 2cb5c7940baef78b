"""Labels: whether an answer that was near is the one that the engine gave. Made off the way of requests, in the end
always by texts or by the deployment of `cache.semantic.judge`."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable
from typing import Literal

import msgspec

from cache import planted
from cache.answer import Answer, Refused, assemble, text_of
from cache.entry import Judged, Source
from cache.judging import Prompt, compare, prompt, verdict
from cache.labels import Allowance, LabelQueue
from cache.planted import JudgeError, Pair
from cache.semantics.seam import Look
from gateway.caching.judge_calls import kind_of, question, said, whole
from gateway.caching.own_calls import Busy, OwnCalls, Unreachable
from gateway.clock import Clock, wall_time_s
from gateway.config.cache_options import JudgeOptions
from gateway.errors import ApiError
from gateway.residency import Clearance
from gateway.wire import Call

logger = logging.getLogger(__name__)

Outcome = Literal["rules", "judge", "unclear", "confined", "failed"]
"""What became of a wish: settled by texts or by the judge; taken for different, as nobody could say that the answers
are the same; or left, since the judge may not see them, or an engine gave no answer."""
_ANOTHER = ("truncated", "filtered")
"""What an engine may say in place of an answer that was whole: that is another answer."""

MAX_WAITING = 1024
MAX_AGE_S = 600.0
"""What could not be labelled by then is left: the cohort has moved on."""
AT_ONCE = 4
"""Calls to engines, in each worker."""
BUSY_S = 1.0
"""Until it is looked again whether the engines are idle."""
MAX_TEXT_CHARS = 65_536
FIRST_SHARE = 0.25
"""Of questions to a judge of whom nothing is known yet, those that are planted: until each pair was asked once."""


class Wish(msgspec.Struct, frozen=True):
    """A label that is wanted.

    asked:  the question; stored: the answer that was near.
    fresh:  what the engine said; None: `again` asks it, of `deployment`. fresh_id: of its entry, "" if it has none.
    clearance: of question and answers.
    """

    cohort: str
    look: Look
    asked: str
    stored: Answer
    source: Source
    clearance: Clearance
    fresh: Answer | None = None
    fresh_id: str = ""
    deployment: str = ""
    again: Call | None = None


class Labeller:
    """One per worker, used from its event loop alone.

    tell: takes each label, and each thing the judge said of a planted pair. lag: takes a label's age in seconds.
    lost: takes each audit that will not come, for a reason that has nothing to do with what it would have said.
    error: of the judge, as the journal tells it. max_wrong: share of semantic hits that may be wrong.
    """

    def __init__(
        self,
        options: JudgeOptions,
        calls: OwnCalls,
        tell: Callable[[Judged], None],
        clock: Clock,
        rng: random.Random,
        *,
        error: JudgeError,
        max_wrong: float,
        lag: Callable[[float], None] = lambda lag_s: None,
        lost: Callable[[Wish], None] = lambda wish: None,
        wall_s: Callable[[], float] = wall_time_s,
    ) -> None:
        self._options = options
        self._calls = calls
        self._tell = tell
        self._clock = clock
        self._rng = rng
        self._lag = lag
        self._lost = lost
        self._wall_s = wall_s
        self._queue: LabelQueue[Wish] = LabelQueue(MAX_WAITING, self._give_up)
        self._allowance = Allowance(options.max_per_minute, options.max_usd_per_day)
        self._wanted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._shipped = list(planted.shipped().values())
        rng.shuffle(self._shipped)
        self._unasked = self._shipped.copy()
        self._max_wrong = max_wrong
        self._was_unfit = False
        self.error = error
        self.outcomes: Counter[tuple[Source, Outcome]] = Counter()
        self.asked: Counter[str] = Counter()
        """Questions to the judge, by what came of them: same, different, unclear or failed."""
        self.shed = 0
        """Times that engines were not asked, as others needed them."""
        self.nano_usd = 0
        """What all that it asked has cost."""

    def __repr__(self) -> str:
        return f"<Labeller {self._queue!r} {dict(self.asked)} shed={self.shed} {self.error!r}>"

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def dropped(self) -> int:
        return self._queue.dropped

    def want(self, wish: Wish) -> None:
        """Label it now if texts settle it, else as soon as engines idle. Never blocks."""
        if wish.fresh is not None and self._by_texts(wish, wish.fresh):
            return
        if wish.fresh is not None and not self._options.deployment:
            self._settle(wish, False, "unclear", None)
            return
        self._queue.put(wish, self._clock.monotonic())
        self._wanted.set()

    @property
    def unfit(self) -> bool:
        """Whether the judge errs so often that nothing semantic may be served. Says so in the log when that changes."""
        unfit = bool(self._options.deployment) and self.error.is_unfit(self._max_wrong)
        if unfit != self._was_unfit:
            self._was_unfit = unfit
            if unfit:
                logger.warning("the response cache serves nothing semantic: %s", self.objection)
            else:
                logger.info("the response cache serves semantic answers again: its judge errs no more than it may")
        return unfit

    @property
    def objection(self) -> str:
        """For people: what speaks against the judge; "": nothing that is known."""
        judge = self._options.deployment
        said = self.error.objection(self._max_wrong) if judge else ""
        return said and f"the judge {judge} {said}"

    def stated(self, bound: float) -> float:
        """A bound, with what the judge may have missed: nothing where it was never asked, as it is asked about a pair
        that is known first."""
        is_unused = not self._options.deployment or (self._options.planted_share > 0.0 and not self.error.pairs)
        return bound if is_unused else self.error.stated(bound)

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run(), name=f"labels {i}") for i in range(AT_ONCE)]

    async def aclose(self) -> None:
        """What waits is left."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            now_s = self._clock.monotonic()
            wait_s = self._allowance.wait_s(now_s)
            if wait_s > 0.0:
                await self._clock.sleep(min(wait_s, BUSY_S))
                continue
            taken = self._queue.take(now_s, MAX_AGE_S)
            if taken is None:
                self._wanted.clear()
                continue
            try:
                await self._label(*taken)
            except Exception:
                logger.exception("a label of the response cache could not be made")
                self._left(taken[0], "failed")

    async def _label(self, wish: Wish, age_s: float) -> None:
        since_s = self._clock.monotonic() - age_s
        try:
            fresh = wish.fresh or await self._ask_again(wish)
            if fresh in _ANOTHER:
                self._settle(wish, False, "unclear", since_s)
            elif isinstance(fresh, str):
                self._left(wish, "failed")
                self._give_up(wish)
            else:
                await self._compare(msgspec.structs.replace(wish, fresh=fresh), fresh, since_s)
        except Busy:
            self.shed += 1
            now_s = self._clock.monotonic()
            self._queue.put_back(wish, now_s - since_s, now_s)
            self._wanted.set()
            await self._clock.sleep(BUSY_S * (0.5 + self._rng.random()))
        except Unreachable:
            self._left(wish, "confined")
            self._give_up(wish)
        except ApiError:
            self._left(wish, "failed")
            self._give_up(wish)

    async def _ask_again(self, wish: Wish) -> Answer | Refused:
        """What the engine says to what was answered from the cache, or why that is nothing to be compared."""
        assert wish.again is not None
        call = whole(wish.again)
        body = await self._calls.ask(wish.deployment, call, wish.clearance, "audit", self._paid)
        return assemble(kind_of(call.operation), body, False)

    async def _compare(self, wish: Wish, fresh: Answer, since_s: float) -> None:
        if self._by_texts(wish, fresh, since_s):
            return
        if self._options.deployment:
            await self._by_judge(wish, fresh, since_s)
        else:
            self._settle(wish, False, "unclear", since_s)

    def _by_texts(self, wish: Wish, fresh: Answer, since_s: float | None = None) -> bool:
        """Whether the texts settle it; if so it is told."""
        stored, told = text_of(wish.stored), text_of(fresh)
        if max(len(stored), len(told)) > MAX_TEXT_CHARS:
            return False
        same = compare(stored, told)
        if same is None:
            return False
        self._settle(wish, same, "rules", since_s)
        return True

    async def _by_judge(self, wish: Wish, fresh: Answer, since_s: float) -> None:
        if self._rng.random() < self._planted_share:
            await self._ask_planted(wish.clearance)
        same = await self._ask_both_ways(Pair(wish.asked, text_of(fresh), text_of(wish.stored), True), wish.clearance)
        self._settle(wish, bool(same), "unclear" if same is None else "judge", since_s)

    @property
    def _planted_share(self) -> float:
        share = self._options.planted_share
        if not share or not self._unasked:
            return share
        return max(share, FIRST_SHARE) if self.error.pairs else 1.0

    async def _ask_planted(self, clearance: Clearance) -> None:
        assert self._options.deployment
        first = self._next_unasked()
        pair = first or self._rng.choice(self._shipped)
        try:
            said = await self._ask_both_ways(pair, clearance, "planted")
        except BaseException:
            if first is not None:
                self._unasked.append(first)
            raise
        self._tell(planted.planted_record(self._options.deployment, pair, bool(said), self._wall_s()))

    def _next_unasked(self) -> Pair | None:
        """What no worker has asked."""
        while self._unasked:
            pair = self._unasked.pop()
            if not self.error.knows(pair.name):
                return pair
        return None

    async def _ask_both_ways(self, pair: Pair, clearance: Clearance, purpose: str = "judge") -> bool | None:
        """Whether the judge says that both are the same, whichever comes first; None: it does not say.

        Raises:
            Busy, Unreachable, ApiError: see `_ask_judge`.
        """
        for first, second in ((pair.first, pair.second), (pair.second, pair.first)):
            asked = prompt(pair.question, first, second)
            same = None if asked is None else await self._ask_judge(asked, clearance, purpose)
            if not same:
                return same
        return True

    async def _ask_judge(self, asked: Prompt, clearance: Clearance, purpose: str) -> bool | None:
        """
        Raises:
            Busy, Unreachable: see `OwnCalls.ask`.
            ApiError: it failed.
        """
        assert self._options.deployment
        try:
            call = question(asked, self._options.deployment)
            body = await self._calls.ask(self._options.deployment, call, clearance, purpose, self._paid)
        except ApiError:
            self._count(None, failed=True)
            raise
        same = verdict(said(body))
        self._count(same)
        return same

    def _count(self, same: bool | None, *, failed: bool = False) -> None:
        self._allowance.ask(self._clock.monotonic())
        self.asked["failed" if failed else {True: "same", False: "different", None: "unclear"}[same]] += 1

    def _paid(self, nano_usd: int) -> None:
        self.nano_usd += nano_usd
        self._allowance.spend(nano_usd, self._clock.monotonic())

    def _settle(self, wish: Wish, same: bool, by: Outcome, since_s: float | None) -> None:
        self.outcomes[(wish.source, by)] += 1
        self._lag(0.0 if since_s is None else self._clock.monotonic() - since_s)
        self._tell(Judged(wish.cohort, wish.look, wish.fresh_id, same, wish.source, self._wall_s()))

    def _left(self, wish: Wish, why: Outcome) -> None:
        self.outcomes[(wish.source, why)] += 1

    def _give_up(self, wish: Wish) -> None:
        if wish.source == "audit":
            self._lost(wish)
