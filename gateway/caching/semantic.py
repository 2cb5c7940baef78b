"""Answers to questions that are worded differently: what is near, whether to serve it, and what is learned of it."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from cache.answer import Answer
from cache.embed.seam import NoVector, packed
from cache.entry import Entry, Judged, Record
from cache.library import Library
from cache.semantics.seam import Look
from gateway.caching.asking import Place
from gateway.caching.judge import Labeller, Wish
from gateway.caching.tally import Tally
from gateway.residency import Clearance
from gateway.wire import Call

if TYPE_CHECKING:
    from cache.embed.two_stage import TwoStage

MAX_CHAINS = 1000
"""Fresh answers that are being compared with one kept answer after another."""


class Sight(msgspec.Struct, frozen=True):
    """What was found near a question. vector, first: its own, as they are kept; b"": not made.

    look: None: nothing was near. wanted: whether what becomes of it is to be labelled.
    """

    vector: bytes = b""
    first: bytes = b""
    look: Look | None = None
    wanted: bool = False


NOTHING_SEEN = Sight()


class Semantic:
    """Of one worker.

    tell: takes records for the journal. neighbours: kept questions that are looked at.
    """

    def __init__(
        self,
        library: Library,
        labeller: Labeller,
        tally: Tally,
        tell: Callable[[Record], None],
        rng: random.Random,
        wall_s: Callable[[], float],
        neighbours: int,
    ) -> None:
        self.embedder: TwoStage | None = None
        """None: it is not there yet, and nothing is found."""
        self._library = library
        self._labeller = labeller
        self._tally = tally
        self._tell = tell
        self._rng = rng
        self._wall_s = wall_s
        self._neighbours = neighbours
        self._chains: OrderedDict[str, tuple[Wish, tuple[str, ...]]] = OrderedDict()
        """By the fresh answer: how it was compared last, and with whose answers it is to be compared next."""

    async def look(self, place: Place, clearance: Clearance, before: Sight = NOTHING_SEEN) -> Sight | None:
        """What is near; None: nobody can tell. before: what was found at another place, and knows the vectors."""
        embedder, partition = self.embedder, place.question.partition
        why = place.question.semantic_refused
        if not why and embedder is None:
            why = "no_embedder"
        if not why and embedder is not None and embedder.remote and clearance.is_confined:
            why = "confined"
        if why or embedder is None:
            self._tally.refused("semantic", why)
            return None
        if not self._library.populated(partition):
            return NOTHING_SEEN
        try:
            return await self._near(embedder, place, before)
        except NoVector as no:
            self._tally.refused("semantic", no.reason)
            return None

    async def _near(self, embedder: TwoStage, place: Place, before: Sight) -> Sight:
        text, partition, now = place.question.text, place.question.partition, self._wall_s()
        first = before.first
        if embedder.first is not None and not before.vector:
            coarse = embedder.first.embed_now(text)
            first = packed(coarse)
            if self._library.nearest_first(partition, coarse, now) < embedder.low_cut:
                return Sight(first=first)
        vector = before.vector or (await embedder.second.embed([text]))[0]
        near = self._library.near(partition, vector, self._neighbours, now)
        look = self._library.cohort(place.cohort).look(text, near) if near else None
        if look is not None and look.serves and self._labeller.unfit:
            self._tally.refused("semantic", "judge")
            look = msgspec.structs.replace(look, serves=False)
        wanted = look is not None and look.wanted > 0 and self._rng.random() < look.wanted
        return Sight(vector if isinstance(vector, bytes) else packed(vector), first, look, wanted)

    async def complete(self, entry: Entry, sight: Sight) -> Entry:
        """The entry with its vectors, or without if they cannot be had."""
        embedder = self.embedder
        if embedder is None:
            return entry
        first, vector = sight.first, sight.vector
        try:
            if embedder.first is not None and not first:
                first = packed(embedder.first.embed_now(entry.text))
            if not vector:
                vector = packed((await embedder.second.embed([entry.text], urgent=False))[0])
        except NoVector as no:
            self._tally.refused("store", no.reason)
            return entry
        return msgspec.structs.replace(entry, vector=vector, first=first, embedder=embedder.name)

    def missed(self, sight: Sight, place: Place, fresh: Answer, fresh_id: str, clearance: Clearance) -> None:
        """A fresh answer to a question that something was near to: have it compared, if that is wanted. fresh_id: of
        its entry at that place; "": it has none."""
        look = sight.look
        if look is None or not sight.wanted:
            return
        held = self._library.held(look.candidate)
        if held is None:
            return
        text, stored = place.question.text, held.entry.answer
        wish = Wish(place.cohort, look, text, stored, "miss", clearance, fresh=fresh, fresh_id=fresh_id)
        if look.rivals and fresh_id:
            self._chains[fresh_id] = (wish, look.rivals)
            if len(self._chains) > MAX_CHAINS:
                self._chains.popitem(last=False)
        self._labeller.want(wish)

    def served(
        self, place: Place, sight: Sight, entry: Entry, call: Call, deployment: str, clearance: Clearance
    ) -> None:
        """Its answer was given: ask the engine afterwards, if that is wanted."""
        look = sight.look
        assert look is not None
        self._library.hit(entry.id, look, audited=sight.wanted)
        if sight.wanted:
            wish = Wish(place.cohort, look, place.question.text, entry.answer, "audit", clearance)
            self._labeller.want(msgspec.structs.replace(wish, deployment=deployment, again=call))

    def judged(self, judged: Judged) -> None:
        """A label: all workers learn of it, and a fresh answer that is another one is compared with the next."""
        self._tell(judged)
        chain = self._chains.pop(judged.fresh, None) if judged.fresh else None
        if chain is None or judged.equal:
            return
        wish, rivals = chain
        for place, rival in enumerate(rivals):
            held = self._library.held(rival)
            if held is None or wish.look.candidate == rival:
                continue
            assert wish.fresh is not None
            self._next(wish, rival, held.entry.answer, rivals[place + 1 :])
            return

    def _next(self, wish: Wish, rival: str, stored: Answer, rest: tuple[str, ...]) -> None:
        wish = msgspec.structs.replace(wish, look=wish.look.rival(rival), stored=stored)
        if rest:
            self._chains[wish.fresh_id] = (wish, rest)
        self._labeller.want(wish)
