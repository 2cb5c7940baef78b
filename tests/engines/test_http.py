"""The engine client against real sockets: what it sends, what it makes of answers, silence, deaths and hang-ups."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from engines.base import (
    EngineDied,
    EngineError,
    EngineProtocolError,
    EngineRequest,
    EngineTimeout,
    EngineUnreachable,
    Operation,
    Timeouts,
)
from engines.http import Endpoint, HttpEngine
from tests.engines.server import Peer, engine_server

Script = Callable[[Peer], Awaitable[None]]
ASK = EngineRequest(Operation.CHAT, b'{"model":"m"}', headers=b"x-request-id: r1\r\n")
LIMITS = Timeouts(connect_s=5, total_s=20)
HI = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@asynccontextmanager
async def client(script: Script) -> AsyncIterator[HttpEngine]:
    async with engine_server(script) as url:
        engine = HttpEngine(Endpoint("e", url, {"authorization": "Bearer engine-key"}))
        try:
            yield engine
        finally:
            await engine.aclose()


async def whole(engine: HttpEngine, limits: Timeouts = LIMITS) -> bytes:
    response = await engine.send(ASK, limits)
    return await response.read(1 << 20)


class Collector:
    """A receiver that keeps everything and can be waited for."""

    def __init__(self) -> None:
        self.pieces: list[tuple[bytes, bytes | None]] = []
        self.ended = asyncio.Event()
        self.arrived = asyncio.Event()
        self.error: EngineError | None = None

    @property
    def body(self) -> bytes:
        return b"".join(payload for payload, _ in self.pieces)

    def on_data(self, payload: bytes, framed: bytes | None) -> None:
        self.pieces.append((payload, framed))
        self.arrived.set()

    def splice(self, chunk: bytes) -> bool:
        return False

    def on_end(self) -> None:
        assert not self.ended.is_set()
        self.ended.set()

    def on_error(self, error: EngineError) -> None:
        assert not self.ended.is_set()
        self.error = error
        self.ended.set()


class Splicer(Collector):
    """Takes whole chunks as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.spliced: list[bytes] = []

    def splice(self, chunk: bytes) -> bool:
        if not chunk.endswith(b"}\n\n\r\n"):
            return False
        self.spliced.append(chunk)
        self.arrived.set()
        return True


async def echo(peer: Peer) -> None:
    while request := await peer.request():
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(request), request))


async def test_a_request_goes_out_whole_and_its_connection_is_kept() -> None:
    async with client(echo) as engine:
        seen = await whole(engine)
        assert seen == (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: %b\r\nauthorization: Bearer engine-key\r\n"
            b"content-type: application/json\r\nx-request-id: r1\r\ncontent-length: 13\r\n\r\n"
            b'{"model":"m"}' % seen.split(b"host: ")[1].split(b"\r\n")[0]
        )
        assert repr(engine) == "<HttpEngine e idle=1>"
        await whole(engine)
        assert repr(engine._idle) == "[<Connection idle served=2>]"
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(whole(engine))
        assert repr(engine) == "<HttpEngine e idle=3>"
    assert repr(engine) == "<HttpEngine e idle=0>"


async def test_the_state_of_an_exchange_can_be_read() -> None:
    release = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM)
        await release.wait()
        await peer.send(b"2\r\nhi\r\n0\r\n\r\n")
        await peer.closed()

    async with client(script) as engine:
        response = await engine.send(ASK, LIMITS)
        assert repr(response) == "<Exchange open status=200>"
        assert response.last_data_s == 0.0
        release.set()
        assert await response.read(10) == b"hi"
        assert response.last_data_s > 0.0
        assert repr(response) == "<Exchange complete status=200>"
        response.abort()
        assert repr(response) == "<Exchange complete status=200>"
        assert repr(engine) == "<HttpEngine e idle=1>"


async def test_a_kept_connection_that_the_engine_closed_is_replaced_once() -> None:
    """The engine closes as the request goes out; the request is sent again, on a new connection."""
    connections = 0

    async def script(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await peer.request()
        await peer.send(HI)
        if await peer.request():
            peer.reset()

    async with client(script) as engine:
        assert await whole(engine) == b"hi"
        assert await whole(engine) == b"hi"
        assert connections == 2


async def test_a_request_that_kills_connections_is_not_shown_to_each_kept_one() -> None:
    dead = 0
    killing = False
    together = asyncio.Barrier(4)

    async def script(peer: Peer) -> None:
        nonlocal dead
        if not killing:
            await peer.request()
            await together.wait()
            await peer.send(HI)
        if await peer.request():
            dead += 1
            peer.reset()

    async with client(script) as engine:
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(whole(engine))
        assert repr(engine) == "<HttpEngine e idle=4>"
        killing = True
        with pytest.raises(EngineDied):
            await whole(engine)
        assert dead == 2


async def test_an_answer_that_began_is_never_asked_for_again() -> None:
    requests = 0

    async def script(peer: Peer) -> None:
        nonlocal requests
        while await peer.request():
            requests += 1
            if requests == 2:
                await peer.send(b"HTTP/1.1 2")
                return
            await peer.send(HI)

    async with client(script) as engine:
        await whole(engine)
        with pytest.raises(EngineDied, match="before its answer was complete"):
            await whole(engine)
        assert requests == 2


@pytest.mark.parametrize("tail", [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"x"])
async def test_bytes_after_an_answer_never_become_the_next_answer(tail: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HI + tail)
        await peer.closed()

    async with client(script) as engine:
        assert await whole(engine) == b"hi"
        assert repr(engine) == "<HttpEngine e idle=0>"
        assert await whole(engine) == b"hi"


async def test_bytes_that_arrive_at_an_idle_connection_close_it() -> None:
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HI)
        await asyncio.sleep(0.01)
        await peer.send(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
        await peer.closed()
        closed.set()

    async with client(script) as engine:
        assert await whole(engine) == b"hi"
        await asyncio.wait_for(closed.wait(), 5)
        assert repr(engine) == "<HttpEngine e idle=0>"
        assert await whole(engine) == b"hi"


@pytest.mark.parametrize(
    "answer", [HI.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), b"HTTP/1.0 200 OK\r\n\r\nhi"]
)
async def test_a_connection_that_the_engine_will_close_is_not_kept(answer: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)

    async with client(script) as engine:
        assert await whole(engine) == b"hi"
        assert repr(engine) == "<HttpEngine e idle=0>"


async def silent(peer: Peer) -> None:
    await peer.request()
    await peer.closed()


async def head_only(peer: Peer) -> None:
    await peer.request()
    await peer.send(STREAM)
    await peer.closed()


async def one_piece(peer: Peer) -> None:
    await peer.request()
    await peer.send(STREAM + b"2\r\nhi\r\n")
    await peer.closed()


async def dripping(peer: Peer) -> None:
    await peer.request()
    await peer.send(STREAM)
    while True:
        await peer.send(b"2\r\nhi\r\n")
        await asyncio.sleep(0.03)


@pytest.mark.parametrize(
    ("script", "limits", "phase"),
    [
        (silent, Timeouts(total_s=0.2), "total"),
        (silent, Timeouts(ttft_s=0.2, idle_s=0.05), "ttft"),
        (head_only, Timeouts(ttft_s=0.2), "ttft"),
        (head_only, Timeouts(ttft_s=0.2, idle_s=0.05, total_s=3), "ttft"),
        (one_piece, Timeouts(ttft_s=0.1, idle_s=0.2), "idle"),
        (one_piece, Timeouts(idle_s=0.2, total_s=None), "idle"),
        (dripping, Timeouts(ttft_s=0.1, idle_s=0.1, total_s=0.2), "total"),
    ],
)
async def test_each_limit_fires_in_its_phase_and_closes_the_connection(
    script: Script, limits: Timeouts, phase: str
) -> None:
    """A10: within 100 ms of 0.2 s, wherever the caller waits."""
    async with client(script) as engine:
        began_s = time.monotonic()
        with pytest.raises(EngineTimeout, match=rf"within {phase} timeout of 0\.2 s") as caught:
            await whole(engine, limits)
        assert 0.19 <= time.monotonic() - began_s <= 0.3
        assert (caught.value.phase, caught.value.limit_s, caught.value.sent) == (phase, 0.2, True)
        assert repr(engine) == "<HttpEngine e idle=0>"


async def test_a_subscriber_is_told_of_a_limit() -> None:
    """A10"""
    async with client(one_piece) as engine:
        response = await engine.send(ASK, Timeouts(idle_s=0.1))
        seen = Collector()
        response.subscribe(seen)
        await asyncio.wait_for(seen.ended.wait(), 5)
        assert seen.body == b"hi"
        assert isinstance(seen.error, EngineTimeout)
        assert seen.error.phase == "idle"
        assert repr(response) == "<Exchange failed status=200>"


@pytest.mark.parametrize(("limits", "phase"), [(Timeouts(connect_s=0.2), "connect"), (Timeouts(total_s=0.2), "total")])
async def test_a_connection_that_does_not_come_about_is_given_up(limits: Timeouts, phase: str) -> None:
    """A10: a full accept queue leaves the handshake unanswered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fill = [socket.socket() for _ in range(4)]
        for one in fill:
            one.setblocking(False)
            one.connect_ex(address)
        engine = HttpEngine(Endpoint("e", f"http://127.0.0.1:{address[1]}"))
        began_s = time.monotonic()
        with pytest.raises(EngineTimeout, match=rf"within {phase} timeout of 0\.2 s") as caught:
            await engine.send(ASK, limits)
        assert 0.19 <= time.monotonic() - began_s <= 0.3
        assert caught.value.sent is (phase == "total")
        for one in fill:
            one.close()


async def test_the_total_limit_counts_from_before_the_connection() -> None:
    """A10: a slow handshake is part of the whole."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.closed()

    async with client(script) as engine:
        kept = engine._connect

        async def slow(limits: Timeouts) -> object:
            await asyncio.sleep(0.15)
            return await kept(limits)

        engine._connect = slow  # type: ignore[method-assign, assignment]
        began_s = time.monotonic()
        with pytest.raises(EngineTimeout):
            await whole(engine, Timeouts(total_s=0.3))
        assert 0.29 <= time.monotonic() - began_s <= 0.4


async def test_an_engine_that_is_not_there_is_unreachable() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        engine = HttpEngine(Endpoint("e", f"http://127.0.0.1:{port}"))
        with pytest.raises(EngineUnreachable, match=f"cannot connect to 127.0.0.1:{port}") as caught:
            await engine.send(ASK, LIMITS)
        assert not caught.value.sent
        assert not await engine.healthy()


async def test_a_host_name_that_no_resolver_takes_is_unreachable() -> None:
    engine = HttpEngine(Endpoint("e", f"http://{'x' * 64}.invalid"))
    with pytest.raises(EngineUnreachable):
        await engine.send(ASK, LIMITS)
    assert not await engine.healthy()


def test_a_url_without_a_host_is_refused() -> None:
    with pytest.raises(ValueError, match="has no host"):
        HttpEngine(Endpoint("e", "http://"))


def test_headers_of_an_endpoint_are_not_shown() -> None:
    assert "secret" not in repr(Endpoint("e", "http://x", {"authorization": "secret"}))


@pytest.mark.parametrize("script", [silent, head_only, one_piece])
async def test_cancelling_closes_the_connection(script: Script) -> None:
    """A01, A02: before the head, before the body, and within it."""
    there, gone = asyncio.Event(), asyncio.Event()

    async def watched(peer: Peer) -> None:
        there.set()
        await script(peer)
        gone.set()

    async with client(watched) as engine:

        async def call() -> None:
            response = await engine.send(ASK, LIMITS)
            try:
                await response.read(100)
            finally:
                response.abort()

        task = asyncio.create_task(call())
        await there.wait()
        await asyncio.sleep(0.02)
        began_s = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(gone.wait(), 5)
        assert time.monotonic() - began_s < 0.25
        assert repr(engine) == "<HttpEngine e idle=0>"


async def test_aborting_is_idempotent_and_wakes_who_reads() -> None:
    async with client(one_piece) as engine:
        response = await engine.send(ASK, LIMITS)
        reading = asyncio.create_task(response.read(100))
        await asyncio.sleep(0.01)
        for _ in range(3):
            response.abort()
        with pytest.raises(EngineDied, match="aborted"):
            await reading
        response.pause()
        response.resume()
        assert repr(response) == "<Exchange failed status=200>"
        assert repr(engine) == "<HttpEngine e idle=0>"


async def test_a_subscriber_that_aborts_hears_nothing_more() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM + b"2\r\nhi\r\n2\r\nho\r\n0\r\n\r\n")
        await peer.closed()

    class Quitter(Collector):
        def on_data(self, payload: bytes, framed: bytes | None) -> None:
            super().on_data(payload, framed)
            response.abort()

    async with client(script) as engine:
        response = await engine.send(ASK, LIMITS)
        seen = Quitter()
        response.subscribe(seen)
        await asyncio.wait_for(seen.arrived.wait(), 5)
        await asyncio.sleep(0.02)
        assert seen.body == b"hi"
        assert not seen.ended.is_set()


async def test_what_came_before_anybody_subscribed_is_not_lost() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM + b"2\r\nhi\r\n5;x\r\nthere\r\n0\r\n\r\n")

    async with client(script) as engine:
        response = await engine.send(ASK, LIMITS)
        await asyncio.sleep(0.02)
        seen = Collector()
        response.subscribe(seen)
        assert seen.ended.is_set()
        assert seen.pieces == [(b"hi", b"2\r\nhi\r\n"), (b"there", None)]
        assert seen.error is None


async def test_whole_chunks_are_offered_for_splicing_and_others_are_decoded() -> None:
    """A12"""
    event = b'data: {"a":1}\n\n'
    framed = b"%x\r\n%b\r\n" % (len(event), event)
    gate = asyncio.Queue[None]()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM)
        sent = (b"2\r\nhi\r\n", framed, framed + framed, framed[:5], framed[5:], b"f;x\r\n" + event + b"\r\n", framed)
        for piece in (*sent, b"0\r\n\r\n"):
            await gate.get()
            await peer.send(piece)
        await peer.closed()

    async with client(script) as engine:
        response = await engine.send(ASK, LIMITS)
        seen = Splicer()
        response.subscribe(seen)
        for _ in range(8):
            gate.put_nowait(None)
            await asyncio.sleep(0.01)
        await asyncio.wait_for(seen.ended.wait(), 5)
        assert seen.spliced == [framed, framed]
        assert seen.body == b"hi" + event * 4
        assert repr(engine) == "<HttpEngine e idle=1>"


async def test_a_paused_exchange_holds_the_engine_back_and_loses_nothing() -> None:
    """Back-pressure reaches the engine's socket; the idle limit does not count while nobody reads."""
    piece = b"%x\r\n%b\r\n" % (60_000, b"x" * 60_000)
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(STREAM)
        for _ in range(400):
            await peer.send(piece)
            sent += 1
        await peer.send(b"0\r\n\r\n")
        await peer.closed()

    async with client(script) as engine:
        response = await engine.send(ASK, Timeouts(idle_s=0.15, total_s=30))
        seen = Collector()
        response.subscribe(seen)
        await seen.arrived.wait()
        response.pause()
        response.pause()
        await asyncio.sleep(0.1)
        stuck = sent
        assert stuck < 400
        await asyncio.sleep(0.3)
        assert sent == stuck
        assert not seen.ended.is_set()
        response.resume()
        await asyncio.wait_for(seen.ended.wait(), 20)
        assert seen.error is None
        assert len(seen.body) == 400 * 60_000
        response.pause()
        assert repr(engine) == "<HttpEngine e idle=1>"
        assert engine._idle[0].paused is False


async def test_the_idle_limit_counts_again_after_a_pause() -> None:
    async with client(one_piece) as engine:
        response = await engine.send(ASK, Timeouts(idle_s=0.1))
        seen = Collector()
        response.subscribe(seen)
        await seen.arrived.wait()
        response.pause()
        await asyncio.sleep(0.25)
        assert not seen.ended.is_set()
        resumed_s = time.monotonic()
        response.resume()
        await asyncio.wait_for(seen.ended.wait(), 5)
        assert 0.09 <= time.monotonic() - resumed_s <= 0.25
        assert isinstance(seen.error, EngineTimeout)


async def test_an_answer_that_ends_while_paused_leaves_a_connection_that_reads() -> None:
    class Pauser(Collector):
        def on_data(self, payload: bytes, framed: bytes | None) -> None:
            super().on_data(payload, framed)
            response.pause()

    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.send(STREAM)
            await peer.send(b"2\r\nhi\r\n0\r\n\r\n")

    async with client(script) as engine:
        for _ in range(3):
            response = await engine.send(ASK, LIMITS)
            seen = Pauser()
            response.subscribe(seen)
            await asyncio.wait_for(seen.ended.wait(), 5)
        assert repr(engine) == "<HttpEngine e idle=1>"


async def test_pausing_an_engine_that_has_just_died_is_harmless() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM + b"2\r\nhi\r\n")
        peer.reset()

    async with client(script) as engine:
        response = await engine.send(ASK, LIMITS)
        seen = Collector()
        response.subscribe(seen)
        while not seen.ended.is_set():
            response.pause()
            response.resume()
            await asyncio.sleep(0.001)
        assert isinstance(seen.error, EngineDied)
        response.pause()
        response.resume()


async def test_a_body_over_the_limit_is_cut_off() -> None:
    async with client(dripping) as engine:
        response = await engine.send(ASK, LIMITS)
        with pytest.raises(EngineProtocolError, match="over 100 bytes"):
            await response.read(100)
        assert repr(response) == "<Exchange failed status=200>"


async def test_a_body_of_many_pieces_is_read_whole() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM)
        for _ in range(50):
            await peer.send(b"1\r\nx\r\n" * 200)
        await peer.send(b"0\r\n\r\n")

    async with client(script) as engine:
        assert len(await whole(engine)) == 10_000


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", STREAM + b"zz\r\n"]
)
async def test_an_answer_that_is_no_http_fails_and_closes(answer: bytes) -> None:
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)
        await peer.closed()
        closed.set()

    async with client(script) as engine:
        with pytest.raises(EngineProtocolError):
            await whole(engine)
        await asyncio.wait_for(closed.wait(), 5)


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200", STREAM, STREAM + b"5\r\nhel"])
@pytest.mark.parametrize("reset", [True, False])
async def test_a_death_is_told_wherever_it_comes(begun: bytes, reset: bool) -> None:
    """A08"""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(begun)
        await asyncio.sleep(0.02)
        if reset:
            peer.reset()

    async with client(script) as engine:
        with pytest.raises(EngineDied) as caught:
            await whole(engine)
        assert caught.value.sent


@pytest.mark.parametrize(
    ("answer", "healthy"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (HI, True),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi", False),
        (b"nonsense\r\n", False),
    ],
)
async def test_health_is_a_200_from_the_health_path(answer: bytes, healthy: bool) -> None:
    asked: list[bytes] = []

    async def script(peer: Peer) -> None:
        asked.append(await peer.request())
        await peer.send(answer)

    async with client(script) as engine:
        assert await engine.healthy() is healthy
    assert asked[0].startswith(b"GET /health HTTP/1.1\r\nhost: ")
    assert b"content-length" not in asked[0]


async def test_closing_an_engine_lets_an_exchange_finish_and_keeps_no_connection() -> None:
    release = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM)
        await release.wait()
        await peer.send(b"2\r\nhi\r\n0\r\n\r\n")
        await peer.closed()

    async with client(script) as engine:
        response = await engine.send(ASK, LIMITS)
        await engine.aclose()
        release.set()
        assert await response.read(10) == b"hi"
        assert repr(engine) == "<HttpEngine e idle=0>"


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CA of our own (ca.pem) and a server certificate for `localhost` (server.pem with its key)."""
    folder = tmp_path_factory.mktemp("ca")
    made = folder / "made"
    extensions = folder / "ext"
    extensions.write_text("subjectAltName=DNS:localhost\n")
    for command in (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ca",
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout server.key -out server.csr -subj /CN=localhost",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.crt -days 2 -extfile ext",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    made.write_bytes((folder / "server.crt").read_bytes() + (folder / "server.key").read_bytes())
    made.rename(folder / "server.pem")
    return folder


def tls(ca: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(ca / "server.pem")
    return context


async def test_an_https_engine_is_trusted_through_its_ca_file(ca: Path) -> None:
    async with engine_server(echo, tls(ca)) as url:
        engine = HttpEngine(Endpoint("e", url, ca_file=str(ca / "ca.pem")))
        assert (await whole(engine)).startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
        assert (await whole(engine)).endswith(b'{"model":"m"}')
        assert repr(engine._idle) == "[<Connection idle served=2>]"
        await engine.aclose()


async def test_an_https_engine_without_trust_or_under_another_name_is_unreachable(ca: Path) -> None:
    async with engine_server(echo, tls(ca)) as url:
        for endpoint in (
            Endpoint("e", url),
            Endpoint("e", url.replace("localhost", "127.0.0.1"), ca_file=str(ca / "ca.pem")),
        ):
            engine = HttpEngine(endpoint)
            with pytest.raises(EngineUnreachable, match=r"(?i)certificate.verify.failed"):
                await whole(engine)


async def test_a_url_names_host_path_and_version_as_people_write_them() -> None:
    async with engine_server(echo) as url:
        port = url.rpartition(":")[2]
        engine = HttpEngine(Endpoint("e", f"http://user:pw@127.0.0.1:{port}/base/v1/"))
        seen = await whole(engine)
        assert seen.startswith(b"POST /base/v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:%b\r\n" % port.encode())
        assert b"pw" not in seen
        await engine.aclose()
