"""AWS's side of the wire: event stream frames, and a judge of signatures who is botocore itself."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any
from zlib import crc32

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/vnd.amazon.eventstream\r\ntransfer-encoding: chunked\r\n\r\n"
ACCESS_KEY, SECRET_KEY, REGION = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "eu-central-1"


def encoded(raw_headers: bytes, payload: bytes) -> bytes:
    """One message of an event stream, its headers as they are."""
    prelude = struct.pack("!II", len(raw_headers) + len(payload) + 16, len(raw_headers))
    body = prelude + struct.pack("!I", crc32(prelude)) + raw_headers + payload
    return body + struct.pack("!I", crc32(body))


def header(name: str, value: bytes, kind: int = 7) -> bytes:
    """A header as it goes over the wire; kind 7 is text, 6 bytes: both have their length before them."""
    raw = name.encode()
    length = struct.pack("!H", len(value)) if kind in (6, 7) else b""
    return struct.pack("!B", len(raw)) + raw + bytes([kind]) + length + value


def message(headers: Mapping[str, str], payload: bytes = b"") -> bytes:
    return encoded(b"".join(header(name, value.encode()) for name, value in headers.items()), payload)


def event(name: str, **fields: Any) -> bytes:
    """An event of Bedrock's."""
    headers = {":event-type": name, ":content-type": "application/json", ":message-type": "event"}
    return message(headers, json.dumps({**fields, "p": "abcdefgh"}).encode())


def part(payload: bytes) -> bytes:
    """A `PayloadPart` of SageMaker's."""
    headers = {":event-type": "PayloadPart", ":content-type": "application/octet-stream", ":message-type": "event"}
    return message(headers, payload)


def exception(name: str, **fields: Any) -> bytes:
    headers = {":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}
    return message(headers, json.dumps(fields).encode())


def failure(code: str, text: str) -> bytes:
    """An error of the service at large, which no operation declares."""
    return message({":message-type": "error", ":error-code": code, ":error-message": text})


def signed_by(
    head: str,
    body: bytes,
    service: str,
    token: str | None = None,
    region: str = REGION,
    *,
    signs_digest: bool = True,
) -> bool:
    """Whether a request's signature is the one that botocore makes of it with the same keys.

    signs_digest: whether the body's checksum is among the signed headers; botocore's own clients send none.
    """
    line, *lines = head.split("\r\n")
    headers = {name.lower(): value for name, value in (one.split(": ", 1) for one in lines)}
    method, path, _ = line.split(" ")
    given = dict(one.split("=", 1) for one in headers["authorization"].removeprefix("AWS4-HMAC-SHA256 ").split(", "))
    names = given["SignedHeaders"].split(";")
    assert {"host", "x-amz-date", "content-type"} <= set(names)
    unsigned = {name for name in headers if name.startswith("x-amz-")} - set(names)
    assert unsigned == (set() if signs_digest else {"x-amz-content-sha256"})
    request = AWSRequest(method, f"http://{headers['host']}{path}", {name: headers[name] for name in names}, body)
    assert headers["x-amz-content-sha256"] == SigV4Auth(None, service, region).payload(request)
    request.context["timestamp"] = headers["x-amz-date"]
    auth = SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY, token), service, region)
    assert given["Credential"] == auth.scope(request)
    assert headers.get("x-amz-security-token") == token
    right = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    return bool(given["Signature"] == right)
