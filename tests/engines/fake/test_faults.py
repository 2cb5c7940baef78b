from __future__ import annotations

import json
from typing import Any

import pytest

from engines.fake import Death, FakeEngine, FakeOptions, Hang, Malformed
from tests.engines.fake.client import CHAT, Wire, chat, events, exchange, get, post


async def test_an_override_answers_with_status_body_headers_and_retry_after() -> None:
    fake = {"status": 429, "body": {"error": {"message": "slow"}}, "headers": {"x-a": "b"}, "retry_after": 1}
    async with FakeEngine() as engine:
        answer = await post(engine.url, CHAT, chat(fake=fake))
        plain = await post(engine.url, CHAT, chat(fake={"status": 500, "ttft": 0.001}))
        text = await post(engine.url, CHAT, chat(fake={"body": "not json"}))
        empty = await post(engine.url, CHAT, chat(fake={"status": 204}))
        by_header = await post(engine.url, CHAT, chat(), **{"x-fake": '{"status": 503}'})
        assert (engine.stats.faulted, engine.stats.completed) == (3, 2)
    assert (answer.status_code, answer.headers["x-a"], answer.headers["retry-after"]) == (429, "b", "1")
    assert answer.json() == {"error": {"message": "slow"}}
    assert (plain.status_code, plain.json()["error"]["code"]) == (500, 500)
    assert (text.status_code, text.text) == (200, "not json")
    assert (empty.status_code, empty.content) == (204, b"")
    assert by_header.status_code == 503


async def test_a_raw_override_is_sent_byte_for_byte() -> None:
    raw = "HTTP/1.1 200 OK\r\nx: \xff\r\n\r\nabc"
    async with FakeEngine() as engine:
        data, was_reset = await exchange(engine.url, chat(fake={"raw": raw}))
    assert (data, was_reset) == (raw.encode("latin-1"), False)


async def test_injected_errors_stop_after_their_count() -> None:
    async with FakeEngine(FakeOptions(error_rate=1, error_status=502, fault_count=2)) as engine:
        statuses = [(await post(engine.url, CHAT, chat())).status_code for _ in range(4)]
    assert statuses == [502, 502, 200, 200]


async def test_a_rate_meets_its_share_of_requests_the_same_for_the_same_seed() -> None:
    async def statuses(seed: int) -> list[int]:
        async with FakeEngine(FakeOptions(error_rate=0.5, seed=seed)) as engine:
            return [(await post(engine.url, CHAT, chat())).status_code for _ in range(20)]

    first = await statuses(1)
    assert 3 <= first.count(500) <= 17
    assert await statuses(1) == first


@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_connection_dies_after_so_many_tokens(stream: bool, how: str) -> None:
    async with FakeEngine(FakeOptions(die_after=3, die_how=Death(how))) as engine:
        data, was_reset = await exchange(engine.url, chat(stream=stream))
        assert engine.stats.faulted == 1
        assert engine.stats.running == 0
    assert was_reset is (how == "rst")
    assert data.startswith(b"HTTP/1.1 200")
    if stream:
        assert data.count(b'"content":"') == 1 + 3
        assert b"[DONE]" not in data


async def test_a_death_after_no_token_comes_before_the_head() -> None:
    async with FakeEngine() as engine:
        data, _ = await exchange(engine.url, chat(fake={"die_after": 0}))
    assert data == b""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("where", list(Hang))
async def test_a_hung_answer_goes_on_when_released(where: Hang, stream: bool) -> None:
    async with FakeEngine(FakeOptions(hang=where, hang_after=2)) as engine:
        wire = await Wire.open(engine.url)
        wire.send(CHAT, chat(stream=stream))
        await engine.hung()
        if where is not Hang.BEFORE:
            assert (await wire.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert (engine.stats.open, engine.stats.running, engine.stats.completed) == (1, 1, 0)
        engine.release()
        data, _ = await wire.rest()
        await wire.aclose()
        assert engine.stats.completed == 1
    assert data.endswith(b"0\r\n\r\n" if stream else b"}")


async def test_a_hung_answer_ends_when_its_client_leaves() -> None:
    async with FakeEngine() as engine:
        wire = await Wire.open(engine.url)
        wire.send(CHAT, chat(stream=True, fake={"hang": "mid"}))
        await engine.hung()
        await wire.aclose()
        await engine.aborted_at_least(1)
        await engine.idle()
        assert (engine.stats.hung, engine.stats.running) == (0, 0)


MARKS: dict[tuple[Malformed, bool], tuple[bytes, bytes]] = {
    # (what must be there, what must not)
    (Malformed.BAD_JSON, True): (b"[DONE]", b"HTTQ"),
    (Malformed.BAD_JSON, False): (b"]]", b"HTTQ"),
    (Malformed.NO_DONE, True): (b"0\r\n\r\n", b"[DONE]"),
    (Malformed.NO_TERMINATOR, True): (b"[DONE]", b"0\r\n\r\n"),
    (Malformed.WRONG_LENGTH, True): (b"content-length: 1000000000", b"chunked"),
    (Malformed.BAD_CHUNK, True): (b"\r\nzz\r\n", b'finish_reason":"stop'),
    (Malformed.BAD_CHUNK, False): (b"\r\nzz\r\n", b"HTTQ"),
    (Malformed.ERROR_200, True): (b'data: {"error":', b"choices"),
    (Malformed.ERROR_200, False): (b'{"error":', b"choices"),
    (Malformed.NULL_CHOICES, True): (b'"choices":null', b"HTTQ"),
    (Malformed.NULL_CHOICES, False): (b'"choices":null', b"HTTQ"),
    (Malformed.GARBAGE_STATUS, True): (b"HTTQ/9.9 banana", b"HTTP"),
    (Malformed.GARBAGE_STATUS, False): (b"HTTQ/9.9 banana", b"HTTP"),
}


@pytest.mark.parametrize(("kind", "stream"), MARKS, ids=str)
async def test_a_malformed_answer_is_wrong_in_the_way_asked_for(kind: Malformed, stream: bool) -> None:
    present, absent = MARKS[kind, stream]
    async with FakeEngine(FakeOptions(malformed=kind)) as engine:
        data, was_reset = await exchange(engine.url, chat(stream=stream))
        assert engine.stats.running == 0
    assert present in data
    assert absent not in data
    assert not was_reset


async def test_one_event_of_a_bad_json_stream_does_not_parse() -> None:
    async with FakeEngine() as engine:
        text = (await post(engine.url, CHAT, chat(stream=True, fake={"malformed": "bad-json"}))).text
    broken = 0
    for part in text.removesuffix("data: [DONE]\n\n").split("\n\n")[:-1]:
        try:
            json.loads(part.removeprefix("data: "))
        except ValueError:
            broken += 1
    assert broken == 1


@pytest.mark.parametrize(("kind", "difference"), [("no-terminator", 10), ("wrong-length", -10)])
async def test_a_wrong_content_length_is_off_by_ten(kind: str, difference: int) -> None:
    async with FakeEngine() as engine:
        data, _ = await exchange(engine.url, chat(fake={"malformed": kind}))
    head, body = data.split(b"\r\n\r\n", 1)
    told = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    assert told - len(body) == difference


@pytest.mark.parametrize("split", ["random", "byte", "wire"])
@pytest.mark.parametrize("fake", [{}, {"ttft": 0.001, "itl": 0.0005, "output_tokens": 3}])
async def test_a_split_stream_is_the_same_stream(split: str, fake: dict[str, Any]) -> None:
    async with FakeEngine() as engine:
        whole = (await post(engine.url, CHAT, chat(stream=True, fake=fake))).text
        cut = (await post(engine.url, CHAT, chat(stream=True, fake=fake | {"split": split}))).text
        cut_json = (await post(engine.url, CHAT, chat(fake={"split": split}))).json()
        assert engine.stats.completed == 3

    def deltas(text: str) -> list[Any]:
        return [event["choices"][0]["delta"] for event in events(text)]

    assert deltas(cut) == deltas(whole)
    assert cut_json["choices"]


async def test_a_byte_split_sends_one_byte_per_chunk() -> None:
    async with FakeEngine() as engine:
        data, _ = await exchange(engine.url, chat(stream=True, fake={"split": "byte", "sse": "data: x\n\n"}))
    body = data.split(b"\r\n\r\n", 1)[1]
    assert body == b"".join(b"1\r\n%c\r\n" % byte for byte in b"data: x\n\n") + b"0\r\n\r\n"


async def test_a_given_transcript_is_cut_where_asked() -> None:
    async with FakeEngine() as engine:
        fake = {"sse": "data: 1\n\ndata: [DONE]\n\n", "cuts": [3, 10, 999]}
        data, _ = await exchange(engine.url, chat(stream=True, fake=fake))
    assert data.endswith(b"3\r\ndat\r\n7\r\na: 1\n\nd\r\nd\r\nata: [DONE]\n\n\r\n0\r\n\r\n")


async def test_a_client_that_leaves_in_the_middle_of_a_split_stream_ends_it() -> None:
    async with FakeEngine() as engine:
        wire = await Wire.open(engine.url)
        wire.send(CHAT, chat(stream=True, ignore_eos=True, max_tokens=2000, fake={"split": "byte"}))
        await wire.until(b"\r\n\r\n")
        await wire.aclose()
        await engine.aborted_at_least(1)
        await engine.idle()


async def test_a_slow_reader_stops_the_engine_from_writing() -> None:
    async with FakeEngine(FakeOptions(context_tokens=400_000, kv_tokens=400_000)) as engine:
        wire = await Wire.open(engine.url)
        wire.send(CHAT, chat(stream=True, ignore_eos=True, max_tokens=60_000))
        await engine.stalled()
        sent = engine.stats.events
        await get(engine.url, "/load")
        assert engine.stats.events == sent < 60_000
        data, _ = await wire.rest()
        await wire.aclose()
        assert data.endswith(b"0\r\n\r\n")
        assert (engine.stats.completed, engine.stats.stalled) == (1, 0)


async def test_a_slow_reader_that_leaves_stalls_nothing_any_more() -> None:
    async with FakeEngine(FakeOptions(context_tokens=400_000, kv_tokens=400_000)) as engine:
        wire = await Wire.open(engine.url)
        wire.send(CHAT, chat(stream=True, ignore_eos=True, max_tokens=60_000))
        await engine.stalled()
        await wire.aclose()
        await engine.aborted_at_least(1)
        await engine.idle()
        assert engine.stats.stalled == 0


async def test_fields_outside_the_openai_api_are_refused_when_told_so() -> None:
    async with FakeEngine(FakeOptions(refuse_unknown_fields=True)) as engine:
        refused = await post(engine.url, CHAT, chat(top_k=3))
        taken = await post(engine.url, CHAT, chat(temperature=0.5, fake={"text": "yes"}))
    assert refused.status_code == 422
    assert refused.json() == {"detail": "Unexpected keys in the request: top_k"}
    assert taken.json()["choices"][0]["message"]["content"] == "yes"


async def test_a_key_is_wanted_under_v1_only() -> None:
    async with FakeEngine(FakeOptions(api_key="sk-1")) as engine:
        refused = await post(engine.url, CHAT, chat())
        taken = await post(engine.url, CHAT, chat(), authorization="Bearer sk-1")
        assert (await get(engine.url, "/health")).status_code == 200
    assert (refused.status_code, refused.json()) == (401, {"error": "Unauthorized"})
    assert taken.status_code == 200


async def test_an_engine_that_starts_is_not_ready() -> None:
    async with FakeEngine(FakeOptions(startup_s=60)) as engine:
        assert (await get(engine.url, "/health")).status_code == 503
        assert (await post(engine.url, CHAT, chat())).status_code == 503
        assert (await get(engine.url, "/v1/models")).status_code == 200
        engine.configure(startup_s=0.0, health_status=500)
        assert (await get(engine.url, "/health")).status_code == 500


async def test_a_new_connection_is_left_unread_for_as_long_as_told() -> None:
    async with FakeEngine(FakeOptions(slow_accept_s=0.05)) as engine:
        assert (await get(engine.url, "/health")).elapsed.total_seconds() >= 0.045
        engine.configure(slow_accept_s=60.0)
        wire = await Wire.open(engine.url)
        wire.send(CHAT, chat())
        while engine.stats.connections < 2:
            await get_nothing()
        assert engine.stats.requests == 0
        await wire.aclose()


async def get_nothing() -> None:
    import asyncio

    await asyncio.sleep(0)
