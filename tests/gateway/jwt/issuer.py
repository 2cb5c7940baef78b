"""An issuer of tokens on loopback, over TLS: discovery, a JWK Set that changes, and keys made on the spot."""

from __future__ import annotations

import asyncio
import datetime
import functools
import ipaddress
import json
import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gateway.clock import Clock, RealClock, wall_time_s
from gateway.config.jwt_options import JwtIssuer
from gateway.jwt.verifier import Verifier
from tests.harness import Json, whole

AUDIENCE = "headrace"
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
_CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}


def new_key(algorithm: str, bits: int = 2048) -> PrivateKey:
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm in _CURVES:
        return ec.generate_private_key(_CURVES[algorithm])
    return rsa.generate_private_key(65537, bits)


@functools.cache
def key_of(algorithm: str, kid: str) -> PrivateKey:
    """The same for every test, because making one takes a while."""
    return new_key(algorithm)


def jwk_of(key: PrivateKey, algorithm: str, **members: Any) -> Json:
    made: Json = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {k: v for k, v in (made | {"use": "sig"} | members).items() if v is not None}


def pem_of(key: PrivateKey) -> bytes:
    """Of the public key."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form)


class Issuer:
    """listed: its JWK Set. answers: in place of what it would say, by path. paths: what was asked for.

    held: while it is clear, no request is answered. heads: of the requests.
    """

    def __init__(self, ca_file: Path) -> None:
        self.ca_file = ca_file
        self.url = ""
        self.listed: list[Json] = []
        self.answers: dict[str, bytes] = {}
        self.paths: list[str] = []
        self.heads: list[str] = []
        self.held = asyncio.Event()
        self.held.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, kid: str = "one", algorithm: str = "ES256", **members: Any) -> PrivateKey:
        key = key_of(algorithm, kid)
        self.listed.append(jwk_of(key, algorithm, kid=kid, alg=algorithm, **members))
        return key

    def claims(self, **more: Any) -> Json:
        """Those of a good token; one that is given as None is left out."""
        now_s = int(wall_time_s())
        claims = {"iss": self.url, "aud": AUDIENCE, "sub": "alice", "org": "acme", "iat": now_s, "exp": now_s + 600}
        return {name: value for name, value in (claims | more).items() if value is not None}

    def token(self, kid: str | None = "one", algorithm: str = "ES256", head: Json | None = None, **more: Any) -> str:
        key = key_of(algorithm, kid or "one")
        return self.signed(self.claims(**more), key, algorithm, ({"kid": kid} if kid else {}) | (head or {}))

    def signed(self, claims: Json, key: Any, algorithm: str, head: Json) -> str:
        return jwt.encode(claims, key, algorithm, headers=head)

    def options(self, **more: Any) -> Json:
        """An entry of `auth.jwt` for it."""
        entry = {"name": "sso", "issuer": self.url, "audience": [AUDIENCE], "ca_file": str(self.ca_file)}
        return entry | {"claims": {"tenant": "org"}} | more

    @property
    def fetches(self) -> int:
        return self.paths.count("/jwks")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.heads.append(head)
                self.paths.append(head.split(" ")[1])
                await self.held.wait()
                writer.write(self._answer(self.paths[-1]))
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    def _answer(self, path: str) -> bytes:
        if path in self.answers:
            return self.answers[path]
        if path.endswith("/.well-known/openid-configuration"):
            return whole(json.dumps({"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}).encode())
        return whole(json.dumps({"keys": self.listed}).encode())

    async def aclose(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@functools.cache
def certificate(folder: Path) -> Path:
    """A file with a certificate for loopback, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    file = folder / "issuer.pem"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return file


@asynccontextmanager
async def issuer_running(ca_file: Path, port: int = 0) -> AsyncIterator[Issuer]:
    issuer = Issuer(ca_file)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(ca_file)
    server = await asyncio.start_server(issuer.serve, "127.0.0.1", port, ssl=context)
    issuer.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield issuer
    finally:
        server.close()
        await issuer.aclose()
        await server.wait_closed()


@asynccontextmanager
async def verifying(
    *entries: Json,
    wall_s: Callable[[], float] = wall_time_s,
    clock: Clock | None = None,
    folder: Path | None = None,
) -> AsyncIterator[Verifier]:
    """What a worker checks tokens with. entries: of `auth.jwt`."""
    issuers = [JwtIssuer.model_validate(entry) for entry in entries]
    verifier = Verifier(issuers, clock or RealClock(), random.Random(1), folder, wall_s)
    await verifier.start()
    try:
        yield verifier
    finally:
        await verifier.aclose()
