"""`headrace engines probe` against servers on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from engines.abilities import Ability
from engines.fake import FakeEngine, FakeOptions
from engines.probe import Report
from gateway.cli import app
from gateway.cli.engines import suggestion
from gateway.config.load import parse_config


def probe(*arguments: str, **env: str) -> Result:
    return CliRunner().invoke(app, ["engines", "probe", *arguments], env={"HEADRACE_ENGINE_KEY": None, **env})


@contextlib.contextmanager
def fake(**options: Any) -> Iterator[str]:
    """A fake engine in a thread of its own, for a command that runs its own loop."""
    url: list[str] = []
    up, over = threading.Event(), threading.Event()

    async def run() -> None:
        async with FakeEngine(msgspec.convert({"models": ("m",), **options}, FakeOptions)) as engine:
            url.append(engine.url)
            up.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert up.wait(10)
    try:
        yield url[0]
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def answering(status: int, body: bytes, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server that answers everything so."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    class Silent(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass

        def get_request(self) -> tuple[Any, Any]:
            plain, address = super().get_request()
            try:
                return (tls.wrap_socket(plain, server_side=True) if tls else plain), address
            except OSError:
                plain.close()
                raise

    with Silent(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http{'s' if tls else ''}://localhost:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificate and key of `localhost` in one file."""
    file = tmp_path_factory.mktemp("tls") / "localhost.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(file), "-out", str(file.with_suffix(".crt"))]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    file.write_text(file.read_text() + file.with_suffix(".crt").read_text())
    return file


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_a_server_is_named_with_what_it_can_do_and_how_to_configure_it() -> None:
    with fake() as url:
        result = probe(f"{url}/v1")
    assert result.exit_code == 0, result.output
    text = result.stdout
    assert text.startswith("the fake engine  (/fake/stats)\n  model m, context of 8192 tokens\n")
    for name in ("chat", "streaming", "usage in streams", "tools", "embeddings", "tokenize"):
        assert f"\n  {name:<16}  yes" in text
    assert "could not be told: version" in text
    config = parse_config(text.partition("\n\n")[2])
    assert config.pools["fake"].urls == [url]
    assert config.deployments["m"].variants["default"].pools == ["fake"]


def test_as_json_it_has_everything_for_a_program() -> None:
    with fake() as url:
        result = probe(url, "--json")
    report = json.loads(result.stdout)
    assert (report["server"], report["kind"], report["url"]) == ("fake", "fake", url)
    assert report["abilities"]["streaming"]["able"] is True
    assert report["unknown"] == ["version"]
    assert parse_config(report["yaml"]).pools["fake"].urls == [url]


def test_looking_only_sends_no_request_that_costs_tokens() -> None:
    with fake(hang="before") as url:
        result = probe(url, "--look-only", "--json")
    assert json.loads(result.stdout)["abilities"] == {}


def test_a_server_without_usage_is_told_to_give_none() -> None:
    with fake(no_usage=True) as url:
        result = probe(url, "--json")
    abilities = json.loads(result.stdout)["abilities"]
    assert abilities["usage in streams"] == {"able": False, "detail": "none with stream_options.include_usage"}
    assert abilities["chat"]["detail"] == "without usage"


def test_what_fails_is_not_taken_for_a_no() -> None:
    with fake(error_rate=1.0, error_status=500) as url:
        result = probe(url, "--json")
    report = json.loads(result.stdout)
    assert report["abilities"]["chat"]["able"] is None
    assert report["abilities"]["usage in streams"] == {"able": None, "detail": "it does not stream"}
    assert {"chat", "streaming"} <= set(report["unknown"])


def test_a_stream_that_fails_is_a_no_with_its_error() -> None:
    with fake(malformed="error-200") as url:
        result = probe(url, "--json")
    assert json.loads(result.stdout)["abilities"]["streaming"]["able"] is not True


def test_no_answer_in_time_leaves_the_question_open() -> None:
    with fake(hang="before") as url:
        result = probe(url, "--timeout", "0.3")
    assert result.exit_code == 0
    assert "chat              not clear" in result.stdout


@pytest.mark.parametrize("arguments", [(), ("--key", "wrong")])
def test_a_server_that_wants_a_key_says_how_to_give_it(arguments: tuple[str, ...]) -> None:
    with fake(api_key="right") as url:
        result = probe(url, *arguments)
    assert result.exit_code == 1
    expected = "the server refuses the key (401)" if arguments else "the server wants a key (401); set HEADRACE_ENGINE"
    assert f"error: {url}: {expected}" in result.stderr
    assert "wrong" not in result.stderr


def test_a_key_from_the_environment_is_sent_and_not_shown() -> None:
    with fake(api_key="right") as url:
        result = probe(url, HEADRACE_ENGINE_KEY="right")
    assert result.exit_code == 0
    assert "right" not in result.stdout
    assert "engine: {kind: fake, api_key: '${ENGINE_API_KEY}'}" in result.stdout


def test_where_nobody_listens_it_says_so() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        result = probe(url, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"].startswith(f"{url}: no connection (Connection refused)")


def test_a_certificate_that_nobody_knows_is_told_and_may_be_trusted(certificate: Path) -> None:
    with answering(200, b'{"data": []}', server_context(certificate)) as url:
        refused = probe(url)
        trusted = probe(url, "--ca-file", str(certificate))
        missing = probe(url, "--ca-file", "/none.pem")
    assert "its certificate is not trusted" in refused.stderr
    assert "--ca-file names the PEM bundle" in refused.stderr
    assert trusted.exit_code == 0, trusted.stderr
    assert "an OpenAI-compatible server" in trusted.stdout
    assert missing.exit_code == 1
    assert "No such file" in missing.stderr


def test_the_wrong_scheme_is_told_both_ways(certificate: Path) -> None:
    with answering(200, b"") as url:
        assert "does not speak TLS" in probe(url.replace("http:", "https:")).stderr
    with answering(200, b"", server_context(certificate)) as url:
        assert "if it serves HTTPS" in probe(url.replace("https:", "http:")).stderr


def test_a_server_that_lists_nothing_can_be_asked_for_a_model() -> None:
    with answering(404, b'{"detail": "Not Found"}') as url:
        result = probe(url, "--model", "/models/m")
    assert "chat              no         404" in result.stdout
    assert '"m": {variants: {default: {pools: [openai], model: "/models/m"}}}' in result.stdout


def test_a_server_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        result = probe(f"http://127.0.0.1:{listener.getsockname()[1]}", "--timeout", "0.2")
    assert "no answer within 0.2 s; --timeout changes that" in result.stderr


def test_what_is_no_url_is_refused() -> None:
    result = probe("localhost:8000")
    assert result.exit_code == 2


def test_a_long_list_of_models_is_cut_and_another_version_than_tested_is_told() -> None:
    with fake(models=tuple(f"m{number}" for number in range(12))) as url:
        result = probe(url, "--look-only")
    assert "… and 2 more models" in result.stdout


def test_names_that_no_deployment_can_have_are_made_fit() -> None:
    cards: Callable[[str], Any] = lambda name: {"id": name}  # noqa: E731
    report = msgspec.convert(
        {
            "url": "http://h",
            "server": "vllm",
            "title": "vLLM",
            "kind": "vllm",
            "version": "0.1",
            "evidence": [],
            "models": [cards("/data/a b"), cards("org/m")],
            "abilities": {"chat": Ability(True)},
            "tested": "0.32.0",
        },
        Report,
    )
    config = parse_config(suggestion(report, keyed=False))
    assert {name: one.variants["default"].model for name, one in config.deployments.items()} == {
        "a-b": "/data/a b",
        "m": "org/m",
    }
    assert report.unknown == ["context length"]
