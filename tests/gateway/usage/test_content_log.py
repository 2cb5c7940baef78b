"""Prompts and answers of some calls are kept sealed; of confined ones, never."""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config import Config
from gateway.config.load import load_text, parse_config
from gateway.config.problems import ConfigError
from gateway.directory.entries import OrganisationEntry
from gateway.record import Record
from gateway.residency import Clearance
from gateway.usage import content as content_module
from gateway.usage.content import ContentLog, open_content_log, read
from gateway.usage.sealed import Seal, Unreadable, entries, file_of, find, framed, key_id, key_of, prune
from tests.gateway.test_cli import Answer
from tests.gateway.usage.calls import call
from tests.harness import CHAT, Json, Server, chat, config_of, engine_running, serving, streamed

KEY = base64.b64encode(bytes(range(32))).decode()
OTHER = base64.b64encode(bytes(range(32, 64))).decode()
SECRET = "my address is jane@example.org"


def config(engine: Any, folder: Path, *, share: float = 1.0, keys: list[Json] | None = None, **log: Any) -> Json:
    options = {"path": str(folder), "key": KEY, "redact": [r"\S+@\S+"]} | log
    tenants = {"default": {"log_content": share}, "other": {}}
    return config_of(engine, keys=keys) | {"content_log": options, "tenants": tenants}


def kept(folder: Path, request_id: str, key: str = KEY, **more: Any) -> list[Json]:
    options = parse_config(json.dumps({"content_log": {"path": str(folder), "key": key} | more})).content_log
    assert options is not None
    return [msgspec.json.decode(text) for text in read(options, request_id)]


async def ask(server: Server, body: Json, **headers: str) -> str:
    return (await server.post(CHAT, body, **headers)).headers["x-request-id"]


async def counted(server: Server, count: int) -> None:
    found: list[float] = []

    async with asyncio.timeout(10.0):
        while sum(found) < count:
            metrics = await server.metrics()
            found = [value for name, value in metrics.items() if name.startswith("headrace_content_records_total")]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_is_kept_redacted_and_sealed(tmp_path: Path, stream: bool) -> None:
    async with engine_running() as engine, serving(config(engine, tmp_path / "content")) as server:
        request_id = await ask(server, streamed(SECRET) if stream else chat(SECRET))
        await counted(server, 1)
    (found,) = await asyncio.to_thread(kept, tmp_path / "content", request_id)
    assert found["prompt"]["messages"] == [{"role": "user", "content": "my address is [redacted]"}]
    choice = found["answer"]["choices"][0]
    assert choice["content"] if stream else choice["message"]["content"]
    assert (found["deployment"], found["tenant"], found["status"], found["error"]) == ("m", "default", 200, "")
    (file,) = (tmp_path / "content").iterdir()
    assert b"address" not in file.read_bytes() and file.stat().st_mode & 0o777 == 0o600


async def test_the_answer_passes_as_it_would_without(tmp_path: Path) -> None:
    body = streamed(fake={"sse": 'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\ndata: [DONE]\n\n'})
    answers = []
    for share in (0.0, 1.0):
        async with engine_running() as engine, serving(config(engine, tmp_path, share=share)) as server:
            answers.append((await server.post(CHAT, body)).content)
    assert answers[0] == answers[1]


async def test_of_a_class_that_residency_confines_nothing_is_ever_kept(tmp_path: Path) -> None:
    async with engine_running() as engine, serving(config(engine, tmp_path)) as server:
        await ask(server, chat(), x_headrace_sensitivity="confidential")
        await ask(server, chat(), x_headrace_sensitivity="restricted")
        open_id = await ask(server, chat())
        await counted(server, 1)
    (file,) = tmp_path.iterdir()
    found = await asyncio.to_thread(lambda: list(entries(file)))
    assert [entry.request_id for entry in found] == [open_id]


async def test_other_organisations_calls_are_not_kept(tmp_path: Path) -> None:
    keys = [{"name": "k", "key": "sk-other", "tenant": "other"}, {"name": "n", "key": "sk-none", "tenant": "none"}]
    async with engine_running() as engine, serving(config(engine, tmp_path, keys=keys)) as server:
        for key in ("sk-other", "sk-none"):
            await ask(server, chat(), authorization=f"Bearer {key}")
    assert not list(tmp_path.iterdir())


async def test_an_answer_that_fails_is_kept_with_its_error(tmp_path: Path) -> None:
    async with engine_running() as engine, serving(config(engine, tmp_path)) as server:
        request_id = await ask(server, chat(SECRET, fake={"status": 400}))
        await counted(server, 1)
    (found,) = await asyncio.to_thread(kept, tmp_path, request_id)
    assert found["status"] == 400 and found["error"] and found["prompt"]["messages"]


async def test_what_is_too_long_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_module, "MAX_BYTES", 100)
    async with engine_running() as engine, serving(config(engine, tmp_path)) as server:
        request_id = await ask(server, streamed("x" * 200))
        await counted(server, 1)
    (found,) = await asyncio.to_thread(kept, tmp_path, request_id)
    assert found["truncated"] and found["prompt"] is None


def log_of(tmp_path: Path, tenants: Json, organisations: dict[str, float], seed: int = 1) -> ContentLog:
    tree = {"content_log": {"path": str(tmp_path), "key": KEY}, "tenants": tenants}

    def organisation(name: str) -> OrganisationEntry | None:
        return OrganisationEntry(name, log_content=organisations[name]) if name in organisations else None

    made = open_content_log(Config.model_validate(tree), random.Random(seed), organisation)
    assert made is not None
    return made


def test_the_lower_share_of_configuration_and_database_counts(tmp_path: Path) -> None:
    tenants = {"a": {"log_content": 0.5}, "b": {"log_content": 0.2}, "c": {"weight": 2}}
    log = log_of(tmp_path, tenants, {"a": 0.1, "c": 0.3, "d": 0.4})
    assert [log.share(name) for name in "abcde"] == [0.1, 0.2, 0.3, 0.4, 0.0]
    log.close()
    assert open_content_log(Config(), random.Random(), lambda name: None) is None


def test_more_calls_than_the_disk_takes_are_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gateway.residency import Clearance

    monkeypatch.setattr(content_module, "framed", lambda entry: 1 / 0)
    log = log_of(tmp_path, {"acme": {"log_content": 1}}, {})
    tap = log.tap("acme", Clearance("public"), b"{}", Nowhere())  # type: ignore[arg-type]
    assert tap is not None
    log.append(Record("not tapped", 0.0))
    for number in range(3):
        log.append(call(number, content=tap))
    log.close()
    assert (log.kept, log.dropped) == (0, 3) and repr(log) == "<ContentLog kept=0 dropped=3>"
    for number in range(300):
        log.append(call(number, content=tap))
    assert log.dropped == 3 + 300 - content_module.MAX_WAITING


def test_a_share_of_the_calls_is_kept(tmp_path: Path) -> None:
    log = log_of(tmp_path, {"acme": {"log_content": 0.25}}, {})
    taps = [log.tap("acme", Clearance("public"), b"", Nowhere()) for _ in range(2000)]  # type: ignore[arg-type]
    log.close()
    assert 400 < sum(tap is not None for tap in taps) < 600


class Nowhere:
    extra_lines = b""


def test_a_half_written_entry_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"before")
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    fd = os.open(file, os.O_WRONLY | os.O_APPEND)
    with pytest.raises(OSError, match="full"):
        content_module._append(fd, b"after")
    os.close(fd)
    assert file.read_bytes() == b"before"


def test_older_keys_still_open_and_wrong_ones_are_named(tmp_path: Path) -> None:
    old, new = Seal([key_of(KEY)]), Seal([key_of(OTHER), key_of(KEY)])
    file = file_of(tmp_path, datetime.date(2026, 11, 22), "aa")
    file.write_bytes(framed(old.close("r", b'{"n":1}')) + framed(new.close("r", b'{"n":2}')))
    assert [one["n"] for one in kept(tmp_path, "r", OTHER, old_keys=[KEY])] == [1, 2]
    with pytest.raises(Unreadable, match=f"sealed with key {new.key_id}, which is neither"):
        kept(tmp_path, "r", KEY)
    assert key_id(key_of(KEY)) == old.key_id != new.key_id and "2 keys" in repr(new)


def test_what_was_changed_cannot_be_opened() -> None:
    seal = Seal([bytes(32)])
    entry = seal.close("r", b"said")
    assert seal.open(entry) == b"said"
    for other in (
        msgspec.structs.replace(entry, request_id="s"),
        msgspec.structs.replace(entry, sealed=bytes([entry.sealed[0] ^ 1]) + entry.sealed[1:]),
    ):
        with pytest.raises(Unreadable, match="changed after it was sealed"):
            seal.open(other)


def test_a_file_that_was_cut_gives_what_is_whole(tmp_path: Path) -> None:
    seal = Seal([bytes(32)])
    file = file_of(tmp_path, datetime.date(2026, 11, 22), "aa")
    first, second = framed(seal.close("r", b"1")), framed(seal.close("r", b"2"))
    for cut in range(len(second)):
        file.write_bytes(first + second[:cut])
        assert len(list(find(tmp_path, "r"))) == 1
    file.write_bytes(first[:-1] + b"\0" + second)
    assert len(list(find(tmp_path, "r"))) == 1


def test_old_days_are_deleted(tmp_path: Path) -> None:
    today = datetime.date(2026, 11, 22)
    for age in (0, 29, 30, 31, 400):
        file_of(tmp_path, today - datetime.timedelta(age), "aa").touch()
    (tmp_path / "mine.content").touch()
    assert prune(tmp_path, today, 30) == 2
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ({"key": "short"}, "16"),
        ({"key": KEY, "redact": ["("]}, "no regular expression"),
        ({"key": KEY, "redact": ["a*"]}, "empty text"),
        ({"key": KEY, "retention_days": 0}, "retention_days"),
    ],
)
def test_a_content_log_that_cannot_work_is_refused_without_its_secrets(log: Json, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        parse_config(json.dumps({"content_log": {"path": "p"} | log}))
    assert KEY not in str(refused.value)


def test_who_wants_to_be_kept_where_nothing_is_and_keys_in_the_file_are_warned_of() -> None:
    def warned(text: str, said: str) -> int:
        return sum(said in warning.message for warning in load_text(text, "f", {"K": KEY}).warnings)

    assert warned("tenants: {acme: {log_content: 0.1}, other: {}}", "no `content_log`") == 1
    assert warned(f"content_log: {{path: p, key: {KEY}, old_keys: [{OTHER}]}}", "written out") == 2
    assert warned("content_log: {path: p, key: '${K}'}", "written out") == 0


def test_the_extra_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(ImportError, match=r"headrace\[content-log\]"):
        kept(tmp_path, "r")


def test_the_command_shows_what_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "headrace.yaml"
    folder = tmp_path / "content"
    folder.mkdir()
    file.write_text(json.dumps({"content_log": {"path": str(folder), "key": "${K}"}}))
    seal = Seal([key_of(KEY)])
    file_of(folder, datetime.date(2026, 11, 22), "aa").write_bytes(framed(seal.close("r", b'{"prompt":"p"}')))

    def asked(*args: str, key: str = KEY) -> Answer:
        return Answer("usage", "--config", str(file), "--content", *args, env={"K": key})

    assert asked("--request-id", "r").out == '{"prompt":"p"}\n'
    assert "nothing is kept" in asked("--request-id", "s").err
    wrong = asked("--request-id", "r", key=OTHER)
    assert wrong.status == 1 and "content_log.old_keys" in wrong.err
    assert asked().status == 2
    url = f"sqlite:///{tmp_path}/db"
    file.write_text(json.dumps({"content_log": {"path": str(folder), "key": "${K}"}, "database": {"url": url}}))
    assert asked("--request-id", "r").out == '{"prompt":"p"}\n'
    audit = Answer("audit", "list", "--config", str(file), "--json", env={"K": KEY})
    assert '"content.read"' in audit.out and '"r"' in audit.out
    file.write_text("{}")
    assert "no `content_log`" in asked("--request-id", "r").err
