"""Signatures, checked by botocore, and where the keys come from."""

from __future__ import annotations

import asyncio
import datetime
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from botocore.credentials import Credentials, ReadOnlyCredentials, RefreshableCredentials

from engines.aws.sigv4 import KeyChain, SigV4Signer, fixed_keys, keys_of_machine
from engines.base import EngineUnreachable
from tests.engines.aws.wire import ACCESS_KEY, REGION, SECRET_KEY, signed_by

URL = "https://bedrock-runtime.eu-central-1.amazonaws.com:443/model/a%3Ab%2Fc/converse?x=1&a=%20"
HEADERS = {"content-type": "application/json", "x-amzn-trace": "1"}


def head_of(url: str, added: Mapping[str, str]) -> str:
    """The request's head as the engine sends it."""
    host, _, rest = url.removeprefix("https://").rpartition("@")[2].partition("/")
    lines = {"host": host, **HEADERS, **added}
    return f"POST /{rest} HTTP/1.1\r\n" + "\r\n".join(f"{name}: {value}" for name, value in lines.items())


@pytest.mark.parametrize("body", [b"", b"{}", b"x" * 3_000_000], ids=["empty", "small", "large"])
@pytest.mark.parametrize("token", [None, "session/token=="])
@pytest.mark.parametrize("url", [URL, "https://user:secret@h:8443/a", "https://h/"])
async def test_a_signature_is_the_one_that_botocore_makes(url: str, token: str | None, body: bytes) -> None:
    signer = SigV4Signer(fixed_keys(ACCESS_KEY, SECRET_KEY, token), "bedrock", REGION)
    added = await signer.headers("POST", url, HEADERS, body)
    assert signed_by(head_of(url, added), body, "bedrock", token)
    assert not {"host", "content-type"} & set(added)


@pytest.mark.parametrize("wrong", ["service", "region", "body", "path"])
async def test_a_signature_for_something_else_is_another_one(wrong: str) -> None:
    signer = SigV4Signer(fixed_keys(ACCESS_KEY, SECRET_KEY, None), "bedrock", REGION)
    head = head_of(URL, await signer.headers("POST", URL, HEADERS, b"{}"))
    if wrong == "service":
        with pytest.raises(AssertionError):
            signed_by(head, b"{}", "sagemaker")
    elif wrong == "region":
        with pytest.raises(AssertionError):
            signed_by(head, b"{}", "bedrock", region="us-east-1")
    elif wrong == "body":
        with pytest.raises(AssertionError):
            signed_by(head, b"{ }", "bedrock")
    else:
        assert not signed_by(head.replace("/converse", "/invoke"), b"{}", "bedrock")


class Bank:
    """Gives keys that expire, as a role does. `gate` holds a fetch back."""

    def __init__(self) -> None:
        self.asked = 0
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.broken = False

    def fetch(self) -> dict[str, str]:
        self.asked += 1
        self.threads.add(threading.get_ident())
        assert self.gate.wait(10)
        if self.broken:
            raise OSError("the role is not at home")
        expiry = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
        keys = {"access_key": f"AK{self.asked}", "secret_key": SECRET_KEY, "token": "t"}
        return {**keys, "expiry_time": expiry.isoformat()}

    def find(self) -> RefreshableCredentials:
        self.given = RefreshableCredentials.create_from_metadata(self.fetch(), self.fetch, "test")
        return self.given

    def leave(self, left_s: float) -> None:
        """Let time pass until the keys have this long to live."""
        self.given._expiry_time = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=left_s)


async def key_of(chain: KeyChain) -> str:
    return str((await chain.keys()).access_key)


async def test_keys_are_looked_up_once_and_in_a_thread() -> None:
    bank = Bank()
    chain = KeyChain(bank.find)
    assert repr(chain) == "<KeyChain without keys>"
    assert await asyncio.gather(*(key_of(chain) for _ in range(5))) == ["AK1"] * 5
    assert await key_of(chain) == "AK1"
    assert bank.asked == 1
    assert bank.threads.isdisjoint({threading.get_ident()})
    assert repr(chain) == "<KeyChain with keys>"


async def test_who_hangs_up_while_keys_are_fetched_takes_them_from_nobody() -> None:
    bank = Bank()
    bank.gate.clear()
    chain = KeyChain(bank.find)
    impatient, patient = asyncio.create_task(key_of(chain)), asyncio.create_task(key_of(chain))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait([impatient])
    bank.gate.set()
    assert await patient == "AK1"
    assert impatient.cancelled() and bank.asked == 1


async def test_keys_near_their_expiry_serve_on_while_new_ones_are_fetched() -> None:
    bank = Bank()
    chain = KeyChain(bank.find)
    assert await key_of(chain) == "AK1"
    bank.gate.clear()
    bank.leave(300.0)
    chain._retry_at_s = 0.0
    assert await key_of(chain) == "AK1", "the fetch has begun, and nobody waits for it"
    assert await key_of(chain) == "AK1"
    fetch = chain._fetch
    assert fetch is not None
    bank.gate.set()
    await asyncio.wait([fetch])
    assert await key_of(chain) == "AK2"
    assert bank.asked == 2


async def test_keys_that_are_about_to_expire_are_waited_for() -> None:
    bank = Bank()
    chain = KeyChain(bank.find)
    assert await key_of(chain) == "AK1"
    bank.leave(30.0)
    assert await key_of(chain) == "AK2"


async def test_a_refresh_that_fails_is_not_tried_for_every_request(caplog: pytest.LogCaptureFixture) -> None:
    bank = Bank()
    chain = KeyChain(bank.find)
    assert await key_of(chain) == "AK1"
    bank.broken = True
    bank.leave(300.0)
    chain._retry_at_s = 0.0
    assert await key_of(chain) == "AK1"
    assert chain._fetch is not None
    await asyncio.wait([chain._fetch])
    assert [await key_of(chain) for _ in range(5)] == ["AK1"] * 5
    assert bank.asked == 2
    assert "the role is not at home" in caplog.text


async def test_without_keys_the_engine_cannot_be_reached(caplog: pytest.LogCaptureFixture) -> None:
    chain = KeyChain(lambda: None)
    with pytest.raises(EngineUnreachable, match="no AWS credentials: botocore found none") as error:
        await chain.keys()
    assert not error.value.sent
    assert "botocore found none" in caplog.text


async def test_a_look_up_that_fails_is_tried_again_by_the_next_request() -> None:
    bank = Bank()
    bank.broken = True
    chain = KeyChain(bank.find)
    with pytest.raises(EngineUnreachable, match="the role is not at home"):
        await chain.keys()
    bank.broken = False
    assert await key_of(chain) == "AK2"


async def test_keys_without_expiry_are_kept() -> None:
    asked: list[int] = []

    def find() -> Credentials:
        asked.append(1)
        return Credentials(ACCESS_KEY, SECRET_KEY)

    chain = KeyChain(find)
    assert await chain.keys() == await chain.keys() == ReadOnlyCredentials(ACCESS_KEY, SECRET_KEY, None)
    assert asked == [1]


Write = Callable[[str], int]


@pytest.fixture
def aws_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes `~/.aws/credentials`; nothing else of this machine is seen."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return (tmp_path / "credentials").write_text


async def test_the_environment_gives_keys(monkeypatch: pytest.MonkeyPatch, aws_files: Write) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    assert await key_of(keys_of_machine(None)) == "AKENV"


async def test_a_profile_gives_keys(aws_files: Write) -> None:
    aws_files(f"[other]\naws_access_key_id = AKOTHER\naws_secret_access_key = {SECRET_KEY}\n")
    assert await key_of(keys_of_machine("other")) == "AKOTHER"


async def test_a_profile_that_does_not_exist_is_named(aws_files: Write) -> None:
    aws_files("")
    with pytest.raises(EngineUnreachable, match="nobody"):
        await keys_of_machine("nobody").keys()
    with pytest.raises(EngineUnreachable, match="botocore found none"):
        await keys_of_machine(None).keys()
