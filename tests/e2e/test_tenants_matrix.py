"""Tenants, keys, limits, usage and configurations on 1, 2 and 4 gateways over one Valkey and one PostgreSQL.

Each test prints its figures, see `figures`. Where time has a limit, calls are compared with those that need nothing of
what is disturbed, or the stalls of the machine are taken out.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import random
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

import httpx
import pytest
from sqlalchemy import Row

from gateway.database import open_database
from gateway.directory.audit import Actor
from gateway.directory.specs import KeySpec, OrganisationSpec
from gateway.directory.store import Directory
from loadtest import Ask, Load, Target, chat_asks
from tests.bench.rig import cpu_s, long_run, tree
from tests.e2e.fleet import PRICES, Fleet, figures, fleet_running
from tests.e2e.mix import FLAGS, TIMEOUTS, addresses, mixed_asks, under_way
from tests.e2e.test_a03 import TROUBLE
from tests.gateway.supervised import client
from tests.gateway.test_a17_running import headrace, version_of
from tests.harness import CHAT, COMPLETIONS, EMBEDDINGS, Json, Watch, chat, events_in, metrics_in, streamed

LIMIT_S = 280.0
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(LIMIT_S + 30)]
COUNTS = pytest.mark.parametrize("count", [1, 2, 4])
LIMITED = ("requests_limit", "tokens_limit", "concurrency", "insufficient_quota", "limits_unavailable")
"""Codes of calls that were not admitted."""


def by(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def eventually(check: Callable[[], Coroutine[Any, Any, object]], within_s: float = 10.0) -> None:
    """Wait until the check finds nothing."""
    until_s = time.monotonic() + within_s
    while found := await check():
        assert time.monotonic() < until_s, found
        await asyncio.sleep(0.1)


class Seen:
    """answers: when it was asked, and what came."""

    def __init__(self) -> None:
        self.answers: list[tuple[float, object]] = []

    def last_s(self, so: Callable[[object], bool]) -> float:
        """When was asked what had such an answer for the last time."""
        return max(asked_s for asked_s, answer in self.answers if so(answer))


@asynccontextmanager
async def repeated(ask: Callable[[], Coroutine[Any, Any, object]]) -> AsyncIterator[Seen]:
    """Ask again and again while the block runs."""
    seen = Seen()

    async def asking() -> None:
        while True:
            asked_s = time.monotonic()
            seen.answers.append((asked_s, await ask()))

    seen.answers.append((time.monotonic(), await ask()))
    task = asyncio.create_task(asking())
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled():
            task.result()


async def recorded(fleet: Fleet) -> list[Row[Any]]:
    """The usage records in the database, once there are as many as the gateways have made; none of them twice."""
    rows: list[Row[Any]] = []

    async def missing() -> object:
        made = sum(value for one in await fleet.metrics() for name, value in one.items() if RECORDS in name)
        rows[:] = await fleet.reader.rows(0)
        return None if len(rows) == made else f"{len(rows)} of {made:g} records"

    await eventually(missing, 30.0)
    assert len({row.id for row in rows}) == len(rows)
    return rows


RECORDS = "headrace_usage_records_total{"


def tokens_of(rows: Sequence[Row[Any]]) -> int:
    return sum(row.prompt_tokens + row.completion_tokens for row in rows)


# A03


@COUNTS
def test_a03_after_trouble_nothing_is_held_and_what_was_refused_has_spent_nothing(count: int) -> None:
    """Valkey counts the calls and the tokens of the usage records, and not one more."""
    long_run(_trouble(count), LIMIT_S)


async def _trouble(count: int) -> None:
    limits = {"requests_per_day": 10**6, "tokens_per_day": 10**9, "parallel": 40}
    more = {"deployments": {"m": {"timeouts": TIMEOUTS}}}
    async with fleet_running(count, *FLAGS, addresses=addresses, **more) as fleet:
        await fleet.organisation("acme", limits=limits)
        key, _ = await fleet.key("app", "acme")
        loads = [
            Load(Target(url, key=key, timeout_s=30.0), itertools.islice(mixed_asks(seed, TROUBLE), 2400 // count))
            for seed, url in enumerate(fleet.urls)
        ]
        found = await asyncio.gather(*(load.closed(48 // count) for load in loads))
        statuses = Counter(status for one in found for status in one.status)
        assert statuses[429] > 50, statuses
        await eventually(lambda: _held(fleet))
        rows = await recorded(fleet)
        admitted = [row for row in rows if row.error not in LIMITED]
        sent = sum(bool(row.replica) for row in admitted)  # of the others some hung up before they were admitted
        assert len(rows) > len(admitted) > 300 < sent
        assert not tokens_of([row for row in rows if row.error in LIMITED])
        requests, tokens = [await fleet.counted(f"tenant=acme|{unit}|day") for unit in ("requests", "tokens")]
        assert tokens == tokens_of(rows)
        assert sent <= requests <= len(admitted)
        figures(
            "A03",
            count,
            calls=2400,
            refused=len(rows) - len(admitted),
            held=0,
            admitted=requests,
            tokens=tokens,
            unsettled=0,
        )


async def _held(fleet: Fleet) -> object:
    """What the gateways or Valkey count as under way, reserved or leased."""
    found: list[object] = []
    for url in fleet.urls:
        async with client(url) as http:
            text = (await http.get("/metrics")).text
        found += [under_way(text)] if under_way(text) else []
        found += ["leased"] if metrics_in(text)["headrace_limits_leased"] else []
    return found + list((await fleet.in_flight()).items())


# A04 and A05

TOKENS = 20_000
PARALLEL = 500
WINDOW_S = 60.0
GIVEN_BACK_S = 1.0
UNDER_USE = 0.01


class Call(NamedTuple):
    """sent_s, ended_s: by the client's clock. tokens: what the answer says that was used."""

    sent_s: float
    ended_s: float
    status: int
    tokens: int


@COUNTS
def test_a04_a05_no_minute_has_more_tokens_than_the_limit_nor_much_less(count: int) -> None:
    """500 at once until they are refused, and again a minute later."""
    long_run(_two_minutes(count), LIMIT_S)


async def _two_minutes(count: int) -> None:
    limits = {"tokens_per_minute": TOKENS, "tokens_per_day": 10**9, "requests_per_day": 10**6}
    async with fleet_running(count, "--ttft", "0.02") as fleet, AsyncExitStack() as stack:
        await fleet.organisation("acme")
        key, _ = await fleet.key("app", "acme", limits=limits)
        many = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        options: Json = {"headers": by(key), "limits": many}
        clients = [await stack.enter_async_context(client(url, **options)) for url in fleet.urls]
        calls = [await _call(clients[0])]
        waves = []
        for _ in range(2):
            before = len(calls)
            await _flood(clients, calls)
            waves.append(sum(call.tokens for call in calls[before:]))
            await asyncio.sleep(max(call.ended_s for call in calls if call.tokens) + 1.02 * WINDOW_S - time.monotonic())
        waves[0] += calls[0].tokens
        rows = await recorded(fleet)
        used = [(row.at - row.duration_s, row.prompt_tokens + row.completion_tokens) for row in rows if not row.error]
        each = max(call.tokens for call in calls)
        most = most_within(WINDOW_S, used)
        assert Counter(row.status for row in rows) == Counter(call.status for call in calls)
        assert tokens_of(rows) == sum(call.tokens for call in calls), "each is settled once"
        assert await fleet.counted("tokens|day") == tokens_of(rows)
        assert await fleet.counted("requests|day") == len(used)
        assert most <= TOKENS
        assert min(waves) >= (1 - UNDER_USE) * TOKENS - each, waves
        shares = {"overshoot": max(0, most - TOKENS), "under_use_percent": 100 * (1 - min(waves) / TOKENS)}
        figures("A04/A05", count, limit=TOKENS, most_in_60_s=most, waves=str(waves), calls=len(rows), **shares)


async def _flood(clients: Sequence[httpx.AsyncClient], calls: list[Call]) -> None:
    """All at once, each until it is refused; then one by one until each gateway refuses, which has what came back."""
    turns = itertools.cycle(clients)

    async def caller(http: httpx.AsyncClient) -> None:
        while True:
            calls.append(await _call(http))
            if calls[-1].status != 200:
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(PARALLEL):
            group.create_task(caller(next(turns)))
    await asyncio.sleep(GIVEN_BACK_S)
    for http in clients:
        await caller(http)


async def _call(http: httpx.AsyncClient) -> Call:
    sent_s = time.monotonic()
    answer = await http.post(CHAT, json=chat(max_tokens=16))
    assert answer.status_code in (200, 429), answer.text
    if answer.status_code == 429:
        assert answer.json()["error"]["code"] == "tokens_limit"
    tokens = answer.json()["usage"]["total_tokens"] if answer.status_code == 200 else 0
    return Call(sent_s, time.monotonic(), answer.status_code, tokens)


def most_within(span_s: float, used: Sequence[tuple[float, int]]) -> int:
    """The most that was used in any such span, both in seconds and units."""
    ordered = sorted(used)
    times = [at_s for at_s, _ in ordered]
    sums = list(itertools.accumulate((units for _, units in ordered), initial=0))
    return max(sums[bisect_left(times, at_s + span_s)] - sums[index] for index, at_s in enumerate(times))


# A07


@COUNTS
def test_a07_what_is_summed_is_what_the_answers_said_by_the_price_of_each_token(count: int) -> None:
    long_run(_money(count), LIMIT_S)


async def _money(count: int) -> None:
    async with fleet_running(count, "--prompt-tokens-details", "--kv-tokens", "65536") as fleet:
        spent: dict[str, Decimal] = {}
        for name in ("acme", "other"):
            await fleet.organisation(name)
            key, _ = await fleet.key("app", name)
            found = [await _mixed_calls(url, key, 40) for url in fleet.urls]
            spent[name] = sum((_price(one) for some in found for one in some), Decimal(0))
        rows = await recorded(fleet)
        answer = await fleet.admin.get("/usage", params={"by": "tenant"})
        summed = {line["tenant"]: Decimal(line["usd"]) for line in answer.json()["lines"]}
        assert summed == spent
        assert Decimal(answer.json()["total"]["usd"]) == sum(spent.values())
        assert any(row.cached_tokens for row in rows)
        said = await headrace(fleet.gateways[0], "usage", "--recompute", "--json")
        again = json.loads(said)
        assert Decimal(again["recomputed_usd"]) == sum(spent.values())
        assert Decimal(again["difference_usd"]) == 0
        figures("A07", count, calls=len(rows), usd=str(sum(spent.values())), difference_usd=again["difference_usd"])


async def _mixed_calls(url: str, key: str, calls: int) -> list[Json]:
    """The usage that each answer tells."""
    rng, found = random.Random(1), []
    words = "the same words come first in every prompt so that engines know them " * 4
    bodies: list[Callable[[str], tuple[str, Json]]] = [
        lambda text: (CHAT, chat(text, max_tokens=9)),
        lambda text: (CHAT, streamed(text, stream_options={"include_usage": True})),
        lambda text: (COMPLETIONS, {"model": "m", "prompt": text, "max_tokens": 5}),
        lambda text: (EMBEDDINGS, {"model": "m", "input": text}),
        lambda text: (CHAT, chat(text, fake={"status": 400})),
    ]
    async with client(url, headers=by(key)) as http:
        for _ in range(calls):
            path, body = rng.choice(bodies)(words + str(rng.random()))
            answer = await http.post(path, json=body)
            if answer.status_code == 200:
                found.append(_last_of(answer)["usage"] if body.get("stream") else answer.json()["usage"])
    return found


def _last_of(stream: httpx.Response) -> Json:
    """What comes before [DONE]."""
    found: Json = json.loads(events_in(stream.content)[-2])
    return found


def _price(usage: Json) -> Decimal:
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    price = {name: Decimal(str(value)) for name, value in PRICES["m"].items()}
    micro = price["input"] * (usage["prompt_tokens"] - cached) + price["cached_input"] * cached
    usd: Decimal = (micro + price["output"] * usage.get("completion_tokens", 0)) / 1_000_000
    return usd


# A14

FROZEN_S = 60.0
TIMEOUT_S = 0.05
PACE_S = 0.1


@COUNTS
def test_a14_with_valkey_frozen_nobody_waits_and_each_organisation_has_it_as_it_chose(count: int) -> None:
    long_run(_frozen(count), LIMIT_S)


async def _frozen(count: int) -> None:
    async with fleet_running(count, redis={"timeout_s": TIMEOUT_S}) as fleet:
        keys = {"free": await _key_of(fleet, "free", {})}
        for name, choice in (("open", "open"), ("closed", "closed"), ("slice", "slice"), ("busy", "slice")):
            limits = {"requests_per_minute": 100_000 if name == "busy" else 40}
            keys[name] = await _key_of(fleet, name, limits, when_store_lost=choice)
        usual = await _paced(fleet, keys, 5.0)
        fleet.valkey.freeze()
        try:
            began_s = time.monotonic()
            pacing = asyncio.create_task(_paced(fleet, keys, FROZEN_S))
            await eventually(lambda: _not_degraded(fleet, 1.0))
            admitted = {name: await _admitted(fleet, keys[name]) for name in ("open", "closed", "slice")}
            frozen = await pacing
            assert [one["headrace_limits_degraded"] for one in await fleet.metrics()] == [1.0] * count
        finally:
            frozen_s = time.monotonic() - began_s
            fleet.valkey.thaw()
        with Watch() as back:
            await eventually(lambda: _not_degraded(fleet, 0.0))
        after = await _admitted(fleet, keys["closed"], 2)
        assert admitted["open"] == {200: 80}
        assert admitted["closed"] == {503: 80}
        assert 0 < admitted["slice"][200] <= 40 and admitted["slice"][429] == 80 - admitted["slice"][200]
        assert after == {200: 2}
        said = max(sum("redis.timeout_s" in line for line in one.lines) for one in fleet.gateways)
        assert said <= frozen_s, "at most one line a second"
        added_s = {name: p99(frozen[name]) - p99(usual[name]) for name in ("busy", "free")}
        assert added_s["busy"] - max(0.0, added_s["free"]) < TIMEOUT_S
        figures(
            "A14",
            count,
            frozen_s=round(frozen_s, 1),
            p99_ms=round(1e3 * p99(frozen["busy"]), 2),
            usual_p99_ms=round(1e3 * p99(usual["busy"]), 2),
            added_p99_ms=round(1e3 * added_s["busy"], 2),
            added_p99_of_calls_without_limits_ms=round(1e3 * added_s["free"], 2),
            worst_ms=round(1e3 * max(frozen["busy"]), 1),
            slice_admitted_of_40=admitted["slice"][200],
            log_lines=said,
            back_after_s=round(back.elapsed_s, 2),
        )


async def _key_of(fleet: Fleet, name: str, limits: Json, **settings: Any) -> str:
    await fleet.organisation(name, limits=limits, **settings)
    return (await fleet.key("app", name))[0]


async def _not_degraded(fleet: Fleet, wanted: float) -> object:
    found = [one["headrace_limits_degraded"] for one in await fleet.metrics()]
    return [value for value in found if value != wanted]


async def _paced(fleet: Fleet, keys: dict[str, str], span_s: float) -> dict[str, list[float]]:
    """How long calls with limits and without took, in seconds: in turn, ten a second of each at each gateway."""
    found: dict[str, list[float]] = {"busy": [], "free": []}

    async def caller(url: str) -> None:
        until_s = time.monotonic() + span_s
        async with client(url) as http:
            while time.monotonic() < until_s:
                for name, taken in found.items():
                    with Watch() as watch:
                        answer = await http.post(CHAT, json=chat(max_tokens=2), headers=by(keys[name]))
                    assert answer.status_code == 200, answer.text
                    taken.append(watch.own_s)
                await asyncio.sleep(PACE_S)

    await asyncio.gather(*(caller(url) for url in fleet.urls))
    return found


async def _admitted(fleet: Fleet, key: str, calls: int = 80) -> Counter[int]:
    """Statuses of so many calls over all workers of all gateways."""
    found: Counter[int] = Counter()
    for url in itertools.islice(itertools.cycle(fleet.urls), calls):
        async with client(url, headers=by(key)) as http:
            found[(await http.post(CHAT, json=chat(max_tokens=2))).status_code] += 1
    return found


def p99(taken: list[float]) -> float:
    return sorted(taken)[math.ceil(0.99 * len(taken)) - 1]


# A15


@COUNTS
def test_a15_with_postgresql_frozen_and_killed_known_keys_go_on_and_nothing_is_lost(count: int) -> None:
    long_run(_away(count), LIMIT_S)


async def _away(count: int) -> None:
    async with fleet_running(count) as fleet:
        key = await _key_of(fleet, "acme", {"requests_per_minute": 100_000})
        statuses: Counter[int] = Counter()
        stop = asyncio.Event()

        async def caller(url: str) -> None:
            async with client(url, headers=by(key)) as http:
                while not stop.is_set():
                    statuses[(await http.post(CHAT, json=chat(max_tokens=2))).status_code] += 1
                    await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as group:
            for url in fleet.urls:
                group.create_task(caller(url))
            await asyncio.sleep(2.0)
            fleet.postgres.freeze()
            began_s = time.monotonic()
            await eventually(lambda: _database_is(fleet, 0.0), 20.0)
            noticed_s = time.monotonic() - began_s
            calls = statuses.total()
            await asyncio.sleep(5.0)
            fleet.postgres.thaw()
            await asyncio.sleep(1.0)
            await asyncio.to_thread(fleet.postgres.kill)
            await asyncio.sleep(5.0)
            meanwhile = statuses.total() - calls
            assert meanwhile > 100
            await asyncio.to_thread(fleet.postgres.start)
            with Watch() as back:
                await eventually(lambda: _database_is(fleet, 1.0), 20.0)
            stop.set()
        rows = await recorded(fleet)
        assert statuses == {200: len(rows)}
        again = json.loads(await headrace(fleet.gateways[0], "usage", "--recompute", "--json"))
        assert (again["calls"], again["difference_usd"]) == (len(rows), "0")
        noticed = {"noticed_after_s": round(noticed_s, 2), "back_after_s": round(back.elapsed_s, 2)}
        figures("A15", count, calls=statuses.total(), meanwhile=meanwhile, failed=0, lost=0, **noticed)


async def _database_is(fleet: Fleet, up: float) -> object:
    found = [one["headrace_database_up"] for one in await fleet.metrics()]
    return [value for value in found if value != up]


# A17


@COUNTS
def test_a17_what_is_applied_at_one_gateway_serves_on_all_and_breaks_nothing_in_flight(count: int) -> None:
    long_run(_applied(count), LIMIT_S)


async def _applied(count: int) -> None:
    async with fleet_running(count, "--itl", "0.1", server={"drain_s": 15}) as fleet, AsyncExitStack() as stack:
        key = await _key_of(fleet, "acme", {})
        streams = [asyncio.create_task(_long_answer(url, key)) for url in fleet.urls]
        await fleet.engine.reached("running", count)
        new = fleet.config | {"deployments": fleet.config["deployments"] | {"more": fleet.config["deployments"]["m"]}}
        seen = [await stack.enter_async_context(repeated(partial(version_of, url))) for url in fleet.urls]
        with Watch() as applying:
            answer = await fleet.admin.post("/config", json={"text": json.dumps(new), "name": "new.yaml"})
        answered_s = time.monotonic()
        assert answer.status_code == 200, answer.text
        version = answer.json()["version"]
        with Watch() as others:
            await fleet.everywhere(version_of, version)
        delay_s = max(0.0, max(one.last_s(lambda found: found != version) for one in seen) - answered_s)
        assert delay_s - others.stalled_s < 2.0
        assert await asyncio.gather(*streams) == [40] * count
        figures("A17", count, all_serve_after_s=round(delay_s, 2), answered_after_s=round(applying.elapsed_s, 2))


async def _long_answer(url: str, key: str) -> int:
    """Tokens of an answer of four seconds."""
    async with client(url, headers=by(key)) as http:
        body = streamed(max_tokens=40, fake={"output_tokens": 40}, stream_options={"include_usage": True})
        return int(_last_of(await http.post(CHAT, json=body))["usage"]["completion_tokens"])


# A18

REVOKED = 5


@COUNTS
def test_a18_a_revoked_key_is_refused_by_all_within_a_second_like_one_that_never_was(count: int) -> None:
    long_run(_revoked(count), LIMIT_S)


async def _revoked(count: int) -> None:
    async with fleet_running(count) as fleet:
        await fleet.organisation("acme")
        delays_s, own_s = [], []
        for number in range(REVOKED):
            key, key_id = await fleet.key(f"app{number}", "acme")
            async with AsyncExitStack() as stack:
                seen = [
                    await stack.enter_async_context(repeated(partial(fleet.status, url, key))) for url in fleet.urls
                ]
                with Watch() as watch:
                    began_s = time.monotonic()
                    assert (await fleet.admin.post(f"/keys/{key_id}/revoke")).status_code == 200
                    await fleet.everywhere(lambda url, key=key: fleet.status(url, key), 401)  # type: ignore[misc]
                delays_s.append(max(0.0, max(one.last_s(lambda found: found == 200) for one in seen) - began_s))
                own_s.append(delays_s[-1] - watch.stalled_s)
            for url in fleet.urls:
                assert await _refusal(url, key) == await _refusal(url, f"sk-hr-000000000000-{'x' * 43}")
        assert max(own_s) < 1.0, delays_s
        middle_s = sorted(delays_s)[REVOKED // 2]
        figures("A18", count, revoked=REVOKED, longest_s=round(max(delays_s), 3), median_s=round(middle_s, 3))


async def _refusal(url: str, key: str) -> tuple[int, str]:
    async with client(url, headers=by(key)) as http:
        answer = await http.post(CHAT, json=chat())
    return answer.status_code, answer.text.replace(answer.headers["x-request-id"], "")


# A20

REQUESTS = 60


@COUNTS
def test_a20_remaining_falls_strictly_and_retry_after_is_right(count: int) -> None:
    """On one connection to each gateway, in turn. Until `retry-after-ms` is over nothing may be had, and then it is.

    What other gateways had leased ahead, 1 % at most, may come back: so tokens fall strictly where there is one."""
    long_run(_headers(count), LIMIT_S)


async def _headers(count: int) -> None:
    async with fleet_running(count) as fleet, AsyncExitStack() as stack:
        key = await _key_of(fleet, "acme", {"requests_per_minute": REQUESTS, "tokens_per_minute": 100_000})
        one_each = httpx.Limits(max_connections=1)
        options: Json = {"headers": by(key), "limits": one_each}
        clients = [await stack.enter_async_context(client(url, **options)) for url in fleet.urls]
        left: list[list[tuple[int, int]]] = [[] for _ in clients]
        for number in range(REQUESTS):
            answer = await clients[number % count].post(CHAT, json=chat(max_tokens=5, stream=bool(number % 3 == 1)))
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-ratelimit-limit-requests"] == str(REQUESTS)
            left[number % count].append(_left(answer))
        steps = [pair for of_one in left for pair in itertools.pairwise(of_one)]
        assert all(after[0] < before[0] for before, after in steps), left
        rise = max(after[1] - before[1] for before, after in steps)
        assert rise < (0 if count == 1 else 0.01 * 100_000), left
        refused = [await http.post(CHAT, json=chat(max_tokens=5)) for http in clients]
        told_s = time.monotonic()
        assert [answer.status_code for answer in refused] == [429] * count
        for answer in refused:
            wait_ms = int(answer.headers["retry-after-ms"])
            assert int(answer.headers["retry-after"]) == math.ceil(wait_ms / 1000) <= 120
            assert _left(answer)[0] == 0
            assert "Try again in " in answer.json()["error"]["message"]
        wait_s = min(int(answer.headers["retry-after-ms"]) for answer in refused) / 1000
        await asyncio.sleep(told_s + wait_s - 1.5 - time.monotonic())
        early = [(await http.post(CHAT, json=chat(max_tokens=5))).status_code for http in clients]
        assert time.monotonic() > told_s + wait_s - 0.2 or early == [429] * count
        await asyncio.sleep(told_s + wait_s + 0.1 - time.monotonic())
        assert (await clients[-1].post(CHAT, json=chat(max_tokens=5))).status_code == 200
        least = min(one[-1][0] for one in left)
        figures(
            "A20",
            count,
            admitted=REQUESTS,
            limit=REQUESTS,
            last_remaining=least,
            largest_rise_of_tokens=max(0, rise),
            retry_after_s=round(wait_s, 2),
        )


def _left(answer: httpx.Response) -> tuple[int, int]:
    """Requests and tokens."""
    headers = answer.headers
    return int(headers["x-ratelimit-remaining-requests"]), int(headers["x-ratelimit-remaining-tokens"])


# A21


@COUNTS
def test_a21_two_organisations_never_share_an_answer_of_the_cache(count: int) -> None:
    long_run(_cached(count), LIMIT_S)


async def _cached(count: int) -> None:
    async with fleet_running(count, cache={"enabled": True}) as fleet, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client(url)) for url in fleet.urls]
        keys: dict[tuple[str, int], str] = {}
        for name in ("acme", "other"):
            await fleet.organisation(name)
            keys |= {(name, number): (await fleet.key(f"app{number}", name))[0] for number in range(2)}
        bodies = [chat(f"question {number}", temperature=0, seed=1) for number in range(10)]
        asked = [(http, who, body) for http in clients for who in keys for body in bodies] * 3
        random.Random(count).shuffle(asked)
        ids: dict[str, set[str]] = {"acme": set(), "other": set()}
        hits: Counter[str] = Counter()
        for http, who, body in asked:
            answer = await http.post(CHAT, json=body, headers=by(keys[who]))
            assert answer.status_code == 200
            if answer.headers["x-headrace-cache"] == "hit":
                hits[who[0]] += 1
                ids[who[0]].add(answer.headers["x-headrace-cache-id"])
        assert not ids["acme"] & ids["other"]
        assert min(hits.values()) > 20
        figures("A21", count, calls=len(asked), hits=hits.total(), shared_between_organisations=0)


# A22

KEYS = 10_000
SCRAPES = 20


@COUNTS
def test_a22_ten_thousand_keys_make_under_5000_series_and_a_scrape_takes_under_100_ms(count: int) -> None:
    """Of the database, each of an organisation of its own, and each used at every gateway."""
    long_run(_many_keys(count), LIMIT_S)


async def _many_keys(count: int) -> None:
    async with fleet_running(count) as fleet:
        keys = await asyncio.to_thread(_make_keys, fleet.config["database"]["url"])
        await fleet.everywhere(lambda url: fleet.status(url, keys[-1]), 200)
        for url in fleet.urls:
            bodies = chat_asks("m", stream=False, max_tokens=1, prompt_words=2)
            asks = (Ask(ask.body, key) for ask, key in zip(bodies, keys, strict=False))
            found = await Load(Target(url), asks).closed(32)
            assert Counter(found.status) == {200: KEYS}
        series, scrapes_s = [], []
        for gateway in fleet.gateways:
            pids = tree(gateway.pid)
            async with client(gateway.url) as http:
                before_s = cpu_s(pids)
                for _ in range(SCRAPES):
                    text = (await http.get("/metrics")).text
                scrapes_s.append((cpu_s(pids) - before_s) / SCRAPES)
            metrics = metrics_in(text)
            series.append(len(metrics))
            assert sum(value for name, value in metrics.items() if name.startswith("headrace_requests_total")) >= KEYS
        assert max(series) < 5000
        assert max(scrapes_s) < 0.1
        figures("A22", count, keys=KEYS, series=max(series), scrape_cpu_ms=round(1e3 * max(scrapes_s), 1))


def _make_keys(url: str) -> list[str]:
    database = open_database(url)
    directory, actor, made = Directory(database), Actor("test"), []
    try:
        for number in range(KEYS):
            directory.organisations.create(actor, OrganisationSpec(name=f"user{number}"))
            made.append(directory.keys.create(actor, KeySpec(name="app", organisation=f"user{number}")).key)
    finally:
        database.close()
    return made
