"""Labels: whether an answer that was near is the one that the engine gave. Made off the way of requests, in the end
always by texts or by the deployment of `cache.semantic.judge`."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Literal

import msgspec

from cache import planted
from cache.answer import Answer, assemble, text_of
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
"""What became of a wish: settled by texts or by the judge; or left, since the judge gave no verdict, or may not see
it, or an engine gave no answer."""

MAX_WAITING = 1024
MAX_AGE_S = 600.0
"""What could not be labelled by then is left: the cohort has moved on."""
AT_ONCE = 4
"""Calls to engines, in each worker."""
BUSY_S = 1.0
"""Until it is looked again whether the engines are idle."""
OWN_PAIRS = 32
"""Of each sensitivity class: pairs of the tenants' own answers that texts settled, to be asked as planted ones."""
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

    tell: takes each label. lag: takes its age in seconds.
    lost: takes each audit that will not come, for a reason that has nothing to do with what it would have said.
    """

    def __init__(
        self,
        options: JudgeOptions,
        calls: OwnCalls,
        tell: Callable[[Judged], None],
        clock: Clock,
        rng: random.Random,
        *,
        confidence: float = 0.95,
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
        self._shipped = list(planted.shipped().items())
        rng.shuffle(self._shipped)
        self._unasked = self._shipped.copy()
        self._own: dict[str, deque[tuple[str, Pair]]] = {}
        self.error = JudgeError(confidence)
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
            self._left(wish, "unclear")
            return
        self._queue.put(wish, self._clock.monotonic())
        self._wanted.set()

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
            if wish.fresh is None:
                wish = msgspec.structs.replace(wish, fresh=await self._ask_again(wish))
            if wish.fresh is None:
                self._left(wish, "unclear")
                return
            if self._by_texts(wish, wish.fresh, since_s):
                return
            if self._options.deployment:
                await self._by_judge(wish, wish.fresh, since_s)
            else:
                self._left(wish, "unclear")
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

    async def _ask_again(self, wish: Wish) -> Answer | None:
        """What the engine says to what was answered from the cache; None: nothing that is fit to be compared."""
        assert wish.again is not None
        call = whole(wish.again)
        body = await self._calls.ask(wish.deployment, call, wish.clearance, "audit", self._paid)
        answer = assemble(kind_of(call.operation), body, False)
        return None if isinstance(answer, str) else answer

    def _by_texts(self, wish: Wish, fresh: Answer, since_s: float | None = None) -> bool:
        """Whether the texts settle it; if so it is told."""
        stored, told = text_of(wish.stored), text_of(fresh)
        if max(len(stored), len(told)) > MAX_TEXT_CHARS:
            return False
        same = compare(stored, told)
        if same is None:
            return False
        if stored != told:
            own = self._own.setdefault(wish.clearance.name, deque(maxlen=OWN_PAIRS))
            own.append((f"own-{hash((stored, told)):x}", Pair(wish.asked, told, stored, same)))
        self._settle(wish, same, "rules", since_s)
        return True

    async def _by_judge(self, wish: Wish, fresh: Answer, since_s: float) -> None:
        if self._rng.random() < self._planted_share:
            await self._ask_planted(wish.clearance)
        asked = prompt(wish.asked, text_of(fresh), text_of(wish.stored), self._rng)
        if asked is None:
            self._left(wish, "unclear")
            return
        same = await self._ask_judge(asked, wish.clearance)
        if same is None:
            self._left(wish, "unclear")
        else:
            self._settle(wish, same, "judge", since_s)

    @property
    def _planted_share(self) -> float:
        share = self._options.planted_share
        return max(share, FIRST_SHARE) if share and self._unasked else share

    async def _ask_planted(self, clearance: Clearance) -> None:
        """One whose answer is known; of the tenants' own only what is of the same class."""
        first = self._unasked.pop() if self._unasked else None
        name, pair = first or self._rng.choice([*self._shipped, *self._own.get(clearance.name, ())])
        asked = prompt(pair.question, pair.first, pair.second, self._rng)
        if asked is None:
            return
        try:
            said_same = await self._ask_judge(asked, clearance, "planted")
        except BaseException:
            if first is not None:
                self._unasked.append(first)
            raise
        self.error.learn(name, same=pair.same, said=said_same)

    async def _ask_judge(self, asked: Prompt, clearance: Clearance, purpose: str = "judge") -> bool | None:
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
        same = verdict(asked, said(body))
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
