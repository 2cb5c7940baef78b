"""Several ledgers over one store: no order of calls, cancels, crashes and pauses admits too much or too little."""

from __future__ import annotations

import asyncio
import itertools
import os
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from gateway.admission import Charge
from gateway.config import Redis
from gateway.errors import RateLimited
from gateway.identity import Caller
from gateway.limits.cost import Cost
from gateway.limits.ledger import LimitLedger
from gateway.limits.local_store import LocalCounts, LocalStore
from gateway.limits.redis_store import RedisStore
from gateway.limits.seam import Store
from gateway.record import Record
from tests.gateway.limits.ledgers import NANO_A_TOKEN, config_with, is_at_rest, ledger_over, record_of
from tests.harness.virtual import LoopClock, VirtualLoop
from tests.valkey import valkey_running

VALKEY_GAMES = int(os.environ.get("HEADRACE_GAMES", "20"))
"""Each takes half a second, and two under coverage."""
LEDGERS = 3
REQUESTS, TOKENS, PARALLEL, DAILY = 6, 1000, 3, 40
NANO_A_DAY = 40_000_000
CONFIG = config_with(
    tenants={
        "acme": {
            "limits": {
                "requests_per_minute": REQUESTS,
                "tokens_per_minute": TOKENS,
                "parallel": PARALLEL,
                "usd_per_day": NANO_A_DAY / 1e9,
            }
        }
    },
    deployment={"requests_per_day": DAILY},
)
CALLERS = {"alice": Caller("alice", "acme"), "bob": Caller("bob", "acme"), "carol": Caller("carol", "elsewhere")}
MINUTE_S, DAY_S = 60.0, 86_400.0
YOUNG = 258 / 256
"""Of a window: what is older stands in nobody's way."""
GIVEN_BACK_S = 0.3
"""What nobody needs is back with the store by then."""
PAUSES_S = st.one_of(st.floats(0.0, 0.5), st.floats(0.0, 70.0), st.sampled_from([0.02, 0.24, 60.0, 61.0, 3600.0]))


@dataclass
class Admitted:
    """A call that was admitted. tokens: that count against its limit: reserved, then used, never more than reserved."""

    tenant: str
    ledger: LimitLedger
    charge: Charge
    record: Record
    at_s: float
    tokens: int
    open: bool = True


@dataclass
class Model:
    calls: list[Admitted] = field(default_factory=list)

    def within(self, span_s: float, now_s: float, tenant: str = "") -> list[Admitted]:
        return [c for c in self.calls if c.at_s > now_s - span_s and tenant in ("", c.tenant)]

    def has_room(self, tenant: str, tokens: int, now_s: float) -> bool:
        """Whether a call must be admitted, whatever slots the windows are counted in."""
        if len(self.within(DAY_S * YOUNG, now_s)) + 1 > DAILY:
            return False
        if tenant != "acme":
            return True
        minute = self.within(MINUTE_S * YOUNG, now_s, tenant)
        spent = sum(c.tokens for c in self.calls if c.tenant == tenant)  # of all days: fewer than there may be
        return (
            len(minute) + 1 <= REQUESTS
            and sum(c.tokens for c in minute) + tokens <= TOKENS
            and sum(c.open for c in self.calls if c.tenant == tenant) + 1 <= PARALLEL
            and (spent + tokens) * NANO_A_TOKEN <= NANO_A_DAY
        )


class Ledgers(RuleBasedStateMachine):
    """Time is that of the loop, and passes only where something is waited for."""

    calls: Bundle[Admitted] = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.model = Model()
        self.crashed_s = -1e9

    @initialize()
    def begin(self) -> None:
        self.run(self.set_up())

    async def set_up(self) -> None:
        self.clock = LoopClock()
        self.counts = LocalCounts(self.clock, self.clock.monotonic)
        self.ledgers = [self.new_ledger() for _ in range(LEDGERS)]

    def new_ledger(self) -> LimitLedger:
        return ledger_over(self.new_store(), self.clock, CONFIG, workers=LEDGERS)

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    def teardown(self) -> None:
        try:
            if hasattr(self, "ledgers"):
                self.run(self.ends_at_rest())
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.run(asyncio.sleep(0))
            self.loop.close()

    async def ends_at_rest(self) -> None:
        """Settled and left alone for a day, nothing is held, and all of each limit may be had again."""
        for call in self.model.calls:
            if call.open:
                call.charge.settle()
        await asyncio.sleep(3.5)
        assert all(is_at_rest(ledger) for ledger in self.ledgers), [ledger.shared for ledger in self.ledgers]
        await asyncio.sleep(2 * DAY_S)
        for _ in range(REQUESTS):
            with await self.reserve(self.ledgers[0], CALLERS["alice"], TOKENS // REQUESTS, record_of()):
                pass
        await asyncio.sleep(3.5)
        assert not any(ledger.shared._task or ledger.shared.stocks for ledger in self.ledgers)
        for ledger in self.ledgers:
            await ledger.aclose()

    async def reserve(self, ledger: LimitLedger, caller: Caller, tokens: int, record: Record) -> Charge:
        cost = Cost(tokens // 2, tokens - tokens // 2, tokens * NANO_A_TOKEN)
        return await ledger.reserve(ledger.plan(caller, "m"), cost, record)

    async def call(self, ledger: LimitLedger, caller: Caller, tokens: int) -> Admitted | None:
        record = record_of()
        try:
            charge = await self.reserve(ledger, caller, tokens, record)
        except RateLimited:
            return None
        admitted = Admitted(caller.tenant, ledger, charge, record, self.clock.monotonic(), tokens)
        self.model.calls.append(admitted)
        return admitted

    def new_store(self) -> Store:
        raise NotImplementedError

    # What happens

    @rule(
        ledger=st.integers(0, LEDGERS - 1),
        caller=st.sampled_from(sorted(CALLERS)),
        tokens=st.sampled_from([1, 2, 100, 333, 999, 1000]),
        how_many=st.sampled_from([1, 1, 1, 2, 8]),
    )
    def ask(self, ledger: int, caller: str, tokens: int, how_many: int) -> None:
        """At once. A refusal is believed only if it stands once all that nobody needs is back with the store."""
        at = self.ledgers[ledger]

        async def burst() -> None:
            found = await asyncio.gather(*(self.call(at, CALLERS[caller], tokens) for _ in range(how_many)))
            if None in found and self.clock.monotonic() > self.crashed_s + DAY_S * YOUNG:
                await asyncio.sleep(GIVEN_BACK_S)
                now_s = self.clock.monotonic()
                if await self.call(at, CALLERS[caller], tokens) is None:
                    assert not self.model.has_room(CALLERS[caller].tenant, tokens, now_s), (at, caller)

        self.run(burst())

    @rule(caller=st.sampled_from(sorted(CALLERS)), tokens=st.sampled_from([1, 333, 1000]))
    def ask_everywhere(self, caller: str, tokens: int) -> None:
        async def burst() -> None:
            await asyncio.gather(*(self.call(at, CALLERS[caller], tokens) for at in self.ledgers for _ in range(3)))

        self.run(burst())

    @rule(ledger=st.integers(0, LEDGERS - 1), caller=st.sampled_from(sorted(CALLERS)), steps=st.integers(0, 12))
    def give_up(self, ledger: int, caller: str, steps: int) -> None:
        """A client that hangs up while its call waits for the store, or just after."""

        async def cancelled() -> None:
            task = self.loop.create_task(self.call(self.ledgers[ledger], CALLERS[caller], 100))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self.run(cancelled())

    @rule(which=st.integers(0, 30), share=st.sampled_from([0.0, 0.5, 1.0, 1.0, 1.5]), hit=st.booleans())
    def settle(self, which: int, share: float, hit: bool) -> None:
        """hit: the answer came from the cache."""
        waiting = [call for call in self.model.calls if call.open]
        if not waiting:
            return
        call = waiting[which % len(waiting)]
        call.record.usage.completion_tokens = used = int(call.tokens * share)
        call.record.cache = "hit" if hit else "miss"
        call.open = False
        call.tokens = min(call.tokens, 0 if hit else used)
        self.run(self.end(call))

    @rule(which=st.integers(0, 30))
    def settle_again(self, which: int) -> None:
        """A replay changes nothing."""
        ended = [call for call in self.model.calls if not call.open]
        if ended:
            self.run(self.end(ended[which % len(ended)]))

    async def end(self, call: Admitted) -> None:
        with call.charge:
            call.charge.settle()

    @rule(pause_s=PAUSES_S)
    def wait(self, pause_s: float) -> None:
        self.run(asyncio.sleep(pause_s))

    @rule(ledger=st.integers(0, LEDGERS - 1))
    def crash(self, ledger: int) -> None:
        """Nobody settles what it had admitted: it counts as it was reserved, and is no longer in flight."""
        old, self.ledgers[ledger] = self.ledgers[ledger], self.new_ledger()
        self.run(self.vanish(old))
        for call in self.model.calls:
            if call.ledger is old:
                call.open = False
        self.crashed_s = self.clock.monotonic()
        self.run(asyncio.sleep(3.1))

    async def vanish(self, ledger: LimitLedger) -> None:
        """Its process is gone: nothing more is said to the store."""
        exchange = ledger.shared
        exchange._closed = True
        if exchange._task is not None:
            exchange._task.cancel()
            await asyncio.gather(exchange._task, return_exceptions=True)

    @rule(ledger=st.integers(0, LEDGERS - 1))
    def leave(self, ledger: int) -> None:
        """As at a restart that waits for what is in flight."""
        old, self.ledgers[ledger] = self.ledgers[ledger], self.new_ledger()
        for call in self.model.calls:
            if call.ledger is old and call.open:
                call.charge.settle()
                call.open, call.tokens = False, 0
        self.run(old.aclose())

    # What holds

    @invariant()
    def never_over(self) -> None:
        if not hasattr(self, "clock"):
            return
        now_s, model = self.loop.time(), self.model
        minute = model.within(MINUTE_S, now_s, "acme")
        assert len(minute) <= REQUESTS
        assert sum(call.tokens for call in minute) <= TOKENS
        assert sum(call.open for call in model.calls if call.tenant == "acme") <= PARALLEL
        assert len(model.within(DAY_S, now_s)) <= DAILY
        days: dict[int, int] = {}
        for call in model.calls:
            if call.tenant == "acme":
                days[int(call.at_s // DAY_S)] = days.get(int(call.at_s // DAY_S), 0) + call.tokens
        assert all(tokens * NANO_A_TOKEN <= NANO_A_DAY for tokens in days.values())


def play(machine: type[Ledgers], examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.timeout(180)
def test_a04_no_order_of_calls_admits_too_much_or_too_little() -> None:
    class Locally(Ledgers):
        def new_store(self) -> Store:
            return LocalStore(self.counts)

    play(Locally, 150)


class Patient:
    """A store in another process. Its answers take no virtual time."""

    def __init__(self, store: Store, loop: VirtualLoop) -> None:
        self._store = store
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def patiently(*args: Any) -> Any:
            self._loop._virtual.threads += 1
            try:
                return await method(*args)
            finally:
                self._loop._virtual.threads -= 1

        return patiently


@pytest.mark.timeout(180)
def test_a04_nor_does_any_over_valkey() -> None:
    games = itertools.count()
    with asyncio.Runner() as runner:
        server = valkey_running()
        valkey = runner.run(server.__aenter__())
        try:

            class OnValkey(Ledgers):
                async def set_up(self) -> None:
                    self.options = Redis(url=valkey.url, prefix=f"game-{next(games)}", timeout_s=5.0)
                    await super().set_up()

                async def vanish(self, ledger: LimitLedger) -> None:
                    await super().vanish(ledger)
                    await ledger.shared._store._store._link.aclose()  # type: ignore[attr-defined]

                def new_store(self) -> Store:
                    store = RedisStore(self.options, self.clock, lambda: int(self.loop.time() * 1e6))
                    return Patient(store, self.loop)

            play(OnValkey, VALKEY_GAMES)
        finally:
            runner.run(server.__aexit__(None, None, None))
