"""A17: the control socket: who may open it, and what it says to those who do not speak its language."""

from __future__ import annotations

import asyncio
import os
import pwd
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from gateway.config.live import Answer, Failed, Outcome, Propose, Question, Rollback, Show, Shown
from gateway.process.control_socket import ControlSocket, NobodyThere, ask, ask_now

SHOWN = Shown(version="1-abc", at=1.0, origin="start", who="", name="headrace.yaml")
Answerer = Callable[[Question], Awaitable[Answer]]


async def always(question: Question) -> Answer:
    return SHOWN


@asynccontextmanager
async def listening(path: Path, answer: Answerer = always) -> AsyncIterator[ControlSocket]:
    control = ControlSocket(path, answer)
    await control.open()
    try:
        yield control
    finally:
        await control.close()


async def raw(path: Path, line: bytes) -> Answer:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(line)
    writer.write_eof()
    answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    found: Answer = msgspec.json.decode(answer, type=Answer)
    return found


async def test_only_its_owner_may_open_it_and_it_is_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "state" / "control.sock"
    async with listening(path):
        assert stat.S_IMODE(await asyncio.to_thread(lambda: path.stat().st_mode)) == 0o600
        assert await ask(path, Show()) == SHOWN
        assert await asyncio.to_thread(ask_now, path, Show()) == SHOWN
    with pytest.raises(NobodyThere, match="no gateway answers at"):
        await ask(path, Show())
    with pytest.raises(NobodyThere, match="no gateway answers at"):
        await asyncio.to_thread(ask_now, path, Show())


async def test_who_asks_is_who_the_system_says(tmp_path: Path) -> None:
    asked: list[Question] = []

    async def answer(question: Question) -> Answer:
        asked.append(question)
        return Outcome(status="unchanged", version="1-abc")

    user = await asyncio.to_thread(lambda: pwd.getpwuid(os.geteuid()).pw_name)
    async with listening(tmp_path / "control.sock", answer):
        await ask(tmp_path / "control.sock", Propose(text=""))
        await ask(tmp_path / "control.sock", Rollback(who="somebody for whom we ask"))
    assert [one.who for one in asked if isinstance(one, Propose | Rollback)] == [user, "somebody for whom we ask"]


@pytest.mark.parametrize("line", [b"{}\n", b"nonsense\n", b'{"type":"Show","more":[]}\n'[:-3] + b"\n", b"\xff\n"])
async def test_what_is_not_understood_is_said_to_be(tmp_path: Path, line: bytes) -> None:
    async with listening(tmp_path / "control.sock"):
        answer = await raw(tmp_path / "control.sock", line)
        assert isinstance(answer, Failed)
        assert "not understood" in answer.message


async def test_a_line_without_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.process.control_socket.MAX_LINE_BYTES", 1000)
    async with listening(tmp_path / "control.sock"):
        answer = await raw(tmp_path / "control.sock", b'"' + b"x" * 2500 + b'"\n')
        assert isinstance(answer, Failed)
        assert "over 1000 bytes" in answer.message


async def test_an_error_inside_is_an_answer_and_the_socket_goes_on(tmp_path: Path) -> None:
    async def fail(question: Question) -> Answer:
        raise ValueError("no")

    async with listening(tmp_path / "control.sock", fail):
        for _ in range(2):
            assert await ask(tmp_path / "control.sock", Show()) == Failed(message="ValueError: no")


async def test_a_socket_that_a_killed_gateway_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    first = ControlSocket(path, always)
    await first.open()
    assert first._server is not None
    first._server.close()  # as the end of the process does: the name stays
    async with listening(path):
        assert await ask(path, Show()) == SHOWN
        await first.close()  # and does not take the other one's name with it
        assert await ask(path, Show()) == SHOWN


async def test_of_two_gateways_the_first_one_is_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def other(question: Question) -> Answer:
        return Failed(message="the second")

    path = tmp_path / "control.sock"
    async with listening(path):
        async with listening(path, other):
            assert await ask(path, Show()) == SHOWN
        assert await ask(path, Show()) == SHOWN
    assert "another gateway answers at" in caplog.text


async def test_a_folder_that_cannot_be_made_is_no_reason_not_to_serve(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.to_thread((tmp_path / "file").write_text, "")
    async with listening(tmp_path / "file" / "control.sock"):
        assert "cannot be asked for its configuration" in caplog.text


async def test_a_gateway_that_does_not_answer_in_time_is_said_not_to(tmp_path: Path) -> None:
    never = asyncio.Event()

    async def hang(question: Question) -> Answer:
        await never.wait()
        return SHOWN

    path = tmp_path / "control.sock"
    async with listening(path, hang):
        with pytest.raises(NobodyThere, match=r"no answer within 0\.05 s"):
            await ask(path, Show(), 0.05)
        with pytest.raises(NobodyThere, match=r"no answer within 0\.05 s"):
            await asyncio.to_thread(ask_now, path, Show(), 0.05)


async def test_something_else_that_listens_there_is_no_gateway(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    async def chatter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"hello\n")
        writer.close()

    server = await asyncio.start_unix_server(chatter, str(path))
    with pytest.raises(NobodyThere, match="is no gateway of this version"):
        await ask(path, Show())
    server.close()
    await server.wait_closed()
