"""A17: `headrace config` on the command line: what it prints, asks, and makes of refusals and of nobody there."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from typer.testing import CliRunner

from gateway.cli.root import app
from gateway.process.control_socket import ControlSocket
from tests.gateway.test_a17_live_config import Rig, running, text_of


class Terminal:
    """The command, in a thread, with a gateway's control socket beside it."""

    def __init__(self, rig: Rig, folder: Path) -> None:
        self.rig = rig
        self.folder = folder

    async def run(self, *args: str, status: int = 0, given: str | None = None) -> str:
        """What it prints: on both outputs, unless that is JSON."""
        result = await asyncio.to_thread(CliRunner().invoke, app, ["config", *args], input=given)
        assert result.exit_code == status, result.output
        return result.stdout if "--json" in args else result.output

    async def write(self, name: str, text: str) -> str:
        file = self.folder / name
        await asyncio.to_thread(file.write_text, text)
        return str(file)


@asynccontextmanager
async def terminal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Terminal]:
    monkeypatch.setenv("HEADRACE_STATE", str(folder))
    monkeypatch.setenv("COLUMNS", "200")
    async with running(folder) as rig:
        control = ControlSocket(folder / "control.sock", rig.live.answer)
        await control.open()
        try:
            yield Terminal(rig, folder)
        finally:
            await control.close()


async def test_show_has_the_version_and_on_demand_the_whole_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with terminal(tmp_path, monkeypatch) as at:
        assert (await at.run("show")).startswith(f"{at.rig.live.version}: {tmp_path}/headrace.yaml, from the start, ")
        assert "  idle_timeout_s: 1.0\n" in await at.run("show", "--effective")
        shown = json.loads(await at.run("show", "--json", "-e"))
        assert shown["version"] == at.rig.live.version
        assert "type" not in shown


async def test_history_lists_versions_with_what_each_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with terminal(tmp_path, monkeypatch) as at:
        await at.rig.apply(2)
        await at.run("rollback", "--yes")
        lines = (await at.run("history")).splitlines()
        assert lines[0].split() == ["VERSION", "WHEN", "FROM", "BY", "CHANGED"]
        assert f"{at.rig.live.version} *" in lines[1]
        assert "back to 1-" in lines[1]
        assert "changed server.idle_timeout_s" in lines[2]


async def test_diff_compares_two_files_or_one_with_what_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with terminal(tmp_path, monkeypatch) as at:
        new = await at.write("new.yaml", text_of(2))
        wanted = "~ server.idle_timeout_s: 1.0 → 2.0"
        assert wanted in await at.run("diff", new, "--running")
        assert wanted in await at.run("diff", str(at.rig.file), new)
        assert wanted in await at.run("diff", new, "--running", "--exit-code", status=1)
        (found,) = json.loads(await at.run("diff", new, "--running", "--json"))
        assert found["key"] == "server.idle_timeout_s"
        for wrong in ((new,), (new, new, "--running")):
            assert "give two files, or one and --running" in " ".join((await at.run("diff", *wrong, status=2)).split())


async def test_a_refusal_has_every_place_and_status_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with terminal(tmp_path, monkeypatch) as at:
        bad = await at.write("bad.yaml", "server: {prot: 1}\n")
        said = await at.run("apply", bad, "--yes", status=1)
        assert f"{bad}:1:10: server.prot" in said
        assert "refused, 1-" in said
        outcome = json.loads(await at.run("apply", bad, "--yes", "--json", status=1))
        assert (outcome["status"], len(outcome["problems"])) == ("refused", 1)
        assert "cannot be read" in await at.run("apply", str(tmp_path / "none.yaml"), status=1)


async def test_a_configuration_may_come_from_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with terminal(tmp_path, monkeypatch) as at:
        await at.run("apply", "-", "--yes", given=text_of(2))
        assert at.rig.idle_s == 2.0
        assert "needs --yes or --dry-run" in " ".join((await at.run("apply", "-", status=2)).split())
        outcome = json.loads(await at.run("apply", "-", "--dry-run", "--json", given=text_of(3)))
        assert (outcome["status"], at.rig.idle_s) == ("checked", 2.0)


async def test_rolling_back_takes_versions_and_numbers_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with terminal(tmp_path, monkeypatch) as at:
        first = at.rig.live.version
        assert "nothing else has served before" in await at.run("rollback", "--yes", status=1)
        await at.rig.apply(2)
        await at.run("rollback", first, "--yes")
        assert at.rig.idle_s == 1.0
        assert "served already" in await at.run("rollback", "3", "--yes")
        assert "is no version" in " ".join((await at.run("rollback", "last", "--yes", status=2)).split())


@pytest.mark.parametrize(("answer", "status", "idle_s"), [("y\n", 0, 2.0), ("n\n", 1, 1.0)])
async def test_on_a_terminal_the_differences_are_shown_and_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, status: int, idle_s: float
) -> None:
    async with terminal(tmp_path, monkeypatch) as at:
        new = await at.write("new.yaml", text_of(2))
        ours, theirs = pty.openpty()
        command = Path(sys.executable).with_name("headrace")
        process = await asyncio.create_subprocess_exec(
            *(str(command), "config", "apply", new),
            stdin=theirs,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        os.close(theirs)
        os.write(ours, answer.encode())
        said, _ = await process.communicate()
        os.close(ours)
        assert process.returncode == status
        assert b"server.idle_timeout_s" in said
        assert b"Apply? [y/N]" in said
        assert at.rig.idle_s == idle_s


class Answering(BaseHTTPRequestHandler):
    status: ClassVar[int] = 200
    body: ClassVar[bytes] = b""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_POST = do_GET  # noqa: N815 - the library's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        pass


def says(status: int, body: object, *args: str) -> tuple[int, str]:
    """What the command makes of an answer of an admin API."""
    kind = type("Kind", (Answering,), {"status": status, "body": json.dumps(body).encode()})
    with HTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        result = CliRunner().invoke(app, ["config", *args, "--admin", url, "--key", "k"], env={"COLUMNS": "300"})
        server.shutdown()
        thread.join()
    return result.exit_code, " ".join(result.output.split())


def test_what_an_admin_api_refuses_is_told_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "new.yaml"
    file.write_text(text_of(2))
    apply = ("apply", str(file), "--yes")
    for status, error, wanted in (
        (400, {"code": "config_refused", "message": "The configuration is refused:\na.yaml:1:1: no"}, "a.yaml:1:1: no"),
        (409, {"code": "conflict", "message": "1-a was to be replaced"}, "1-a was to be replaced"),
        (403, {"code": "role_not_allowed", "message": "needs the role admin"}, "403 needs the role admin"),
        (401, {"code": "invalid_api_key", "message": "no"}, "the key is taken from HEADRACE_ADMIN_KEY"),
    ):
        code, said = says(status, {"error": error}, *apply)
        assert (code, wanted in said) == (1, True), said


def test_what_is_no_admin_api_is_told_to_be_none() -> None:
    assert says(200, {"hello": 1}, "history")[0] == 1
    code, said = says(200, {"hello": 1}, "show")
    assert (code, "is no admin API of Headrace" in said) == (1, True), said
    code, said = says(502, "nonsense", "show")
    assert (code, "502" in said) == (1, True), said


def test_nobody_there_is_told_with_the_address() -> None:
    result = CliRunner().invoke(app, ["config", "show", "--admin", "http://127.0.0.1:9"])
    assert result.exit_code == 1
    assert "http://127.0.0.1:9/config: Connection refused" in result.output
    result = CliRunner().invoke(app, ["config", "show", "--admin", "127.0.0.1:9"])
    assert result.exit_code == 2
