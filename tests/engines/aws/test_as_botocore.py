"""What goes over the wire is what botocore's own clients send, and keys come from where botocore finds them."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.session import Session

from engines.adapter import Translator, Wire
from engines.aws.bedrock import BedrockTranslator
from engines.aws.sagemaker import SageMakerTranslator
from engines.aws.sigv4 import KeyChain, SigV4Signer, fixed_keys, keys_of_machine
from engines.base import EngineRequest, Operation
from tests.engines.aws.conversation import Json, chat, function, request
from tests.engines.aws.wire import ACCESS_KEY, REGION, SECRET_KEY, signed_by
from tests.engines.server import Peer, engine_server
from tests.harness import whole

ARN = "arn:aws:bedrock:eu-central-1:123456789012:inference-profile/eu.x-v1:0"
PNG = b"\x89PNG\r\n"
TOKEN = "a/session+token=="


class Sent(Exception):
    """Thrown instead of sending."""

    def __init__(self, request: AWSPreparedRequest) -> None:
        self.request = request


def sent_by_botocore(service: str, operation: str, **fields: Any) -> AWSPreparedRequest:
    """The request as botocore's client would send it."""

    def catch(request: AWSPreparedRequest, **_: object) -> AWSResponse:
        raise Sent(request)

    session = Session()
    session.set_credentials(ACCESS_KEY, SECRET_KEY, TOKEN)
    client = session.create_client(service, region_name=REGION)
    client.meta.events.register("before-send", catch)
    try:
        getattr(client, operation)(**fields)
    except Sent as sent:
        return sent.request
    finally:
        client.close()
    raise AssertionError("nothing was sent")


IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(PNG).decode()}"}}
CALL = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"a": 1}'}}
MESSAGES: list[Json] = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": [{"type": "text", "text": "ü?"}, IMAGE]},
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "sun"},
]
CONVERSE: Json = {
    "modelId": ARN,
    "system": [{"text": "be brief"}],
    "messages": [
        {"role": "user", "content": [{"text": "ü?"}, {"image": {"format": "png", "source": {"bytes": PNG}}}]},
        {"role": "assistant", "content": [{"toolUse": {"toolUseId": "c", "name": "weather", "input": {"a": 1}}}]},
        {"role": "user", "content": [{"toolResult": {"toolUseId": "c", "content": [{"text": "sun"}]}}]},
    ],
    "inferenceConfig": {"maxTokens": 7, "temperature": 0.5, "stopSequences": ["END"]},
    "toolConfig": {
        "tools": [{"toolSpec": {"name": "weather", "inputSchema": {"json": {"type": "object"}}}}],
        "toolChoice": {"any": {}},
    },
}
ASKED: Json = {
    "model": ARN,
    "max_tokens": 7,
    "temperature": 0.5,
    "stop": "END",
    "tools": [function(parameters={"type": "object"})],
    "tool_choice": "required",
}
PASSED = b'{"messages":[]}'
TITAN: Json = {"modelId": "amazon.titan-embed-text-v2:0", "body": b'{"inputText":"x"}'}
EMBED = request(Operation.EMBEDDINGS, model="amazon.titan-embed-text-v2:0", input="x")
ENDPOINT: Json = {"EndpointName": "llama", "ContentType": "application/json", "Body": PASSED}
OPERATIONS: list[tuple[str, str, Json, Translator, EngineRequest]] = [
    ("bedrock-runtime", "converse", CONVERSE, BedrockTranslator(), chat(*MESSAGES, **ASKED)),
    ("bedrock-runtime", "converse_stream", CONVERSE, BedrockTranslator(), chat(*MESSAGES, stream=True, **ASKED)),
    ("bedrock-runtime", "invoke_model", TITAN, BedrockTranslator(), EMBED),
    ("sagemaker-runtime", "invoke_endpoint", ENDPOINT, SageMakerTranslator(), request(model="llama", messages=[])),
    (
        "sagemaker-runtime",
        "invoke_endpoint_with_response_stream",
        ENDPOINT,
        SageMakerTranslator(),
        request(model="llama", messages=[], stream=True),
    ),
]


@pytest.mark.parametrize(
    ("service", "operation", "fields", "translator", "asked"), OPERATIONS, ids=[one[1] for one in OPERATIONS]
)
def test_a_request_is_the_one_that_botocore_sends(
    service: str, operation: str, fields: Json, translator: Translator, asked: EngineRequest
) -> None:
    wire: Wire = translator.begin(asked).wire
    theirs = sent_by_botocore(service, operation, **fields)
    assert theirs.method == "POST"
    assert theirs.url.split(".com", 1)[1] == wire.path
    assert json.loads(theirs.body) == json.loads(wire.body)


async def test_a_request_is_signed_as_botocore_signs_it() -> None:
    """Both pass the same judge, with the path of a model id that has to be quoted twice."""
    theirs = sent_by_botocore("bedrock-runtime", "converse", **CONVERSE)
    host, path = theirs.url.removeprefix("https://").split("/", 1)
    given = {name.lower(): value.decode() for name, value in theirs.headers.items() if isinstance(value, bytes)}
    signer = SigV4Signer(fixed_keys(ACCESS_KEY, SECRET_KEY, TOKEN), "bedrock", REGION)
    kind = {"content-type": "application/json"}
    ours = kind | dict(await signer.headers("POST", theirs.url, kind, theirs.body))
    assert signed_by(head_of(host, path, ours), theirs.body, "bedrock", TOKEN)
    # botocore leaves the checksum out of the headers, and the judge wants to see it.
    digest = {"x-amz-content-sha256": ours["x-amz-content-sha256"]}
    names = given["authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
    assert {"content-type", "host", "x-amz-date", "x-amz-security-token"} <= set(names)
    assert signed_by(head_of(host, path, given | digest), theirs.body, "bedrock", TOKEN, signs_digest=False)


def head_of(host: str, path: str, headers: dict[str, str]) -> str:
    lines = {"host": host, **headers}
    return f"POST /{path} HTTP/1.1\r\n" + "\r\n".join(f"{name}: {value}" for name, value in lines.items())


# Where keys come from. The servers run on the loop: a look-up that blocked it would never end.


@pytest.fixture
def no_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of this machine's AWS settings is seen."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("NO_PROXY", "*")
    return tmp_path


async def key_of(chain: KeyChain) -> tuple[str, str]:
    keys = await chain.keys()
    return str(keys.access_key), str(keys.token)


@asynccontextmanager
async def answering(answer: Callable[[str], bytes]) -> AsyncIterator[tuple[str, list[str]]]:
    """A server that answers each request by its first line; gives its URL and the lines."""
    lines: list[str] = []

    async def script(peer: Peer) -> None:
        lines.append((await peer.request()).decode().split("\r\n")[0])
        await peer.send(whole(answer(lines[-1]), "200 OK", "connection: close"))

    async with engine_server(script) as url:
        yield url, lines


ROLE = {
    "Code": "Success",
    "AccessKeyId": "AKROLE",
    "SecretAccessKey": SECRET_KEY,
    "Token": TOKEN,
    "Expiration": "2099-01-01T00:00:00Z",
}


async def test_a_container_gives_keys(no_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(lambda _: json.dumps(ROLE).encode()) as (url, lines):
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/role")
        chain = keys_of_machine(None)
        assert await key_of(chain) == ("AKROLE", TOKEN)
        assert await key_of(chain) == ("AKROLE", TOKEN)
        assert lines == ["GET /role HTTP/1.1"]


async def test_an_instance_gives_keys(no_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def metadata(line: str) -> bytes:
        if line.startswith("PUT"):
            return b"token"
        return json.dumps(ROLE).encode() if "my-role" in line else b"my-role"

    async with answering(metadata) as (url, lines):
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED", raising=False)
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
        assert await key_of(keys_of_machine(None)) == ("AKROLE", TOKEN)
        assert lines[0].startswith("PUT /latest/api/token")


async def test_a_role_is_assumed(no_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = f"""<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
      <AssumedRoleUser><AssumedRoleId>A:b</AssumedRoleId><Arn>arn:aws:sts::1:assumed-role/r/b</Arn></AssumedRoleUser>
      <Credentials><AccessKeyId>AKASSUMED</AccessKeyId><SecretAccessKey>{SECRET_KEY}</SecretAccessKey>
      <SessionToken>{TOKEN}</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>
      </AssumeRoleResult></AssumeRoleResponse>"""
    (no_machine / "config").write_text(
        f"[profile inference]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = base\nregion = {REGION}\n"
    )
    (no_machine / "credentials").write_text(f"[base]\naws_access_key_id=AK\naws_secret_access_key={SECRET_KEY}\n")
    async with answering(lambda _: told.encode()) as (url, lines):
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
        assert await key_of(keys_of_machine("inference")) == ("AKASSUMED", TOKEN)
        assert lines == ["POST / HTTP/1.1"]
