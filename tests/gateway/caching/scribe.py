"""An engine each of whose answers can be told from all others, and what clients of its gateway were given."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from tests.engines.server import Peer, engine_server
from tests.harness import CHAT, DONE, SSE_HEAD, Json, Server, chat, framed, whole

PLAIN = "plain"
"""What a question begins with to which the engine always says the same words."""


def key_of(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer key-for-{name}"}


def keys_of(**tenants: str) -> list[Json]:
    """By the names of the keys."""
    return [{"name": name, "key": f"key-for-{name}", "tenant": tenant} for name, tenant in tenants.items()]


@dataclass(frozen=True)
class Given:
    """An answer as a client had it. source: what `x-headrace-cache` said. mark: of the engine's answer that it is."""

    source: str
    mark: str
    text: str
    entry_id: str


def says(question: str, mark: str) -> str:
    return question.upper() if question.startswith(PLAIN) else f"{question}, says {mark}"


@dataclass
class Scribe:
    """said: what the engine has said by the mark of each answer, of those that it has sent whole. delay_s: before an
    answer, and before the end of a stream."""

    url: str = ""
    calls: int = 0
    said: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    says: Callable[[str, str], str] = says

    async def answer(self, peer: Peer) -> None:
        with contextlib.suppress(RuntimeError):  # what uvloop raises on a connection that was closed
            await self._answer(peer)

    async def _answer(self, peer: Peer) -> None:
        while request := await peer.request():
            body = json.loads(request.partition(b"\r\n\r\n")[2])
            self.calls += 1
            mark, question = f"mark-{self.calls}", str(body["messages"][-1]["content"])
            text = self.says(question, mark)
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if body.get("stream"):
                events = [_chunk(mark, {"content": word}) for word in _pieces(text)]
                await peer.send(SSE_HEAD + b"".join(map(framed, events[:-1])))
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await peer.send(framed(events[-1]))
                await peer.send(b"".join(map(framed, [_chunk(mark, {}, "stop"), DONE])) + b"0\r\n\r\n")
            else:
                await peer.send(whole(_completion(mark, text)))
            self.said[mark] = text


@asynccontextmanager
async def scribe_running(delay_s: float = 0.0, says: Callable[[str, str], str] = says) -> AsyncIterator[Scribe]:
    scribe = Scribe(delay_s=delay_s, says=says)
    async with engine_server(scribe.answer) as scribe.url:
        yield scribe


async def ask(server: Server | httpx.AsyncClient, body: Json, **headers: str) -> Given:
    """Raises AssertionError if it is not answered whole."""
    if isinstance(server, Server):
        answer = await server.post(CHAT, body, **headers)
    else:
        answer = await server.post(CHAT, json=body, headers={n.replace("_", "-"): v for n, v in headers.items()})
    return given(answer)


def given(answer: httpx.Response) -> Given:
    assert answer.status_code == 200, answer.text
    mark, text = _told(answer.text) if answer.text.startswith("data: ") else _read(answer.json())
    source, entry_id = answer.headers["x-headrace-cache"], answer.headers.get("x-headrace-cache-id", "")
    return Given(source, mark, text, entry_id)


async def asked(server: Server, question: str, key: str, **headers: str) -> Given:
    return await ask(server, chat(question), **key_of(key), **headers)


def _read(answer: Json) -> tuple[str, str]:
    return answer["system_fingerprint"], answer["choices"][0]["message"]["content"]


def _told(events: str) -> tuple[str, str]:
    lines = [line.removeprefix("data: ") for line in events.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    assert [one["choices"][0]["finish_reason"] for one in chunks if one["choices"]][-1] == "stop"
    text = "".join(one["choices"][0]["delta"].get("content") or "" for one in chunks if one["choices"])
    (mark,) = {one["system_fingerprint"] for one in chunks if "system_fingerprint" in one}
    return mark, text


def _pieces(text: str) -> list[str]:
    return [text[at : at + 7] for at in range(0, len(text), 7)]


def _completion(mark: str, text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    return json.dumps(_head(mark, "chat.completion") | {"choices": [choice], "usage": usage}).encode()


def _chunk(mark: str, delta: Json, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: %b\n\n" % json.dumps(_head(mark, "chat.completion.chunk") | {"choices": [choice]}).encode()


def _head(mark: str, kind: str) -> Json:
    return {"id": f"id-{mark}", "object": kind, "created": 1, "model": "m", "system_fingerprint": mark}
