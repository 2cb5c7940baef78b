"""One request to the model from its arrival to the last byte, with every fault on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from engines.fake.connection import Connection, chunk, head
from engines.fake.options import Death, Hang, Malformed, Split
from engines.fake.output import Output
from engines.fake.plan import Plan
from engines.fake.scheduler import JobState
from engines.fake.shapes import DONE, Reply
from engines.fake.state import State

_BURST = 64
_SSE = "text/event-stream; charset=utf-8"
_ERROR = {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "param": None, "code": 500}


class Generation:
    """A job of the scheduler. Its callbacks run one at a time; `over` ends it exactly once."""

    def __init__(
        self, state: State, connection: Connection, plan: Plan, reply: Reply, prompt: list[bytes], *,
        stream: bool, kv_tokens: int, salt: str = "",
    ) -> None:  # fmt: skip
        self.state = JobState.NEW
        self.kv_tokens = kv_tokens
        self._engine = state
        self._connection = connection
        self._plan = plan
        self._reply = reply
        self._prompt = prompt
        self._stream = stream
        self._salt = salt
        self._out = Output(connection, plan.split, plan.cuts, state.planner.random)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._arrived_s = self._last_s = self._loop.time()
        self._step = 0
        self._hung = False
        self._late_head = b""
        self._opening: list[bytes] = []

    def submit(self) -> bool:
        """Queue it. False: the queue is full, and nothing has happened."""
        self._connection.on_gone = self._gone
        if self._engine.scheduler.submit(self):
            return True
        self._connection.on_gone = None
        return False

    def begin(self) -> None:
        engine, plan = self._engine, self._plan
        cached = engine.prefixes.use(self._prompt, self._salt)
        metrics = engine.metrics
        metrics.queue.observe(self._loop.time() - self._arrived_s)
        metrics.prefix_queries += len(self._prompt)
        metrics.prefix_hits += cached
        metrics.prompt_tokens += len(self._prompt)
        if engine.options.prompt_tokens_details or plan.cached_tokens is not None:
            self._reply.usage.cached_tokens = cached if plan.cached_tokens is None else plan.cached_tokens
        rate = engine.options.prefill_tps
        if rate:
            prefill_s = engine.planner.jittered((len(self._prompt) - cached) / rate, engine.options.jitter)
            plan.ttft_s += engine.prefilled_after(prefill_s)
        self._maybe_hang(Hang.BEFORE, self._answer)

    def _answer(self) -> None:
        plan = self._plan
        if plan.die_after == 0:
            self._die()
        elif plan.raw is not None:
            self._fault(plan.raw)
        elif plan.malformed is Malformed.GARBAGE_STATUS:
            self._fault(b"HTTQ/9.9 banana\r\n\r\n")
        elif plan.status != 200 or plan.body is not None:
            self._after(plan.error_delay_s, self._plain)
        elif self._stream:
            self._begin_stream()
        elif plan.hang is Hang.AFTER:
            self._out.write(head(200, plan.headers, length=len(self._reply.body())))
            self._maybe_hang(Hang.AFTER, self._rest_of_body)
        else:
            gaps_s = plan.itl_s * max(0, self._reply.steps - 1)
            self._after(plan.ttft_s + gaps_s, self._whole)

    def _plain(self) -> None:
        """The status and body of an override, or an error of the engine's own."""
        plan = self._plan
        body = plan.body
        if body is None:
            body = msgspec.json.encode({"error": _ERROR | {"code": plan.status}}) if plan.status >= 400 else b""
        bodiless = plan.status in (204, 304)
        self._out.write(head(plan.status, plan.headers, length=len(body)) + (b"" if bodiless else body))
        self._over("completed" if plan.status < 400 else "faulted")

    def _whole(self) -> None:
        plan, body = self._plan, self._reply.body()
        self._first_token()
        self._count(self._reply.steps)
        if plan.malformed is Malformed.ERROR_200:
            body = msgspec.json.encode({"error": _ERROR})
        elif plan.malformed is Malformed.NULL_CHOICES:
            body = msgspec.json.encode(msgspec.json.decode(body, type=dict[str, object]) | {"choices": None})
        elif plan.malformed is Malformed.BAD_JSON:
            body = body[:-2] + b"]]"
        half = body[: len(body) // 2]
        if plan.malformed is Malformed.NO_TERMINATOR:
            self._fault(head(200, plan.headers, length=len(body) + 10) + body)
        elif plan.malformed is Malformed.WRONG_LENGTH:
            self._last_write(head(200, plan.headers, length=len(body) - 10) + body)
        elif plan.malformed is Malformed.BAD_CHUNK:
            self._fault(head(200, plan.headers) + chunk(half) + b"zz\r\n" + body)
        elif plan.die_after is not None:
            self._out.write(head(200, plan.headers, length=len(body)) + half)
            self._die()
        elif plan.hang is Hang.MID:
            self._out.write(head(200, plan.headers, length=len(body)) + half)
            self._maybe_hang(Hang.MID, lambda: self._last_write(body[len(half) :]))
        else:
            self._last_write(head(200, plan.headers, length=len(body)) + body)

    def _rest_of_body(self) -> None:
        self._first_token()
        self._count(self._reply.steps)
        self._last_write(self._reply.body())

    def _last_write(self, data: bytes) -> None:
        self._out.write(data)
        self._over("completed")

    def _begin_stream(self) -> None:
        plan = self._plan
        length = 10**9 if plan.malformed is Malformed.WRONG_LENGTH else None
        start = head(200, plan.headers, content_type=_SSE, length=length)
        if plan.ttft_s or plan.hang is Hang.AFTER:
            self._out.write(start)
        else:
            self._late_head = start
        self._maybe_hang(Hang.AFTER, lambda: self._after(plan.ttft_s, self._open_stream))

    def _open_stream(self) -> None:
        plan = self._plan
        self._first_token()
        if plan.sse is not None:
            self._events([plan.sse])
            self._end_stream()
        elif plan.malformed is Malformed.ERROR_200:
            self._events([b"data: " + msgspec.json.encode({"error": _ERROR}) + b"\n\n", DONE])
            self._end_stream()
        else:
            self._opening = self._reply.opening()
            self._connection.on_writable = self._writable
            self._tick()

    def _tick(self) -> None:
        """The next token, or without a gap between tokens the next burst of them."""
        plan, steps = self._plan, self._reply.steps
        self._timer = None
        last = min(steps, self._step + (1 if plan.itl_s else _BURST))
        events, self._opening = self._opening, []
        first = self._step
        stop = self._stop()
        for number in range(first, last if stop is None else min(last, stop)):
            new = self._reply.step(number)
            events += new if plan.malformed is None else self._spoiled(new)
            self._step += 1
        self._gap(self._step - first)
        self._events(events)
        if stop is not None and self._step >= stop:
            self._stop_here()
        elif self._step >= steps:
            self._close_stream()
        elif not self._out.blocked:
            self._next_tick()

    def _next_tick(self) -> None:
        itl_s, jitter = self._plan.itl_s, self._engine.options.jitter
        delay_s = self._engine.planner.jittered(itl_s, jitter) if jitter else itl_s
        self._timer = self._loop.call_later(delay_s, self._tick)

    def _writable(self) -> None:
        if self._timer is None and not self._hung and not self._out.blocked:
            self._next_tick()

    def _stop(self) -> int | None:
        """The token before which a fault comes."""
        plan = self._plan
        if plan.die_after is None and plan.hang is None and plan.malformed is None:
            return None
        dies = [] if plan.die_after is None else [plan.die_after]
        hangs = [plan.hang_after] if plan.hang is Hang.MID else []
        broken = [1] if plan.malformed is Malformed.BAD_CHUNK else []
        ends = [*dies, *hangs, *broken]
        return min(*ends, self._reply.steps) if ends else None

    def _stop_here(self) -> None:
        plan = self._plan
        if plan.malformed is Malformed.BAD_CHUNK:
            self._fault(b"zz\r\n" + DONE + b"\r\n0\r\n\r\n")
        elif plan.hang is Hang.MID and (plan.die_after is None or plan.hang_after <= plan.die_after):
            self._maybe_hang(Hang.MID, self._tick)
        else:
            self._die()

    def _spoiled(self, events: list[bytes]) -> list[bytes]:
        plan = self._plan
        if plan.malformed is Malformed.NULL_CHOICES:
            return [_without_choices(event) for event in events]
        if plan.malformed is Malformed.BAD_JSON and self._step == min(1, self._reply.steps - 1):
            return [event[:-4] + b"\n\n" for event in events]
        return events

    def _close_stream(self) -> None:
        events = self._reply.closing()
        if self._plan.malformed is Malformed.NO_DONE:
            events.remove(DONE)
        self._events(events)
        self._end_stream()

    def _end_stream(self) -> None:
        if self._plan.malformed in (Malformed.NO_TERMINATOR, Malformed.WRONG_LENGTH):
            self._fault(b"")
            return
        self._last_write(b"0\r\n\r\n")

    def _events(self, events: list[bytes]) -> None:
        self._engine.counters.events += len(events)
        if self._late_head:
            start, self._late_head = self._late_head, b""
            if self._plan.split is Split.NONE and self._plan.cuts is None:
                framed = start + b"".join(map(self._frame, events))
                self._out.write(framed)
                return
            self._out.write(start)
        self._out.payload(events, self._frame)

    def _frame(self, payload: bytes) -> bytes:
        return payload if self._plan.malformed is Malformed.WRONG_LENGTH else chunk(payload)

    def _first_token(self) -> None:
        self._last_s = self._loop.time()
        if self._reply.steps:
            self._engine.metrics.ttft.observe(self._last_s - self._arrived_s)

    def _gap(self, tokens: int) -> None:
        if not tokens:
            return
        now_s = self._loop.time()
        gaps = tokens - (self._step == tokens)
        if gaps:
            self._engine.metrics.itl.observe((now_s - self._last_s) / gaps, gaps)
        self._last_s = now_s
        self._count(tokens)

    def _count(self, tokens: int) -> None:
        self._engine.metrics.generation_tokens += tokens

    def _after(self, delay_s: float, action: Callable[[], None]) -> None:
        """`action` after the delay, at once if there is none."""
        if delay_s:
            self._timer = self._loop.call_later(delay_s, action)
        else:
            action()

    def _maybe_hang(self, where: Hang, go_on: Callable[[], None]) -> None:
        if self._plan.hang is not where:
            go_on()
            return
        self._hung = True
        self._engine.hung[self] = lambda: self._resume(go_on)
        self._engine.watch.changed()

    def _resume(self, go_on: Callable[[], None]) -> None:
        self._hung = False
        self._plan.hang = None
        go_on()

    def _die(self) -> None:
        self._fault(b"", how=self._plan.die_how)

    def _fault(self, data: bytes, how: Death = Death.FIN) -> None:
        """Write `data`, cut the connection."""
        if data:
            self._out.write(data)
        cut = self._connection.reset if how is Death.RST else self._connection.close
        self._over("faulted", cut)

    def _gone(self) -> None:
        self._out.drop()
        self._leave("aborted")

    def _over(self, outcome: str, end: Callable[[], None] | None = None) -> None:
        """The last byte is written; what is still to be cut into pieces goes out before the connection ends."""
        self._connection.on_gone = self._out.drop
        if outcome == "completed" and self._reply.steps:
            metrics = self._engine.metrics
            metrics.e2e.observe(self._loop.time() - self._arrived_s)
            reason = self._reply.finish_reason
            metrics.successes[reason] = metrics.successes.get(reason, 0) + 1
        self._out.then(end or self._connection.finish)
        self._leave(outcome)

    def _leave(self, outcome: str) -> None:
        if self.state is JobState.DONE:
            return
        if self._timer is not None:
            self._timer.cancel()
        engine = self._engine
        self._connection.on_writable = None
        engine.hung.pop(self, None)
        engine.open -= 1
        setattr(engine.counters, outcome, getattr(engine.counters, outcome) + 1)
        engine.scheduler.leave(self)
        engine.watch.changed()


def _without_choices(event: bytes) -> bytes:
    fields = msgspec.json.decode(event.removeprefix(b"data: "), type=dict[str, object])
    return b"data: " + msgspec.json.encode(fields | {"choices": None}) + b"\n\n"
