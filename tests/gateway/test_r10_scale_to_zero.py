"""R10: a pool that sleeps holds the request, is woken once, and serves in a set wait; else 503 with `retry-after`."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from engines.commands import free_port
from gateway.wake_turn import WakeTurn
from gateway.waking import POLL_S
from tests.harness import (
    CHAT,
    MODEL,
    Json,
    Server,
    Watch,
    chat,
    config_of,
    engine_by_hand,
    nobody,
    serving,
    settled,
    streamed,
    text_in,
    whole,
)


def sleeping(url: str, wake: Json, *, wait_s: float = 20.0, pool: Json | None = None, **more: Any) -> Json:
    zero = {"wake": wake, "wait_s": wait_s, **more}
    return config_of(url, pool={"scale_to_zero": zero, "probe": {"every_s": None}, **(pool or {})})


def waking_command(port: int, marks: Path) -> list[str]:
    """`headrace fake-engine` on `port`, leaving a mark each time that it is run."""
    script = (
        "import sys; open(sys.argv[1], 'a').write('woken\\n'); sys.argv[:2] = ['headrace']; "
        "from gateway.cli import main; main()"
    )
    return [sys.executable, "-c", script, str(marks), "fake-engine", "--port", str(port), "--model", MODEL]


@pytest.fixture(autouse=True)
def state_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_STATE", str(tmp_path / "state"))


async def held(server: Server, count: int) -> None:
    """Wait until that many requests are held."""
    waker = server.gateway.pools["p"].waker
    assert waker is not None
    await settled(lambda: None if waker.held == count else waker, f"not {count} held", 10.0)


async def test_r10_a_command_wakes_the_pool_once_for_all_who_wait_and_all_are_served(tmp_path: Path) -> None:
    """R10: a real engine, started by the command."""
    port, marks = free_port("127.0.0.1"), tmp_path / "marks"
    config = sleeping(f"http://127.0.0.1:{port}", {"command": waking_command(port, marks)})
    async with serving(config) as server:
        answers = await asyncio.gather(*(server.post(CHAT, chat()) for _ in range(8)))
        assert [answer.status_code for answer in answers] == [200] * 8
        assert marks.read_text() == "woken\n"
        with Watch() as watch:
            assert (await server.post(CHAT, chat())).status_code == 200
        assert watch.within(0.5)
        assert marks.read_text() == "woken\n"
        assert "held=0 waking=False" in repr(server.gateway.pools["p"].waker)


async def test_r10_workers_of_one_machine_wake_the_pool_once_together(tmp_path: Path) -> None:
    port, marks = free_port("127.0.0.1"), tmp_path / "marks"
    config = sleeping(f"http://127.0.0.1:{port}", {"command": waking_command(port, marks)})
    async with serving(config) as one, serving(config) as two:
        answers = await asyncio.gather(*(server.post(CHAT, chat()) for server in (one, two, one, two)))
        assert [answer.status_code for answer in answers] == [200] * 4
    assert marks.read_text() == "woken\n"


async def test_r10_the_turn_to_wake_goes_to_the_next_when_it_is_given_back(tmp_path: Path) -> None:
    first, second, other = WakeTurn("p", tmp_path), WakeTurn("p", tmp_path), WakeTurn("q", tmp_path)
    assert [await first.take(), await first.take(), await second.take(), await other.take()] == [
        True,
        True,
        False,
        True,
    ]
    first.give_back()
    assert await second.take()
    file = tmp_path / "file"
    file.touch()
    unwritable = [WakeTurn("p", file), WakeTurn("p", file)]
    assert [await turn.take() for turn in unwritable] == [True, True]
    for turn in (first, second, other, *unwritable):
        turn.give_back()


async def test_r10_a_stream_is_kept_alive_while_it_is_held(tmp_path: Path) -> None:
    port = free_port("127.0.0.1")
    config = sleeping(f"http://127.0.0.1:{port}", {"command": waking_command(port, tmp_path / "marks")})
    config["server"]["sse_keepalive_s"] = 0.1
    async with serving(config) as server:
        answer = await server.post(CHAT, streamed())
        assert answer.status_code == 200
        assert answer.text.startswith(": ")
        assert text_in(answer.content)
        assert answer.text.endswith("data: [DONE]\n\n")


async def test_r10_a_webhook_wakes_the_pool() -> None:
    woken: list[tuple[str, str]] = []
    async with engine_by_hand() as engine:
        port = free_port("127.0.0.1")
        late: list[asyncio.Server] = []

        async def wake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = int(next(x for x in head.lower().split("\r\n") if x.startswith("content-length"))[16:])
            woken.append((head, (await reader.readexactly(length)).decode()))
            late.append(await asyncio.start_server(answering, "127.0.0.1", port))
            writer.write(whole(b"{}", "202 Accepted"))
            writer.close()

        async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if head.startswith(b"GET /health"):
                    writer.write(whole(b"ok"))
                    continue
                length = int(next(x for x in head.lower().split(b"\r\n") if x.startswith(b"content-length"))[16:])
                await reader.readexactly(length)
                body = {"choices": [{"message": {"content": "awake"}, "finish_reason": "stop"}]}
                writer.write(whole(json.dumps(body).encode()))

        hook = await asyncio.start_server(wake, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{hook.sockets[0].getsockname()[1]}/wake"
        try:
            how = {"webhook": url, "webhook_headers": {"authorization": "Bearer hook"}}
            async with serving(sleeping(f"http://127.0.0.1:{port}", how)) as server:
                answer = await server.post(CHAT, chat())
                assert answer.json()["choices"][0]["message"]["content"] == "awake"
        finally:
            for one in (hook, *late):
                one.close()
        assert len(woken) == 1
        head, body = woken[0]
        assert head.startswith("POST /wake ")
        assert "authorization: bearer hook" in head.lower()
        assert json.loads(body) == {"pool": "p"}
        assert engine.waiting == 0


async def test_r10_a_pool_that_does_not_wake_in_time_is_503_with_retry_after() -> None:
    with nobody() as url:
        async with serving(sleeping(url, {"command": ["true"]}, wait_s=0.5)) as server:
            with Watch() as watch:
                answer = await server.post(CHAT, chat())
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "no_healthy_backend"
            assert "scale_to_zero.wait_s" in answer.text
            assert int(answer.headers["retry-after"]) >= 1
            assert watch.between(0.4, 1.5)


@pytest.mark.parametrize("command", [["false"], ["/nowhere/at-all"]], ids=["fails", "is-not-there"])
async def test_r10_a_command_that_fails_is_told_at_once_and_is_left_alone_for_a_while(command: list[str]) -> None:
    with nobody() as url:
        async with serving(sleeping(url, {"command": command})) as server:
            for _ in range(2):
                with Watch() as watch:
                    answer = await server.post(CHAT, chat())
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_healthy_backend")
                assert "cannot be woken" in answer.text
                assert int(answer.headers["retry-after"]) >= 1
                assert watch.within(1.5)


async def test_r10_a_webhook_that_refuses_or_is_away_is_503() -> None:
    with nobody() as url:
        async with serving(sleeping(url, {"webhook": url})) as server:
            answer = await server.post(CHAT, chat())
            assert (answer.status_code, "cannot be woken" in answer.text) == (503, True)


async def test_a01_a_client_that_hangs_up_while_it_is_held_is_gone_within_250_ms() -> None:
    """A01, R10: and the pool is woken all the same, for those who come back."""
    with nobody() as url:
        async with serving(sleeping(url, {"command": ["sleep", "30"]}, hold_max=1)) as server:
            async with server.asking(streamed()) as wire:
                await held(server, 1)
                wire.reset()
                began_s = time.monotonic()
                await held(server, 0)
                assert time.monotonic() - began_s < 0.25
            assert server.gateway.pools["p"].waker is not None
            assert server.gateway.pools["p"].waker.waking


async def test_r10_no_more_requests_are_held_than_may_be() -> None:
    with nobody() as url:
        async with serving(sleeping(url, {"command": ["sleep", "30"]}, hold_max=1)) as server:
            async with server.asking(chat()):
                await held(server, 1)
                answer = await server.post(CHAT, chat())
                assert answer.status_code == 503
                assert answer.json()["error"]["code"] == "server_is_overloaded"
                assert "scale_to_zero.hold_max" in answer.text
                assert int(answer.headers["retry-after"]) >= 1
            await held(server, 0)


async def test_r10_a_replica_that_is_well_but_answers_no_request_is_not_woken_over_and_over() -> None:
    """Its breaker goes on working: it is asked no faster than its health path is."""
    asked: list[str] = []

    async def ill(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.decode().split(" ")[1])
        writer.write(whole(b"{}", "200 OK" if b"/health" in head else "500 Oh", "connection: close"))
        writer.close()

    engine = await asyncio.start_server(ill, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{engine.sockets[0].getsockname()[1]}"
    try:
        async with serving(sleeping(url, {"command": ["/nowhere/at-all"]}, wait_s=1.0)) as server:
            statuses = [(await server.post(CHAT, chat())).status_code for _ in range(5)]
            assert statuses[:3] == [502] * 3
            assert asked.count(CHAT) <= 5
            assert POLL_S > 0.1
    finally:
        engine.close()


async def test_r10_a_fallback_answers_while_the_pool_is_woken(tmp_path: Path) -> None:
    port, marks = free_port("127.0.0.1"), tmp_path / "marks"
    async with engine_by_hand() as engine:
        config = sleeping(f"http://127.0.0.1:{port}", {"command": waking_command(port, marks)})
        config["pools"]["q"] = {"urls": [engine.url]}
        config["deployments"]["other"] = {"variants": {"v": {"pools": ["q"]}}}
        config["deployments"][MODEL]["fallbacks"] = {"error": ["other"]}
        async with serving(config) as server, server.asking(chat()) as wire:
            turn = await engine.turn()
            turn.send(whole(b'{"choices":[{"message":{"content":"stand-in"},"finish_reason":"stop"}]}'))
            assert b"stand-in" in (await wire.answer()).body
            await settled(lambda: None if marks.exists() else "asleep", "the pool was not woken", 10.0)

            async def away() -> bool:
                async with httpx.AsyncClient(trust_env=False) as client:
                    try:
                        return not (await client.get(f"http://127.0.0.1:{port}/health")).is_success
                    except httpx.TransportError:
                        return True

            while await away():
                await asyncio.sleep(0.05)
