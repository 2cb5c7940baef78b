"""One answer for several clients as it comes: what each has had of it, and who the engine has to wait for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import msgspec

from cache.answer import Answer, Refused, Tokens, assemble
from gateway.caching.controls import answer_lines
from gateway.caching.playback import Asked, play, start_events
from gateway.http import Flow, Sink
from gateway.record import Record, Usage
from gateway.relay import JSON_HEADERS
from gateway.sse import KEEPALIVE, EventFilter, event_data
from gateway.wire import Call

if TYPE_CHECKING:
    from gateway.caching.flights import Budget

DONE: Final = b"data: [DONE]"
MISS: Final = answer_lines("miss")
GRANT_BYTES: Final = 4096
"""Of memory that a flight takes at a time."""


class Landed(NamedTuple):
    """How a flight ended.

    answer: as it may be kept, or why it is not; `large`: it took more memory than there is for it.
    record: of the call that was made.
    """

    answer: Answer | Refused | Literal["large"]
    record: Record

    def tell(self, record: Record) -> None:
        """Note in the record of a call that went along what came of it."""
        made = self.record
        record.status, record.finish_reason = 200, made.finish_reason
        record.usage = msgspec.structs.replace(made.usage)
        record.error_type, record.error_message = made.error_type, made.error_message
        record.first_token_s = max(record.started_s, made.first_token_s) if made.first_token_s else 0.0
        record.last_token_s = made.last_token_s
        record.events = made.events


class Seat:
    """One call of a flight. Implements `Flow` for its client.

    asked:   its lines say that the answer comes from another call; those of who makes the call say `miss`.
    outcome: how the flight ended for it; a `Fan`: that it is to make the call itself, by that one. None: it makes the
             call for itself alone.
    """

    def __init__(self, sink: Sink, asked: Asked) -> None:
        self.sink = sink
        self.asked = asked
        self.outcome: asyncio.Future[Landed | Fan] | None = None
        self.fan: Fan | None = None
        self.paused = False
        self.at = 0
        """The piece that it gets next."""
        self.served = False
        """Whether its client has had the end: what it does then is no hang-up."""
        self._filter: EventFilter | None = None
        self._lacks_usage = False
        self._held = b""
        """The end of the stream, until there is usage to tell before it."""

    def __repr__(self) -> str:
        return f"<Seat at={self.at}{' paused' if self.paused else ''}>"

    def board(self, fan: Fan) -> None:
        """Get everything from the beginning."""
        self.fan, self.at, self._filter, self._held = fan, 0, None, b""
        self.paused = False  # or told so by its sink
        self._lacks_usage = False
        if self.asked.stream and fan.pilot is not self:
            self._filter = EventFilter(strip_usage=True) if not self.asked.wants_usage and fan.tells_usage else None
            self._lacks_usage = self.asked.wants_usage and not fan.tells_usage
        self.sink.on_lost = self.lost
        self.sink.bind(self)

    def leave(self) -> None:
        self.fan = None
        self.sink.on_lost = None
        self.sink.bind(None)

    def wait(self) -> asyncio.Future[Landed | Fan]:
        """From now on there is an outcome."""
        if self.outcome is None:
            self.outcome = asyncio.get_running_loop().create_future()
        return self.outcome

    def lost(self) -> bool:
        """Its client is gone. Whether its call goes on all the same."""
        fan = self.fan
        if self.served or fan is None:
            return self.served
        return fan.pilot is self and fan.deserted_by_pilot()

    # Flow

    def pause(self) -> None:
        self.paused = True
        if self.fan is not None:
            self.fan.balance()

    def resume(self) -> None:
        self.paused = False
        self.advance()
        if self.fan is not None:
            self.fan.balance()

    # What comes

    def begin(self) -> None:
        """Send the head."""
        fan = self.fan
        if self.sink.started or fan is None:
            return
        if fan.pilot is self and fan.head is not None:
            status, lines, length = fan.head
            self.sink.start(status, lines + MISS, length)
        elif self.asked.stream:
            start_events(self.sink, self.asked)
        elif fan.head is not None:
            self.sink.start(200, JSON_HEADERS + self.asked.lines, fan.head[2])

    def comment(self) -> None:
        if not self.paused and self.asked.stream:
            self.begin()
            self.sink.write(KEEPALIVE)

    def advance(self) -> None:
        """Send what there is, as far as the client takes it."""
        fan = self.fan
        if fan is None or fan.alone or self.asked.stream != fan.streams:
            return
        while self.at < fan.count and not self.paused:
            chunk = fan.chunk(self.at)
            self.at += 1
            self.begin()
            self._write(payload_of(chunk), chunk)
        if fan.ended and self.at == fan.count:
            self._finish(fan)

    def _write(self, piece: bytes, framed: bytes | None) -> None:
        if self._filter is not None:
            feed = self._filter.feed(piece)
            if feed.error is None and feed.out != piece:
                piece, framed = feed.out, None
        elif self._lacks_usage:
            at = 0 if piece.startswith(DONE) else piece.find(b"\n" + DONE) + 1
            if at or piece.startswith(DONE):
                piece, self._held, framed = piece[:at], piece[at:], None
        if piece:
            self.sink.write(piece, framed)

    def _finish(self, fan: Fan) -> None:
        if self._held and fan.landed is not None:
            self.sink.write(fan.usage_event(fan.landed) + self._held)
            self._held = b""
        if not self._held:
            self.end()
        if fan.landed is not None:
            self._tell(fan.landed)

    def end(self) -> None:
        self.sink.end()
        self.served = not self.sink.gone

    def _tell(self, outcome: Landed | Fan) -> None:
        if self.outcome is not None and not self.outcome.done():
            self.outcome.set_result(outcome)

    def take_over(self, fan: Fan) -> None:
        self._tell(fan)

    def fail(self, error: Exception) -> None:
        if self.outcome is not None and not self.outcome.done():
            self.outcome.set_exception(error)

    def play(self, landed: Landed) -> bool:
        """Give it the whole answer in its own form; whether there is one."""
        if self.outcome is not None and self.outcome.done():
            return True
        if not isinstance(landed.answer, Answer):
            return False
        play(landed.answer, self.sink, self.asked)
        self.served = not self.sink.gone
        self._tell(landed)
        return True


class Fan:
    """Takes the answer to one call to all that wait for it. Implements `Sink`.

    pilot:    the seat of who makes the call.
    alone:    nobody has come to it: everything goes straight to the pilot's client, and is only noted.
    others:   those that want the answer in another form; they get it when it is whole.
    failed:   calls in a row before this one that came to nothing.
    hung_up:  the pilot's client is gone, and the call goes on for others.
    """

    def __init__(self, pilot: Seat, budget: Budget, failed: int = 0) -> None:
        self.pilot = pilot
        self.failed = failed
        self.streams = pilot.asked.stream
        self.tells_usage = pilot.asked.wants_usage
        self.alone = True
        self.live: list[Seat] = [pilot]
        self.others: list[Seat] = []
        self.head: tuple[int, bytes, int | None] | None = None
        self.ended = False
        self.landed: Landed | None = None
        self.overflown = False
        self.closed = False
        self.hung_up = False
        self.on_deserted: Callable[[], object] | None = None
        self.splice: Callable[[bytes], None] | None = None
        self.on_lost: Callable[[], bool] | None = None
        self.extra_lines = b""
        self._budget = budget
        self._held_bytes = 0
        self._granted_bytes = 0
        self._chunks: list[bytes] = []
        """As they go over HTTP/1.1."""
        self._dropped = 0
        """Those that everybody has had, and that are kept no more."""
        self._opening = b""
        """The first piece."""
        self._flow: Flow | None = None
        self._waits = False
        pilot.board(self)

    def __repr__(self) -> str:
        state = "landed" if self.landed else "ended" if self.ended else "waiting" if self._waits else "flying"
        return f"<Fan {state} live={len(self.live)} others={len(self.others)} held_bytes={self._held_bytes}>"

    # Seats

    @property
    def joinable(self) -> bool:
        """Whether somebody who comes now can have all of it."""
        return not self.overflown and not self.closed and self.landed is None

    @property
    def followers(self) -> list[Seat]:
        return [seat for seat in (*self.live, *self.others) if seat is not self.pilot]

    def board(self, seat: Seat) -> None:
        """Take one more along."""
        if self.alone:
            self.alone = False
            self.pilot.at = self.count
            self.pilot.wait()
            if self.splice is not None:
                self.splice = self._fan_out
            if self.ended:
                self.pilot.advance()
        seat.board(self)
        if seat.asked.stream != self.streams:
            self.others.append(seat)
            return
        self.live.append(seat)
        if self.head is not None:
            seat.begin()
        seat.advance()

    def leave(self, seat: Seat) -> None:
        """Its client is gone, or it has all."""
        seat.leave()
        for seats in (self.live, self.others):
            if seat in seats:
                seats.remove(seat)
        self._trim()
        self.balance()
        if not self.live and not self.others:
            self._close()

    def deserted_by_pilot(self) -> bool:
        """Its client is gone. Whether the call goes on, for others; else nobody can join it any more."""
        if self.landed is not None:
            return False
        if not self.followers:
            self.closed = True
            return False
        self.hung_up = True
        self.leave(self.pilot)
        return True

    # Sink

    @property
    def started(self) -> bool:
        return self.head is not None or self.pilot.sink.started

    @property
    def status(self) -> int:
        return self.pilot.sink.status

    @property
    def whole(self) -> bool:
        return self.ended

    @property
    def gone(self) -> str:
        return self.pilot.sink.gone

    @property
    def bytes_out(self) -> int:
        return self.pilot.sink.bytes_out

    def start(self, status: int, header_lines: bytes, length_bytes: int | None = None) -> None:
        self.head = (status, header_lines, length_bytes)
        for seat in (*self.live,):
            seat.begin()

    def write(self, payload: bytes, framed: bytes | None = None) -> None:
        if payload == KEEPALIVE:
            for seat in (*self.live,):
                seat.comment()
            return
        chunk = framed if framed is not None else b"%x\r\n%b\r\n" % (len(payload), payload)
        self._opening = self._opening or payload
        if self.alone:
            self._note(chunk)
            sink = self.pilot.sink
            if not sink.started:
                self.pilot.begin()
            sink.write(payload, framed)
            if self.splice is None and sink.splice is not None:
                self.splice = self._splice
        else:
            self._fan_out(chunk)

    def _splice(self, chunk: bytes) -> None:
        self._note(chunk)
        self.pilot.sink.splice(chunk)  # type: ignore[misc]

    def _note(self, chunk: bytes) -> None:
        """Keep it for who comes later, and for the cache."""
        self._held_bytes += len(chunk)
        if self._held_bytes > self._granted_bytes:
            self._grow()
        self._chunks.append(chunk)
        if self.overflown and self.alone:
            self._drop(len(self._chunks))

    def _fan_out(self, chunk: bytes) -> None:
        if self.closed:
            return
        self._note(chunk)
        for seat in (*self.live,):
            seat.advance()
        self._trim()

    def _grow(self) -> None:
        if self.overflown:
            return
        need = self._held_bytes - self._granted_bytes
        for more in (max(need, GRANT_BYTES), need):
            if self._budget.take(more, self._granted_bytes):
                self._granted_bytes += more
                return
        self.overflown = True

    def end(self) -> None:
        self.ended = True
        if self.alone:
            self.pilot.end()
            return
        for seat in (*self.live,):
            seat.advance()

    def bind(self, flow: Flow | None) -> None:
        self._flow, self._waits = flow, False
        self.balance()

    # What came

    @property
    def count(self) -> int:
        """Chunks so far."""
        return self._dropped + len(self._chunks)

    def chunk(self, at: int) -> bytes:
        return self._chunks[at - self._dropped]

    def land(self, call: Call, record: Record) -> Landed:
        """The call is over: read what it brought. record: of who made it."""
        answer: Answer | Refused | Literal["large"] = "large"
        if not self.overflown:
            body, usage = b"".join([payload_of(chunk) for chunk in self._chunks]), record.usage
            counted = Tokens(usage.prompt_tokens, usage.completion_tokens)
            answer = assemble(call.operation, body, self.streams, counted=counted, gap_s=_gap_s(record))
        return Landed(answer, record)

    def settle(self, landed: Landed) -> list[Seat]:
        """Tell everybody. Returns those for whom there is nothing: they have had nothing but comments."""
        self.landed, self.ended = landed, True
        for seat in (*self.live,):
            seat.advance()
        return [seat for seat in self.others if not seat.play(landed)]

    def usage_event(self, landed: Landed) -> bytes:
        """For those who asked for usage, behind somebody who did not."""
        told = landed.answer.usage if isinstance(landed.answer, Answer) else _usage(landed.record.usage)
        names = _names(self._opening)
        return b"data: %b\n\n" % msgspec.json.encode({**names, "choices": [], "usage": msgspec.Raw(told)})

    def _close(self) -> None:
        """Nobody is left."""
        self.closed = True
        self._budget.give_back(self._granted_bytes)
        self._held_bytes = self._granted_bytes = 0
        if self.on_deserted is not None:
            self.on_deserted()

    def balance(self) -> None:
        """The engine waits if nobody can take more; if there is no memory for what some have not had yet, for all."""
        paused = [seat.paused for seat in self.live]
        waits = bool(paused) and (all(paused) or (self.overflown and any(paused)))
        if waits != self._waits and self._flow is not None:
            self._waits = waits
            if waits:
                self._flow.pause()
            else:
                self._flow.resume()

    def _trim(self) -> None:
        if self.overflown and not self.alone:
            self._drop(min([seat.at for seat in self.live], default=self.count) - self._dropped)

    def _drop(self, chunks: int) -> None:
        del self._chunks[:chunks]
        self._dropped += chunks


def payload_of(chunk: bytes) -> bytes:
    """What is in a chunk of HTTP/1.1 that is whole and without extensions."""
    return chunk[chunk.index(b"\r\n") + 2 : -2]


def _gap_s(record: Record) -> float:
    if record.events < 2 or not record.first_token_s:
        return 0.0
    return max(0.0, record.last_token_s - record.first_token_s) / (record.events - 1)


def _usage(usage: Usage) -> bytes:
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    details = {"cached_tokens": prompt}
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return msgspec.json.encode({**counts, "prompt_tokens_details": details})


def _names(opening: bytes) -> dict[str, msgspec.Raw]:
    """What all events of a stream have in common."""
    for event in opening.split(b"\n\n"):
        if data := event_data(event + b"\n\n"):
            with contextlib.suppress(msgspec.DecodeError):
                fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
                return {name: fields[name] for name in ("id", "object", "created", "model") if name in fields}
    return {}
