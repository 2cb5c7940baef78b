"""TLS to the client and to the engine."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness import (
    CHAT,
    DONE,
    FINISH,
    SSE_HEAD,
    Json,
    Server,
    chat,
    config_of,
    engine_by_hand,
    engine_running,
    nobody,
    serving,
    settled,
    streamed,
    text_in,
    token,
)


@dataclass(frozen=True)
class Certificate:
    cert: Path
    key: Path

    def serving(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.cert, self.key)
        return context

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.cert))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder = tmp_path_factory.mktemp("tls")
    made = Certificate(folder / "cert.pem", folder / "key.pem")
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        [*command.split(), "-addext", names, "-keyout", str(made.key), "-out", str(made.cert)],
        check=True,
        capture_output=True,
    )
    return made


def over_tls(certificate: Certificate, *engines: object, **server: object) -> Json:
    tls = {"cert": str(certificate.cert), "key": str(certificate.key)}
    return config_of(*engines, server={"tls": tls} | server)  # type: ignore[arg-type]


def trusted(server: Server, certificate: Certificate) -> Server:
    server.trust = certificate.trusting()
    return server


async def test_a_client_is_served_over_tls(certificate: Certificate) -> None:
    async with engine_running() as engine, serving(over_tls(certificate, engine)) as server:
        trusted(server, certificate)
        assert server.url.startswith("https://")
        for body in (chat(), streamed()):
            assert (await server.post(CHAT, body)).status_code == 200


async def test_a01_a_hang_up_over_tls_frees_the_engine(certificate: Certificate) -> None:
    async with engine_running() as engine, serving(over_tls(certificate, engine)) as server:
        engine.hold()
        async with trusted(server, certificate).asking(streamed()) as wire:
            await engine.arrived()
            wire.reset()
            await settled(lambda: not engine.stats.aborted, "the engine still works", 0.25)


async def test_a12_events_over_tls_are_flushed_one_by_one(certificate: Certificate) -> None:
    async with (
        engine_by_hand() as engine,
        serving(over_tls(certificate, engine.url)) as server,
        trusted(server, certificate).asking(streamed()) as wire,
    ):
        turn = await engine.turn()
        turn.send(SSE_HEAD)
        for number in range(5):
            turn.events(token(f"t{number}"))
            if not number:
                await wire.read_head()
            assert await wire.read_chunk() == token(f"t{number}")
        turn.events(FINISH, DONE)
        turn.end()
        assert await wire.read_body() == FINISH + DONE


async def test_a_refused_request_over_tls_ends_cleanly(certificate: Certificate) -> None:
    async with (
        engine_running() as engine,
        serving(over_tls(certificate, engine, max_body_bytes=2000)) as server,
        trusted(server, certificate).asking(b"x" * 3000) as wire,
    ):
        answer = await wire.answer()
        assert answer.status == 413
        assert await wire.rest() == (b"", False)


async def test_plain_http_on_the_tls_port_harms_nobody(certificate: Certificate) -> None:
    async with engine_running() as engine, serving(over_tls(certificate, engine)) as server:
        async with server.asking(chat()) as wire:
            await wire.rest()
        trusted(server, certificate)
        assert (await server.post(CHAT, chat())).status_code == 200


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_an_engine_is_asked_over_tls(certificate: Certificate, stream: bool) -> None:
    options = {"ca_file": str(certificate.cert)}
    async with (
        engine_by_hand(certificate.serving()) as engine,
        serving(config_of(engine.url, engine=options)) as server,
        server.client() as client,
    ):
        for _ in range(2):
            task = asyncio.create_task(client.post(CHAT, json=chat(stream=stream)))
            turn = await engine.turn()
            if stream:
                turn.send(SSE_HEAD)
                turn.events(token("a"), token("b"), FINISH, DONE)
                turn.end()
                assert text_in((await task).content) == "ab"
            else:
                body = b'{"choices":[{"message":{"content":"a"}}]}'
                turn.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
                assert (await task).content == body


async def test_an_engine_that_nobody_vouches_for_is_not_asked(certificate: Certificate) -> None:
    async with engine_by_hand(certificate.serving()) as engine, serving(config_of(engine.url)) as server:
        answer = await server.post(CHAT, chat())
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_healthy_backend")
        assert engine.waiting == 0


async def test_an_engine_with_another_name_is_not_asked(certificate: Certificate) -> None:
    options = {"ca_file": str(certificate.cert)}
    async with engine_by_hand(certificate.serving()) as engine:
        url = engine.url.replace("localhost", "127.0.0.2")
        async with serving(config_of(url, engine=options)) as server:
            assert (await server.post(CHAT, chat())).status_code == 503
            assert engine.waiting == 0


async def test_an_engine_that_does_not_speak_tls_is_unreachable(certificate: Certificate) -> None:
    options = {"ca_file": str(certificate.cert)}
    async with engine_running() as engine:
        url = engine.url.replace("http://", "https://")
        async with serving(config_of(url, engine=options, timeouts={"connect_s": 1.0})) as server:
            answer = await server.post(CHAT, chat())
            assert answer.status_code in (503, 504)


async def test_a_dead_tls_engine_is_unreachable(certificate: Certificate) -> None:
    with nobody() as url:
        async with serving(config_of(url.replace("http://", "https://"))) as server:
            assert (await server.post(CHAT, chat())).status_code == 503


async def test_a01_a_hang_up_frees_an_engine_behind_tls(certificate: Certificate) -> None:
    options = {"ca_file": str(certificate.cert)}
    async with (
        engine_by_hand(certificate.serving()) as engine,
        serving(config_of(engine.url, engine=options)) as server,
        server.asking(streamed()) as wire,
    ):
        turn = await engine.turn()
        wire.reset()
        async with asyncio.timeout(0.25):
            await turn.gone.wait()
