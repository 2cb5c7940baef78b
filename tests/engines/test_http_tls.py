"""Engines behind TLS."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from engines.base import EngineUnreachable
from engines.http import Endpoint, HttpEngine
from tests.engines.exchange import echo, whole
from tests.engines.server import engine_server


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
