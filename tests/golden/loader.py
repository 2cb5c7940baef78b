"""Golden recordings as typed cases: what was asked of a real engine, and the bytes that came back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

ROOT = Path(__file__).parent
DONE = b"data: [DONE]"


class Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The sidecar of one recording."""

    engine: str
    """vllm or llamacpp."""
    version: str
    method: str
    path: str
    recorded: str
    """UTC date."""
    closed: bool
    """Whether the engine closed the connection after the answer."""
    pieces: list[tuple[int, float]]
    """Of each read from the socket: offset of its end in the raw bytes, seconds since the request was sent."""


@dataclass(frozen=True)
class Case:
    """One recorded exchange. `raw` is head and body exactly as they came from the socket."""

    name: str
    meta: Meta
    request: bytes
    """Body of the request; empty for a GET."""
    raw: bytes

    @property
    def engine(self) -> str:
        return self.meta.engine

    @property
    def id(self) -> str:
        """Engine, version and name: a pytest id."""
        return f"{self.meta.engine}-{self.meta.version}/{self.name}"

    @cached_property
    def head(self) -> bytes:
        """Status line and headers, with the empty line that ends them."""
        return self.raw[: self.raw.index(b"\r\n\r\n") + 4]

    @property
    def framed_body(self) -> bytes:
        """The body as it was sent, chunk framing included."""
        return self.raw[len(self.head) :]

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1])

    @cached_property
    def headers(self) -> dict[bytes, bytes]:
        """Names in lower case; of a repeated header the last one."""
        lines = self.head.rstrip(b"\r\n").split(b"\r\n")[1:]
        pairs = (line.split(b":", 1) for line in lines)
        return {name.lower(): value.strip() for name, value in pairs}

    @property
    def chunked(self) -> bool:
        return self.headers.get(b"transfer-encoding", b"").lower() == b"chunked"

    @cached_property
    def chunks(self) -> list[bytes]:
        """Payloads of the HTTP chunks; of a body with a length, the body alone.

        Raises:
            ValueError: the body is not what its head announces.
        """
        if self.chunked:
            return dechunk(self.framed_body)
        if len(self.framed_body) != int(self.headers[b"content-length"]):
            raise ValueError(f"{self.id}: the body is not as long as its content-length says")
        return [self.framed_body] if self.framed_body else []

    @cached_property
    def body(self) -> bytes:
        """The body without its framing."""
        return b"".join(self.chunks)

    @property
    def streams(self) -> bool:
        """Whether the answer is an event stream; a refused request to stream is not."""
        return self.headers.get(b"content-type", b"").startswith(b"text/event-stream")

    @cached_property
    def events(self) -> list[bytes]:
        """The events of a stream, each without the blank line that ends it."""
        return self.body.removesuffix(b"\n\n").split(b"\n\n") if self.streams else []


def dechunk(framed: bytes) -> list[bytes]:
    """Payloads of a whole chunked body.

    Raises:
        ValueError: it is malformed, unfinished, or something follows it.
    """
    payloads: list[bytes] = []
    at = 0
    while True:
        line_end = framed.index(b"\r\n", at)
        size = int(framed[at:line_end], 16)
        start, end = line_end + 2, line_end + 2 + size
        if framed[end : end + 2] != b"\r\n":
            raise ValueError(f"the chunk at byte {at} is not {size} bytes long")
        at = end + 2
        if size == 0:
            break
        payloads.append(framed[start:end])
    if at != len(framed):
        raise ValueError(f"{len(framed) - at} bytes follow the last chunk")
    return payloads


def save(case: Case, root: Path = ROOT) -> Path:
    """Write the files of a recording; returns the one with the raw bytes."""
    folder = root / f"{case.meta.engine}-{case.meta.version}"
    folder.mkdir(parents=True, exist_ok=True)
    if case.request:
        (folder / f"{case.name}.request.json").write_bytes(case.request)
    (folder / f"{case.name}.meta.json").write_bytes(msgspec.json.encode(case.meta) + b"\n")
    raw = folder / f"{case.name}.response.raw"
    raw.write_bytes(case.raw)
    return raw


def load(raw: Path) -> Case:
    """The recording whose raw bytes are in this file."""
    name = raw.name.removesuffix(".response.raw")
    meta = msgspec.json.decode((raw.parent / f"{name}.meta.json").read_bytes(), type=Meta)
    request = raw.parent / f"{name}.request.json"
    return Case(name, meta, request.read_bytes() if request.exists() else b"", raw.read_bytes())


def cases(root: Path = ROOT) -> list[Case]:
    """Every recording, in a stable order."""
    return [load(raw) for raw in sorted(root.glob("*/*.response.raw"))]
