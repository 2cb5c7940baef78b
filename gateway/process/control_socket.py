"""The control socket: who runs the gateway asks about its configuration here, and changes it. One JSON line each way.

Its file is the key: only the user that the gateway runs as, and root, can open it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from gateway.config.live import MAX_TEXT_BYTES, Answer, Failed, Propose, Question, Rollback

logger = logging.getLogger(__name__)

NAME = "control.sock"
MAX_LINE_BYTES = 7 * MAX_TEXT_BYTES
"""JSON writes one byte as up to six."""
_CREDENTIALS = struct.Struct("=iII")
_PROBE_S = 1.0

_questions: msgspec.json.Decoder[Question] = msgspec.json.Decoder(Question)
_answers: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


class NobodyThere(Exception):
    """No gateway listens on the socket; the message says where."""


class ControlSocket:
    """Answers questions at `path`."""

    def __init__(self, path: Path, answer: Callable[[Question], Awaitable[Answer]]) -> None:
        self._path = path
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._mark = (0, 0)
        self._serving: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen. If another gateway does so already, or the folder cannot be written, it is said, and nothing else."""
        if await _somebody_listens(self._path):
            logger.warning(
                "another gateway answers at %s: this one cannot be asked for its configuration; give it a folder of "
                "its own by HEADRACE_STATE",
                self._path,
            )
            return
        try:
            listener, self._mark = await asyncio.to_thread(_listener, self._path)
        except OSError as error:
            logger.warning("the gateway cannot be asked for its configuration at %s: %s", self._path, error)
            return
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=MAX_LINE_BYTES)

    async def close(self) -> None:
        """Idempotent."""
        if self._server is None:
            return
        self._server.close()
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)
        self._server = None
        await asyncio.to_thread(_remove, self._path, self._mark)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            who = await asyncio.to_thread(_user_of, writer.get_extra_info("socket"))
            while line := await reader.readline():
                writer.write(msgspec.json.encode(await self._reply(line, who)) + b"\n")
                await writer.drain()
        except ValueError:
            writer.write(msgspec.json.encode(Failed(message=f"over {MAX_LINE_BYTES} bytes in one line")) + b"\n")
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._serving.discard(task)
            writer.close()

    async def _reply(self, line: bytes, who: str) -> Answer:
        try:
            question = _questions.decode(line)
        except msgspec.MsgspecError as error:
            return Failed(message=f"not understood: {error}")
        if isinstance(question, Propose | Rollback) and not question.who:
            question = msgspec.structs.replace(question, who=who)
        try:
            return await self._answer(question)
        except Exception as error:
            logger.exception("the control socket could not answer %s", type(question).__name__)
            return Failed(message=f"{type(error).__name__}: {error}")


async def ask(path: Path, question: Question, timeout_s: float = 60.0) -> Answer:
    """What the gateway that listens at `path` answers.

    Raises:
        NobodyThere: there is none, or it does not answer in time.
    """
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(_reachable(path), limit=MAX_LINE_BYTES)
            try:
                writer.write(msgspec.json.encode(question) + b"\n")
                line = await reader.readline()
            finally:
                writer.close()
    except TimeoutError:
        raise NobodyThere(f"{path}: no answer within {timeout_s:g} s") from None
    except OSError as error:
        raise NobodyThere(_why_nobody(path, error)) from None
    return answer_of(line, path)


def ask_now(path: Path, question: Question, timeout_s: float = 60.0) -> Answer:
    """`ask` for who has no event loop."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
        end.settimeout(timeout_s)
        try:
            end.connect(_reachable(path))
            end.sendall(msgspec.json.encode(question) + b"\n")
            with end.makefile("rb") as answers:
                line = answers.readline(MAX_LINE_BYTES)
        except TimeoutError:
            raise NobodyThere(f"{path}: no answer within {timeout_s:g} s") from None
        except OSError as error:
            raise NobodyThere(_why_nobody(path, error)) from None
    return answer_of(line, path)


def answer_of(line: bytes, path: Path) -> Answer:
    """Raises NobodyThere: the other side went away, or is no gateway of this version."""
    try:
        return _answers.decode(line)
    except msgspec.MsgspecError:
        why = "is no gateway of this version" if line else "ended without an answer"
        raise NobodyThere(f"{path}: what listens there {why}") from None


def _why_nobody(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return f"no gateway answers at {path}; it is looked for where HEADRACE_STATE says, or ask one by --admin URL"
    return f"{path}: {error.strerror or error}"


def _listener(path: Path) -> tuple[socket.socket, tuple[int, int]]:
    """A socket of that name, and what tells it from others that may get the name later.

    Raises:
        OSError: the folder cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o600)  # before it has a name: nobody finds it open
        listener.bind(_reachable(path))
        path.chmod(0o600)
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener, _mark(path)


def _mark(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def _remove(path: Path, mark: tuple[int, int]) -> None:
    with contextlib.suppress(OSError):
        if _mark(path) == mark:
            path.unlink()


def _reachable(path: Path) -> str:
    """A path that fits into the 107 bytes which the system allows for a socket's name."""
    full = str(path)
    if len(os.fsencode(full)) <= 107:
        return full
    return os.path.relpath(full)


async def _somebody_listens(path: Path) -> bool:
    try:
        async with asyncio.timeout(_PROBE_S):
            _, writer = await asyncio.open_unix_connection(_reachable(path))
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def _user_of(end: socket.socket) -> str:
    """The name of the user at the other end, or the number of one without a name."""
    _, uid, _ = _CREDENTIALS.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
