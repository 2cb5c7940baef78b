"""The store in a real Valkey: when it is slow, gone, empty or elsewhere (A14), and how it is reached."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis as Client
from redis.exceptions import RedisError

from gateway.clock import RealClock
from gateway.config import Redis as Options
from gateway.config.redis_options import RedisSentinel
from gateway.limits import redis_store
from gateway.limits.redis_store import RedisStore
from gateway.limits.seam import Change, Meter, Span, StoreLost, Want
from gateway.peers import PlaceFailed
from gateway.redis_place import RedisPlace
from tests.harness import Watch
from tests.valkey import Valkey, cluster_running, sentinel_running, tls_before, valkey_running

pytestmark = pytest.mark.may_block("starts servers, and redis-py reads certificates")
MINUTE = Meter("acme|requests|minute", 100, Span.MINUTE)
DAY = Meter("acme|tokens|day", 1000, Span.DAY)
USD = Meter("acme|usd|utc_month", 9 * 10**15, Span.UTC_MONTH)
PARALLEL = Meter("acme|parallel", 3, Span.NOW)
ALL = [MINUTE, DAY, USD, PARALLEL]


@pytest.fixture
async def valkey() -> AsyncIterator[Valkey]:
    async with valkey_running() as server:
        yield server


@asynccontextmanager
async def stores(*options: Options) -> AsyncIterator[list[RedisStore]]:
    opened = [RedisStore(each, RealClock()) for each in options]
    try:
        yield opened
    finally:
        for store in opened:
            await store.aclose()


def at(server: Valkey, timeout_s: float = 1.0) -> Options:
    return Options(url=server.url, timeout_s=timeout_s)


async def taken(store: RedisStore, meter: Meter, most: int, least: int = 1) -> int:
    [grant] = await store.take([Want(meter, least, most)])
    return grant.amount


# What it counts


async def test_numbers_are_exact_to_two_to_the_53(valkey: Valkey) -> None:
    async with stores(at(valkey), at(valkey)) as (one, two):
        [grant] = await one.take([Want(USD, 1, USD.limit - 1)])
        assert grant.amount == 8_999_999_999_999_999
        assert await taken(two, USD, 5) == 1
        await one.change([Change(USD, grant.slot, -8_999_999_999_999_998)])
        assert [await taken(two, USD, USD.limit), await taken(two, USD, 1)] == [8_999_999_999_999_998, 0]


async def test_no_more_comes_back_than_was_leased(valkey: Valkey) -> None:
    async with stores(at(valkey)) as (store,):
        grants = await store.take([Want(meter, 2, 2) for meter in ALL])
        for _ in range(2):
            await store.change([Change(meter, grant.slot, -3) for meter, grant in zip(ALL, grants, strict=True)])
        assert "unsettled=0" in repr(store)
        again = await store.take([Want(meter, 1, meter.limit + 1) for meter in ALL])
        assert [grant.amount for grant in again] == [meter.limit for meter in ALL]


async def test_what_is_asked_at_once_goes_in_one_round_trip_and_in_order(valkey: Valkey) -> None:
    async with stores(at(valkey)) as (store,):
        assert await store.take([]) == []
        await store.change([])
        assert await taken(store, MINUTE, 1) == 1
        before = await counted(valkey, "total_reads_processed")
        amounts = await asyncio.gather(*(taken(store, MINUTE, 1) for _ in range(120)))
        assert amounts == [1] * 99 + [0] * 21
        assert await counted(valkey, "total_reads_processed") - before < 40  # those of 120 calls in the server included
        assert repr(store) == "<RedisStore <RedisLink connected waiting=0> unsettled=0>"


async def counted(server: Valkey, what: str) -> int:
    async with server.client() as client:
        return int((await client.info())[what])


async def test_idle_meters_expire(valkey: Valkey) -> None:
    async with stores(at(valkey)) as (store,):
        await store.take([Want(meter, 1, 1) for meter in ALL])
        async with valkey.client() as client:
            lives = {key: await client.pttl(key) / 1000 for key in await client.keys("*")}
        assert 60 <= lives[b"{headrace:acme|requests|minute}"] <= 62
        assert 86_400 <= lives[b"{headrace:acme|tokens|day}"] <= 87_100
        assert 32 * 86_400 <= lives[b"{headrace:acme|usd|utc_month}"] <= 63 * 86_400
        assert 0 < lives[b"{headrace:acme|parallel}"] <= 60


async def test_what_a_killed_worker_had_in_flight_counts_for_three_seconds(valkey: Valkey) -> None:
    async with stores(at(valkey), at(valkey)) as (one, two):
        assert await taken(one, PARALLEL, 3, least=3) == 3
        await one._link.aclose()
        began_s = time.monotonic()
        while not await taken(two, PARALLEL, 1):
            await asyncio.sleep(0.05)
        assert 2.5 < time.monotonic() - began_s < 3.5


async def test_a_beat_says_what_is_held_but_not_less_than_what_is_on_its_way(valkey: Valkey) -> None:
    async with stores(at(valkey), at(valkey)) as (one, two):
        assert await taken(one, PARALLEL, 2, least=2) == 2
        await one.beat({PARALLEL: 1})
        assert await taken(two, PARALLEL, 3) == 2
        await two.beat({PARALLEL: 0})
        # The caller cannot know of the two that are being taken while he says that he holds one.
        amounts = await asyncio.gather(taken(one, PARALLEL, 2), one.beat({PARALLEL: 1}))
        assert amounts[0] == 2
        assert await taken(two, PARALLEL, 3) == 0
        await one.beat({PARALLEL: 3})
        await one.change([Change(PARALLEL, 0, -3)])
        assert await taken(two, PARALLEL, 3) == 3


async def test_a_store_that_ends_gives_back_what_it_has_in_flight_and_remembers_nothing_else(valkey: Valkey) -> None:
    others = [Meter(f"key-{index}|parallel", 3, Span.NOW) for index in range(50)]
    async with stores(at(valkey)) as (two,):
        one = RedisStore(at(valkey), RealClock())
        await one.take([Want(meter, 1, 1) for meter in others])
        await one.change([Change(meter, 0, -1) for meter in others])
        assert await taken(one, PARALLEL, 3) == 3
        await one.beat({PARALLEL: 3})
        assert set(one._held) == {PARALLEL.key}
        await one.aclose()
        assert await taken(two, PARALLEL, 3) == 3


# The server is slow, or gone


async def test_a14_a_frozen_server_costs_at_most_the_time_limit_and_is_found_again(valkey: Valkey) -> None:
    async with stores(at(valkey, 0.05)) as (store,):
        assert await taken(store, MINUTE, 10) == 10
        valkey.freeze()
        for _ in range(3):
            with Watch() as watch, pytest.raises(StoreLost, match=r"within redis\.timeout_s of 0\.05 s"):
                await store.take([Want(MINUTE, 1, 1)])
            assert watch.between(0.04, 0.15)
        valkey.thaw()
        await settled_again(store)
        [first] = await store.take([Want(DAY, 7, 7)])
        [second] = await store.take([Want(MINUTE, 1, 1)])
        assert (first.amount, second.amount) == (7, 1)  # each answer belongs to its question
        assert second.left >= 100 - 10 - 1 - 1 - 1  # at most the one that was sent when it froze was lost


async def settled_again(store: RedisStore, within_s: float = 5.0) -> None:
    """Until it answers."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                await store.take([Want(Meter("probe", 1, Span.MINUTE), 1, 1)])
            except StoreLost:
                await asyncio.sleep(0.02)
            else:
                return


async def test_a14_a_server_that_was_killed_refuses_at_once_and_begins_anew(valkey: Valkey) -> None:
    async with stores(at(valkey, 0.5)) as (store,):
        assert await taken(store, MINUTE, 100) == 100
        await valkey.kill()
        for _ in range(2):
            with Watch() as watch, pytest.raises(StoreLost, match=r"^redis: "):
                await store.take([Want(MINUTE, 1, 1)])
            assert watch.within(0.1)
        await valkey.start()
        await settled_again(store)
        assert await taken(store, MINUTE, 100) == 100


async def test_corrections_that_were_not_confirmed_are_made_once_all_the_same(valkey: Valkey) -> None:
    async with stores(at(valkey, 0.05), at(valkey)) as (store, other):
        [grant] = await store.take([Want(MINUTE, 90, 90)])
        valkey.freeze()
        for _ in range(3):  # those that arrive are carried out when it thaws, though nobody hears of it
            await store.change([Change(MINUTE, grant.slot, -10)])
        assert "unsettled=3" in repr(store)
        valkey.thaw()
        await settled_again(store)
        await store.change([Change(MINUTE, grant.slot, 1)])
        await store.beat({})
        assert "unsettled=0" in repr(store)
        assert await taken(other, MINUTE, 100) == 100 - 90 + 30 - 1


async def test_a_server_that_is_away_for_long_does_not_fill_the_memory(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "MAX_KEPT", 2)
    async with stores(at(valkey)) as (store,):
        [grant] = await store.take([Want(MINUTE, 90, 90)])
        await valkey.kill()
        await store.change([Change(MINUTE, grant.slot, -10)] * 2)
        with pytest.raises(StoreLost, match="2 corrections of limits wait for it already"):
            await store.change([Change(MINUTE, grant.slot, -10)])
        await store.change([Change(PARALLEL, 0, -1)])  # what is in flight is not kept


async def test_whoever_gave_up_gets_nothing_that_he_could_not_use(valkey: Valkey) -> None:
    async with stores(at(valkey)) as (store,):
        waiting = [asyncio.create_task(store.take([Want(MINUTE, 10, 10)])) for _ in range(5)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert await taken(store, MINUTE, 100) == 100


async def test_scripts_that_the_server_forgot_are_loaded_again_and_run_once(valkey: Valkey) -> None:
    async with stores(at(valkey)) as (store,), valkey.client() as client:
        assert await taken(store, MINUTE, 10) == 10
        await client.script_flush()
        assert await taken(store, MINUTE, 10) == 10
        assert (await store.take([Want(MINUTE, 1, 1)]))[0].left == 79


async def test_after_a_flush_counts_begin_anew_and_nothing_from_before_comes_back_to_them(valkey: Valkey) -> None:
    async with stores(at(valkey), at(valkey)) as (one, two), valkey.client() as client:
        grants = await one.take([Want(meter, meter.limit // 2, meter.limit // 2) for meter in ALL])
        await client.flushall()
        assert [await taken(two, meter, meter.limit) for meter in ALL[:3]] == [meter.limit for meter in ALL[:3]]
        await one.change(
            [Change(meter, grant.slot, -meter.limit // 2) for meter, grant in zip(ALL[:3], grants, strict=False)]
        )
        assert [await taken(two, meter, 1) for meter in ALL[:3]] == [0, 0, 0]
        await one.beat({PARALLEL: 1})
        assert await taken(two, PARALLEL, 3) == 2


@pytest.mark.parametrize(
    ("break_it", "said"),
    [("REPLICAOF 127.0.0.1 1", "replica"), ("SET {headrace:acme|requests|minute} text", "WRONGTYPE")],
)
async def test_a_server_that_refuses_is_lost_with_its_own_words(valkey: Valkey, break_it: str, said: str) -> None:
    async with stores(at(valkey)) as (store,), valkey.client() as client:
        await valkey.do(*break_it.split())
        with pytest.raises(StoreLost, match=said):
            await taken(store, MINUTE, 1)
        await valkey.do("REPLICAOF", "NO", "ONE")
        await client.flushall()
        assert await taken(store, MINUTE, 1) == 1


async def test_a_correction_that_is_refused_for_good_does_not_hold_up_the_others(valkey: Valkey) -> None:
    async with stores(at(valkey)) as (store,), valkey.client() as client:
        [grant] = await store.take([Want(DAY, 10, 10)])
        await client.set("{headrace:acme|requests|minute}", "text")
        await store.change([Change(DAY, grant.slot, -4)])
        await store.change([Change(MINUTE, grant.slot, -4)])
        await store.change([Change(DAY, grant.slot, -4)])
        assert "connected waiting=0> unsettled=0" in repr(store)
        assert (await store.take([Want(DAY, 1, 1)]))[0].left == DAY.limit - 3


# Where it is


async def test_sentinels_say_where_the_server_is_and_where_it_is_after_a_failover() -> None:
    async with sentinel_running() as watched:
        options = Options(sentinel=RedisSentinel(master="main", urls=watched.urls), timeout_s=0.5)
        place = RedisPlace(options)
        async with stores(options) as (store,):
            assert await taken(store, MINUTE, 60) == 60
            assert await place.trade(b"note") == []
            await watched.first.kill()
            with pytest.raises(StoreLost):
                await taken(store, MINUTE, 1)
            await settled_again(store, within_s=20.0)
            assert await taken(store, MINUTE, 100) in (40, 100)  # with the replica's data, as far as it had them
            async with Client(unix_socket_path=str(watched.second.socket)) as client:
                assert (await client.info("replication"))["role"] == "master"
            with contextlib.suppress(PlaceFailed):  # whether it notices in time that its connection is gone is open
                await place.trade(None)
            assert await place.trade(b"note") == []
            await place.aclose()


async def test_a_sentinel_that_is_gone_is_passed_over_and_an_unknown_master_is_named() -> None:
    async with sentinel_running() as watched:
        await watched.sentinels[0].kill()
        sentinel = RedisSentinel(master="main", urls=watched.urls)
        unknown = RedisSentinel(master="other", urls=watched.urls)
        async with stores(Options(sentinel=sentinel, timeout_s=1), Options(sentinel=unknown, timeout_s=1)) as (
            one,
            two,
        ):
            assert await taken(one, MINUTE, 1) == 1
            with pytest.raises(StoreLost, match="No master found for 'other'"):
                await taken(two, MINUTE, 1)


async def test_sentinels_and_their_server_may_each_want_a_password() -> None:
    async with sentinel_running(sentinels=1, password="sesame") as watched:
        urls = [url.replace("//", "//:sesame@") for url in watched.urls]
        signed_in = RedisSentinel(master="main", urls=urls)
        stranger = RedisSentinel(master="main", urls=watched.urls)
        right = Options(sentinel=signed_in, password=SecretStr("sesame"), timeout_s=1.0)
        async with stores(right, Options(sentinel=signed_in, timeout_s=1.0)) as (one, nobody):
            assert await taken(one, MINUTE, 1) == 1
            with pytest.raises(StoreLost, match=r"(?i)auth"):
                await taken(nobody, MINUTE, 1)
        async with stores(Options(sentinel=stranger, password=SecretStr("sesame"), timeout_s=1.0)) as (nobody,):
            with pytest.raises(StoreLost, match=r"(?i)auth"):
                await taken(nobody, MINUTE, 1)


async def test_a_cluster_keeps_each_meter_where_it_likes() -> None:
    async with cluster_running() as nodes:
        options = Options(url=f"redis://127.0.0.1:{nodes[0].port}", cluster=True, timeout_s=10.0)
        meters = [Meter(f"tenant-{index}|requests|minute", 10, Span.MINUTE) for index in range(20)]
        place = RedisPlace(options)
        async with stores(options, options) as (one, two):
            grants = await one.take([*(Want(meter, 1, 7) for meter in meters), Want(PARALLEL, 1, 2)])
            assert [grant.amount for grant in grants] == [7] * 20 + [2]
            held = [await keys_of(node) for node in nodes]
            assert all(held) and sum(held) == 21
            await one.change([Change(meter, grant.slot, -7) for meter, grant in zip(meters, grants, strict=False)])
            await one.beat({PARALLEL: 1})
            again = await two.take([*(Want(meter, 1, 20) for meter in meters), Want(PARALLEL, 1, 3)])
            assert [grant.amount for grant in again] == [10] * 20 + [2]
            assert await place.trade(b"note") == []
            await place.aclose()


async def keys_of(node: Valkey) -> int:
    async with node.client() as client:
        return int(await client.dbsize())


async def test_a_cluster_whose_node_freezes_costs_the_time_limit_and_corrections_are_made_once() -> None:
    async with cluster_running() as nodes:
        options = Options(url=f"redis://127.0.0.1:{nodes[0].port}", cluster=True, timeout_s=0.2)
        meters = [Meter(f"tenant-{index}|requests|minute", 10, Span.MINUTE) for index in range(20)]
        async with stores(options) as (store,):
            await settled_again(store)
            grants = await store.take([Want(meter, 10, 10) for meter in meters])
            nodes[1].freeze()
            with Watch() as watch, pytest.raises(StoreLost):
                await store.take([Want(meter, 1, 1) for meter in meters])
            assert watch.within(0.3)
            await store.change([Change(meter, grant.slot, -4) for meter, grant in zip(meters, grants, strict=True)])
            nodes[1].thaw()
            await settled_again(store)
            async with asyncio.timeout(5):
                while "unsettled=0" not in repr(store):
                    try:
                        await store.beat({})
                    except StoreLost:
                        await asyncio.sleep(0.02)
            again = await store.take([Want(meter, 1, 20) for meter in meters])
            assert [grant.amount for grant in again] == [4] * 20


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    subprocess.run([*command.split(), *names, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return cert, key


async def test_tls_with_a_ca_of_ones_own(valkey: Valkey, certificate: tuple[Path, Path]) -> None:
    async with tls_before(valkey, *certificate) as port:
        url = f"rediss://localhost:{port}/0"
        trusting = Options(url=url, ca_file=str(certificate[0]), timeout_s=1.0)
        in_the_url = Options(url=f"{url}?ssl_ca_certs={certificate[0]}", timeout_s=1.0)
        async with stores(trusting, in_the_url, Options(url=url, timeout_s=1.0)) as (one, two, stranger):
            assert [await taken(one, MINUTE, 1), await taken(two, MINUTE, 1)] == [1, 1]
            with pytest.raises(StoreLost, match=r"(?i)certificate verify failed"):
                await taken(stranger, MINUTE, 1)


def documented_acl() -> list[str]:
    text = (Path(__file__).parents[3] / "docs" / "guide" / "redis.md").read_text(encoding="utf-8")
    found = re.search(r"^ACL SETUSER headrace on >… (.+?)^```", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1].split()


async def test_a_user_may_be_confined_to_what_the_documentation_says(valkey: Valkey) -> None:
    await valkey.do("ACL", "SETUSER", "gateway", "on", ">sesame", *documented_acl())
    async with valkey.client():
        await valkey.do("ACL", "SETUSER", "default", "off")
        right, wrong_word = (
            Options(url=valkey.url, timeout_s=1.0, user="gateway", password=SecretStr(word))
            for word in ("sesame", "wrongword")
        )
        in_the_url = Options(url=f"unix://gateway:sesame@{valkey.socket}", timeout_s=1.0)
        async with stores(right, in_the_url, wrong_word) as (
            one,
            two,
            wrong,
        ):
            for store in (one, two):
                grants = await store.take([Want(meter, 1, 1) for meter in ALL])
                assert [grant.amount for grant in grants] == [1] * 4
                await store.change([Change(meter, grant.slot, -1) for meter, grant in zip(ALL, grants, strict=True)])
                await store.beat({PARALLEL: 1})
            place = RedisPlace(right)
            assert [await place.trade(b"note"), await place.trade(b"note")] == [[], []]
            await place.aclose()
            with pytest.raises(StoreLost) as lost:
                await taken(wrong, MINUTE, 1)
            assert "wrongword" not in str(lost.value)


async def test_a_url_with_an_option_that_there_is_not_is_refused() -> None:
    with pytest.raises((ValueError, RedisError, TypeError)):
        async with stores(Options(url="redis://localhost?socket_timeout=never")):
            pass
