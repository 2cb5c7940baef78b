"""The response cache on the way of a call: what is kept is given, calls that ask the same go together, and what engines
say is kept."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple

from cache.answer import Answer, text_of
from cache.entry import Added, Entry
from cache.entry import Record as CacheRecord
from cache.library import Library
from cache.semantics.seam import Look
from engines.base import Operation
from gateway.caching.asking import EVERYBODY, Asking, Make, Place
from gateway.caching.controls import Controls, answer_lines, not_cached, read_controls
from gateway.caching.desk import Desk
from gateway.caching.flights import Flights
from gateway.caching.places import Places, model_of
from gateway.caching.playback import Asked, play, play_slowly
from gateway.caching.seats import Fan, Landed, Seat
from gateway.caching.semantic import NOTHING_SEEN, Semantic, Sight
from gateway.caching.tally import Tally
from gateway.caching.votes import Votes
from gateway.clock import Clock
from gateway.config.cache_options import Cache as Options
from gateway.limits.used import Bookkeeper
from gateway.record import Record, Usage
from gateway.residency import Clearance

BYPASS = answer_lines("bypass")
JOINED = answer_lines("hit")
_ANSWERED = (Operation.CHAT, Operation.COMPLETIONS)
_KEY_BYTES = 32
_ID_BYTES = 16
_IDS_AT_ONCE = 64


class _Miss(NamedTuple):
    """places: where its answer is to lie, its tenant's own first. sights: what was near there; fewer: nobody looked."""

    places: Sequence[Place]
    sights: Sequence[Sight]
    model: str
    controls: Controls


class ResponseCache:
    """Of one worker.

    semantic: None: the very same question alone is answered. stays_here: nothing of it leaves this machine.
    """

    def __init__(
        self,
        options: Options,
        places: Places,
        library: Library,
        flights: Flights,
        semantic: Semantic | None,
        desk: Desk,
        tally: Tally,
        books: Bookkeeper,
        clock: Clock,
        *,
        tell: Callable[[CacheRecord], None],
        wall_s: Callable[[], float],
        stays_here: bool,
    ) -> None:
        self.desk = desk
        self.flights = flights
        self._options = options
        self._places = places
        self._library = library
        self._semantic = semantic
        self._tally = tally
        self._books = books
        self._clock = clock
        self._tell = tell
        self._wall_s = wall_s
        self._stays_here = stays_here
        self._votes = Votes(library, places, tell, wall_s, options.ttl_s)
        self._ids = _Ids()
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<ResponseCache {self._library!r} {self.flights!r}>"

    async def serve(self, asking: Asking, make: Make) -> None:
        """Answer a call from what is kept, or have an engine answer it.

        Raises:
            ApiError: there is no answer, and nothing but comments was sent.
        """
        controls = read_controls(asking.request)
        places, model = self._where(asking, controls)
        if not places:
            await self._bypass(asking, controls, make)
            return
        sights: Sequence[Sight] = ()
        if controls.reads:
            if await self._exact(asking, controls, places):
                return
            found = await self._semantic_hit(asking, controls, places)
            if found is None:
                return
            sights = found
        if controls.only_if_cached:
            raise not_cached()
        miss = _Miss(places, sights, model, controls)
        asking.record.cache = "miss"
        key = places[0].question.key if controls.reads else os.urandom(_KEY_BYTES)
        asked = Asked(asking.call.stream, asking.call.wants_usage, lines=JOINED)
        landed = await self.flights.fly(key, Seat(asking.sink, asked), partial(self._make, asking, make, miss))
        if landed.record is not asking.record:
            landed.tell(asking.record)
            asking.record.cache = "hit"

    def _where(self, asking: Asking, controls: Controls) -> tuple[list[Place], str]:
        """Where its answer may lie, and of which build of the model; nowhere: it is not for the cache."""
        call, deployment, clearance = asking.call, asking.deployment, asking.clearance
        options = self._places.options(deployment.name)
        why = ""
        if options is None:
            why = "deployment"
        elif not (controls.reads or controls.stores):
            why = "no_store"
        elif call.operation not in _ANSWERED:
            why = "operation"
        elif clearance.is_confined and not self._stays_here:
            why = "confined"
        variant = None if why else self._places.draw(deployment, call, clearance)
        if options is None or variant is None:
            self._tally.refused("exact", why or "no_variant")
            return [], ""
        model = model_of(variant.name, variant.engine_model)
        own = self._places.own(asking.caller, call, deployment.name, clearance, model)
        if own.question.refused:
            self._tally.refused("exact", own.question.refused)
            return [], ""
        if options.share != "all":
            return [own], model
        return [own, self._places.everybodys(call, deployment.name, clearance, model)], model

    async def _bypass(self, asking: Asking, controls: Controls, make: Make) -> None:
        if controls.only_if_cached:
            raise not_cached()
        asking.sink.extra_lines += BYPASS
        await make(asking.sink)

    # What is kept

    async def _exact(self, asking: Asking, controls: Controls, places: Sequence[Place]) -> bool:
        """Whether the same question was answered before, and the call with it."""
        now = self._wall_s()
        for place in places:
            entry = self._library.find(place.question.key, now)
            if entry is None or self._is_unwanted(asking, entry):
                continue
            if controls.serves(now - entry.created_at, entry.expires_at - now):
                self._tally.looked_up("exact", hit=True)
                self._library.hit(entry.id)
                await self._give(asking, entry, None)
                return True
        self._tally.looked_up("exact", hit=False)
        return False

    async def _semantic_hit(
        self, asking: Asking, controls: Controls, places: Sequence[Place]
    ) -> Sequence[Sight] | None:
        """What is near the question, at each place; None: it was near enough, and the call is answered."""
        semantic, options = self._semantic, self._places.options(asking.deployment.name)
        if semantic is None or options is None or not options.semantic:
            return ()
        sights: list[Sight] = []
        for place in places:
            sight = await semantic.look(place, asking.clearance, sights[-1] if sights else NOTHING_SEEN)
            if sight is None:
                break
            sights.append(sight)
            entry = self._fitting(asking, sight, controls)
            self._tally.looked_up("semantic", hit=entry is not None)
            if entry is not None:
                semantic.served(place, sight, entry, asking.call, asking.deployment.name, asking.clearance)
                await self._give(asking, entry, sight.look)
                return None
        return sights

    def _is_unwanted(self, asking: Asking, entry: Entry) -> bool:
        """Whether all share it, and the caller's tenant said that it is wrong."""
        return entry.tenant == EVERYBODY and self._library.is_unwanted(entry.id, asking.caller.tenant)

    def _fitting(self, asking: Asking, sight: Sight, controls: Controls) -> Entry | None:
        look = sight.look
        held = self._library.held(look.candidate) if look is not None and look.serves else None
        if held is None or self._is_unwanted(asking, held.entry):
            return None
        now, entry = self._wall_s(), held.entry
        return entry if controls.serves(now - entry.created_at, entry.expires_at - now) else None

    async def _give(self, asking: Asking, entry: Entry, look: Look | None) -> None:
        record, answer = asking.record, entry.answer
        source = "hit" if look is None else "semantic"
        record.cache, record.status, record.finish_reason = source, 200, answer.finish_reason
        record.usage = Usage(
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            cached_tokens=answer.prompt_tokens,
        )
        self._tally.saved(entry)
        age_s = self._wall_s() - entry.created_at
        if look is None:
            lines = answer_lines("hit", entry_id=entry.id, age_s=age_s)
        else:
            lines = answer_lines(
                "semantic",
                entry_id=entry.id,
                age_s=age_s,
                similarity=look.cosine,
                score=look.score,
                bound=self.desk.stated(look.bound),
            )
        asked = Asked(asking.call.stream, asking.call.wants_usage, lines=lines)
        if self._options.pace:
            await play_slowly(answer, asking.sink, asked, self._clock)
        else:
            play(answer, asking.sink, asked)

    # What is to be kept

    async def _make(self, asking: Asking, make: Make, miss: _Miss, fan: Fan) -> Landed:
        await make(fan)
        landed = fan.land(asking.call, asking.record)
        if miss.controls.stores:
            self._keep(asking, miss, landed)
        return landed

    def _keep(self, asking: Asking, miss: _Miss, landed: Landed) -> None:
        """What a fallback said is not kept: the deployment asked for may be back for the next one."""
        record, answer = landed.record, landed.answer
        if not isinstance(answer, Answer):
            self._tally.refused("store", answer)
            return
        if record.fallback or record.error_type:
            self._tally.refused("store", "fallback" if record.fallback else "error")
            return
        places = self._of_who_answered(asking, miss, record)
        sights = miss.sights if places is miss.places else ()
        for at, place in enumerate(places):
            sight = sights[at] if at < len(sights) else NOTHING_SEEN
            if place.tenant != EVERYBODY or self._is_everybodys(asking, place, answer):
                self._put(asking, place, answer, miss, sight)
            elif self._semantic is not None:
                self._semantic.missed(sight, place, answer, "", asking.clearance)

    def _of_who_answered(self, asking: Asking, miss: _Miss, record: Record) -> Sequence[Place]:
        """Another build than the one whose answers were looked for may have: then it is kept with that one's."""
        model = model_of(record.variant, record.engine_model)
        if model == miss.model:
            return miss.places
        call, name, clearance = asking.call, asking.deployment.name, asking.clearance
        places = [self._places.own(asking.caller, call, name, clearance, model)]
        if len(miss.places) > 1:
            places.append(self._places.everybodys(call, name, clearance, model))
        return places

    def _is_everybodys(self, asking: Asking, place: Place, answer: Answer) -> bool:
        """Whether enough tenants were given this very answer."""
        options, key = self._places.options(asking.deployment.name), place.question.key
        assert options is not None
        return self._votes.cast(key, asking.caller.tenant, text_of(answer)) > options.confirmations

    def _put(self, asking: Asking, place: Place, answer: Answer, miss: _Miss, sight: Sight) -> None:
        entry = self._entry(asking, place, answer, miss)
        semantic = self._semantic
        if semantic is None or semantic.embedder is None or not entry.partition:
            self._tell(Added(entry))
        else:
            self._later(self._put_complete(semantic, entry, place, sight, asking.clearance))

    async def _put_complete(
        self, semantic: Semantic, entry: Entry, place: Place, sight: Sight, clearance: Clearance
    ) -> None:
        self._tell(Added(await semantic.complete(entry, sight)))
        semantic.missed(sight, place, entry.answer, entry.id, clearance)

    def _later(self, work: Awaitable[None]) -> None:
        task = asyncio.get_running_loop().create_task(_awaited(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _entry(self, asking: Asking, place: Place, answer: Answer, miss: _Miss) -> Entry:
        record, question = asking.record, place.question
        options = self._places.options(asking.deployment.name)
        assert options is not None
        # As old as the question: a purge also takes what was being answered when it came.
        asked_at = self._wall_s() - max(0.0, self._clock.monotonic() - record.started_s)
        lives_s = [options.ttl_s or self._options.ttl_s, miss.controls.ttl_s]
        if question.ttl_s is not None:
            lives_s.append(question.ttl_s)
        is_semantic = options.semantic and self._semantic is not None
        return Entry(
            id=self._ids.take(),
            key=question.key,
            partition=question.partition if is_semantic else b"",
            cohort=place.cohort,
            tenant=place.tenant,
            deployment=asking.deployment.name,
            model=answer.model,
            text=question.text if is_semantic else "",
            answer=answer,
            tags=tuple(options.tags),
            created_at=asked_at,
            expires_at=asked_at + min(lives_s),
            epoch=self._options.epoch,
            saved_s=record.upstream_s,
            nano_usd=self._books.nano_usd(record),
        )

    async def aclose(self) -> None:
        """What is on its way is kept, if that takes no more than a moment."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        for task in list(self._tasks):
            task.cancel()


class _Ids:
    """Random names of 128 bits; the system is asked for many at a time."""

    def __init__(self) -> None:
        self._random = b""
        self._at = 0

    def take(self) -> str:
        if self._at == len(self._random):
            self._random, self._at = os.urandom(_IDS_AT_ONCE * _ID_BYTES), 0
        self._at += _ID_BYTES
        return self._random[self._at - _ID_BYTES : self._at].hex()


async def _awaited(work: Awaitable[None]) -> None:
    await work
