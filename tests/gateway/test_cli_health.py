"""`headrace health` as containers and scripts call it, against servers on loopback."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import app


def health(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, ["health", *arguments], env={"HEADRACE_HEALTH_URL": None, **(env or {})})


@contextmanager
def answering(answer: bytes, tls: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[bytes]]]:
    """Answer one connection so, whatever it asks; yields the port and what was asked. Empty: never answer."""
    asked: list[bytes] = []
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            plain, _ = listener.accept()
            with plain, tls.wrap_socket(plain, server_side=True) if tls else plain as connection:
                asked.append(connection.recv(4096))
                if answer:
                    connection.sendall(answer)
                else:
                    over.wait()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], asked
        finally:
            over.set()
            thread.join()


def http(status: str, body: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


def test_a_gateway_that_is_ready_gives_0_and_says_so() -> None:
    with answering(http("200 OK", '{"status":\n"ok"}')) as (port, asked):
        result = health(f"http://127.0.0.1:{port}")
    assert (result.exit_code, result.stdout) == (0, f'http://127.0.0.1:{port}/health/ready: {{"status": "ok"}}\n')
    assert asked[0].startswith(b"GET /health/ready HTTP/1.1\r\n")


def test_a_path_is_asked_as_it_is_given() -> None:
    with answering(http("204 No Content")) as (port, asked):
        result = health(f"http://127.0.0.1:{port}/health?deep=1")
    assert (result.exit_code, result.stdout) == (0, f"http://127.0.0.1:{port}/health?deep=1: 204\n")
    assert asked[0].startswith(b"GET /health?deep=1 ")


def test_the_address_may_come_from_the_environment() -> None:
    with answering(http("200 OK")) as (port, _):
        assert health(env={"HEADRACE_HEALTH_URL": f"http://localhost:{port}/"}).exit_code == 0


def test_no_proxy_is_asked() -> None:
    with answering(http("200 OK")) as (port, _):
        assert health(f"http://127.0.0.1:{port}", env={"HTTP_PROXY": "http://127.0.0.1:9"}).exit_code == 0


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (http("503 Service Unavailable", '{"status":"draining"}'), '503 {"status":"draining"}'),
        (http("302 Found"), "302"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no HTTP answer (BadStatusLine)"),
    ],
)
def test_any_other_answer_gives_1_and_says_why(answer: bytes, why: str) -> None:
    with answering(answer) as (port, _):
        result = health(f"http://127.0.0.1:{port}")
    assert (result.exit_code, result.stderr) == (1, f"http://127.0.0.1:{port}/health/ready: {why}\n")


def test_silence_is_waited_for_no_longer_than_told() -> None:
    with answering(b"") as (port, _):
        result = health(f"http://127.0.0.1:{port}", "--timeout", "0.05")
    assert result.exit_code == 1
    assert "no answer within 0.05 s; --timeout changes that" in result.stderr


def test_nobody_there_is_said_without_credentials() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result = health(f"http://me:secret@127.0.0.1:{port}")
    assert (result.exit_code, result.stderr) == (1, f"http://127.0.0.1:{port}/health/ready: Connection refused\n")


def test_a_certificate_for_another_host_is_taken_on_loopback(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=llm.example.org "
        f"-keyout {key} -out {certificate}".split(),
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with answering(http("200 OK"), context) as (port, _):
        assert health(f"https://127.0.0.1:{port}").exit_code == 0


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://127.0.0.1", "http://"])
def test_what_is_no_url_is_a_wrong_call(url: str) -> None:
    result = health(url)
    assert result.exit_code == 2
    assert "is not of the form http://HOST:PORT" in result.stderr.replace("\n", "")


def test_a_port_that_cannot_be_is_a_failure() -> None:
    result = health("http://127.0.0.1:99999")
    assert (result.exit_code, "Port out of range" in result.stderr) == (1, True)
