from __future__ import annotations

import asyncio
import re

import httpx

from engines.fake import FakeEngine, FakeOptions
from tests.engines.fake.client import CHAT, Wire, chat, get, post


async def test_held_requests_pass_the_gate_one_by_one() -> None:
    async with FakeEngine() as engine:
        engine.hold()
        tasks = [asyncio.create_task(post(engine.url, CHAT, chat())) for _ in range(3)]
        await engine.arrived(3)
        assert (engine.stats.held, engine.stats.running, engine.stats.completed) == (3, 3, 0)
        engine.release(1)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert (engine.stats.held, engine.stats.completed) == (2, 1)
        engine.release()
        assert [(await task).status_code for task in tasks] == [200] * 3
        await engine.idle()
        assert "running=0 waiting=0 held=0 gate=open" in repr(engine.state.scheduler)


async def test_a_pass_given_beforehand_lets_the_next_request_through() -> None:
    async with FakeEngine() as engine:
        engine.hold()
        engine.release(1)
        assert (await post(engine.url, CHAT, chat())).status_code == 200
        late = asyncio.create_task(post(engine.url, CHAT, chat()))
        await engine.arrived(2)
        assert engine.stats.held == 1
        engine.release()
        await late


async def test_a_full_engine_queues_and_a_full_queue_refuses() -> None:
    async with FakeEngine(FakeOptions(slots=1, max_queue=1)) as engine:
        engine.hold()
        tasks = [asyncio.create_task(post(engine.url, CHAT, chat())) for _ in range(2)]
        await engine.arrived(2)
        assert (engine.stats.running, engine.stats.waiting) == (1, 1)
        refused = await post(engine.url, CHAT, chat())
        assert refused.status_code == 503
        assert "retry-after" not in refused.headers
        assert "--max-queue allows 1" in refused.json()["error"]["message"]
        page = (await get(engine.url, "/metrics")).text
        assert 'vllm:num_requests_waiting{engine="0",model_name="fake-model"} 1.0' in page
        engine.release()
        assert [(await task).status_code for task in tasks] == [200, 200]
        assert engine.stats.refused == 1


async def test_no_queue_means_slots_only() -> None:
    async with FakeEngine(FakeOptions(slots=1, max_queue=0)) as engine:
        assert (await post(engine.url, CHAT, chat())).status_code == 200
        engine.hold()
        first = asyncio.create_task(post(engine.url, CHAT, chat()))
        await engine.arrived(1)
        assert (await post(engine.url, CHAT, chat())).status_code == 503
        engine.release()
        await first


async def test_clients_that_leave_free_their_place_at_the_gate_and_in_the_queue() -> None:
    async with FakeEngine(FakeOptions(slots=1)) as engine:
        engine.hold()
        wires = [await Wire.open(engine.url) for _ in range(3)]
        for number, wire in enumerate(wires, 1):
            wire.send(CHAT, chat())
            await engine.arrived(number)
        assert (engine.stats.running, engine.stats.waiting) == (1, 2)
        await wires[1].aclose()
        await engine.aborted_at_least(1)
        assert (engine.stats.running, engine.stats.waiting) == (1, 1)
        await wires[0].aclose()
        await engine.aborted_at_least(2)
        assert (engine.stats.running, engine.stats.waiting, engine.stats.held) == (1, 0, 1)
        engine.release()
        assert (await wires[2].rest())[0].startswith(b"HTTP/1.1 200")
        await wires[2].aclose()


async def test_a_client_that_leaves_a_timed_answer_aborts_it() -> None:
    async with FakeEngine(FakeOptions(ttft_s=60)) as engine:
        wire = await Wire.open(engine.url)
        wire.send(CHAT, chat())
        await engine.arrived(1)
        await wire.aclose()
        await engine.aborted_at_least(1)
        assert (engine.stats.open, engine.stats.running, engine.stats.aborted) == (0, 0, 1)


async def test_kv_memory_limits_what_runs_together() -> None:
    async with FakeEngine(FakeOptions(kv_tokens=100, output_tokens=40)) as engine:
        engine.hold()
        tasks = [asyncio.create_task(post(engine.url, CHAT, chat("a"))) for _ in range(3)]
        await engine.arrived(3)
        assert (engine.stats.running, engine.stats.waiting) == (2, 1)
        page = (await get(engine.url, "/metrics")).text
        usage = re.search(r"vllm:kv_cache_usage_perc{[^}]*} (\S+)", page)
        assert usage is not None
        assert 0.8 < float(usage[1]) <= 1
        engine.release()
        await asyncio.gather(*tasks)


async def test_a_cached_prefix_is_told_counted_and_quicker() -> None:
    options = FakeOptions(prompt_tokens_details=True, prefill_tps=5000, output_tokens=1)
    async with FakeEngine(options) as engine:
        ask = chat("word " * 400)
        cold = (await post(engine.url, CHAT, ask)).json()["usage"]
        warm = (await post(engine.url, CHAT, ask)).json()["usage"]
        salted = (await post(engine.url, CHAT, ask | {"cache_salt": "other"})).json()["usage"]
        told = (await post(engine.url, CHAT, ask | {"fake": {"cached_tokens": 7}})).json()["usage"]
        page = (await get(engine.url, "/metrics")).text
    assert cold["prompt_tokens_details"] == {"cached_tokens": 0}
    cached = warm["prompt_tokens_details"]["cached_tokens"]
    assert 400 <= cached < warm["prompt_tokens"]
    assert cached % 16 == 0
    assert salted["prompt_tokens_details"] == {"cached_tokens": 0}
    assert told["prompt_tokens_details"] == {"cached_tokens": 7}
    labels = '{engine="0",model_name="fake-model"}'
    assert f"vllm:prefix_cache_queries_total{labels} {float(4 * cold['prompt_tokens'])}" in page
    assert f"vllm:prefix_cache_hits_total{labels} {float(2 * cached)}" in page
    ttft = re.search(r"vllm:time_to_first_token_seconds_bucket{[^}]*le=\"0.06\"} (\S+)", page)
    assert ttft is not None
    assert float(ttft[1]) == 2


async def test_metrics_count_tokens_gaps_and_reasons() -> None:
    async with FakeEngine(FakeOptions(itl_s=0.001, jitter=0.5)) as engine:
        await post(engine.url, CHAT, chat(stream=True, max_tokens=5))
        await post(engine.url, CHAT, chat())
        page = (await get(engine.url, "/metrics")).text
    labels = 'engine="0",model_name="fake-model"'
    assert f"vllm:generation_tokens_total{{{labels}}} 21.0" in page
    assert f"vllm:inter_token_latency_seconds_count{{{labels}}} 4.0" in page
    assert f'vllm:time_to_first_token_seconds_bucket{{{labels},le="+Inf"}} 2.0' in page
    for reason in ("length", "stop"):
        assert f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} 1.0' in page
    assert (
        'vllm:cache_config_info{block_size="16",enable_prefix_caching="True",engine="0",num_gpu_blocks="131072"}'
        in page
    )


async def test_many_streams_at_once_all_end() -> None:
    async with FakeEngine(FakeOptions(slots=300, itl_s=0.001, output_tokens=5)) as engine:
        wires = [await Wire.open(engine.url) for _ in range(300)]
        engine.hold()
        for wire in wires:
            wire.send(CHAT, chat(stream=True))
        await engine.arrived(300)
        assert engine.stats.running == 300
        engine.release()
        for wire in wires:
            assert (await wire.rest())[0].endswith(b"0\r\n\r\n")
            await wire.aclose()
        assert engine.stats.completed == 300


async def test_a_connection_is_kept_and_pipelined_requests_are_answered_in_order() -> None:
    async with FakeEngine() as engine:
        wire = await Wire.open(engine.url)
        wire.send(CHAT, chat(fake={"ttft": 0.01, "text": "first"}), close=False)
        wire.send("/tokenize", {"prompt": "second"}, close=False)
        wire.send(CHAT, chat(fake={"text": "third"}))
        data, _ = await wire.rest()
        await wire.aclose()
        assert engine.stats.connections == 1
    assert [data.index(mark) for mark in (b"first", b'"count"', b"third")] == sorted(
        data.index(mark) for mark in (b"first", b'"count"', b"third")
    )


async def test_a_client_that_expects_100_continue_gets_it() -> None:
    async with FakeEngine() as engine:
        wire = await Wire.open(engine.url)
        wire.writer.write(b"POST /tokenize HTTP/1.1\r\ncontent-length: 14\r\nexpect: 100-continue\r\n\r\n")
        assert await wire.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.writer.write(b'{"prompt":"a"}')
        assert (await wire.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        await wire.aclose()


async def test_what_is_no_http_gets_400_and_ends_an_answer_under_way() -> None:
    async with FakeEngine() as engine:
        wire = await Wire.open(engine.url)
        wire.writer.write(b"garbage\r\n\r\n")
        assert (await wire.rest())[0].startswith(b"HTTP/1.1 400")
        await wire.aclose()
        busy = await Wire.open(engine.url)
        busy.send(CHAT, chat(fake={"hang": "before"}), close=False)
        await engine.hung()
        busy.writer.write(b"garbage\r\n\r\n")
        await engine.aborted_at_least(1)
        await busy.aclose()
        upgrade = b"GET /version HTTP/1.1\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
        offer = await Wire.open(engine.url)
        offer.writer.write(upgrade)
        assert (await offer.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        await offer.aclose()


async def test_closing_the_engine_cuts_what_is_open_and_refuses_what_comes() -> None:
    engine = FakeEngine()
    await engine.start()
    url = engine.url
    wire = await Wire.open(url)
    wire.send(CHAT, chat(stream=True, fake={"hang": "mid"}))
    await engine.hung()
    await engine.aclose()
    await engine.aclose()
    await wire.rest()
    await wire.aclose()
    try:
        await get(url, "/health")
    except httpx.ConnectError:
        return
    raise AssertionError("the port still answers")
