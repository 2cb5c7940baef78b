"""What a server can do, found out by requests that cost a few tokens each."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

import msgspec

if TYPE_CHECKING:
    import httpx

_T = TypeVar("_T")

_SAID_CHARS = 200
_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Ability(msgspec.Struct, frozen=True):
    """`able`: None where it could not be told. `detail`: what was seen."""

    able: bool | None
    detail: str = ""


class Asking:
    """Requests that make the server work: a few tokens each, one after the other."""

    def __init__(self, client: httpx.AsyncClient, model: str) -> None:
        self._client = client
        self._model = model

    async def abilities(self) -> dict[str, Ability]:
        streaming, usage = await self._stream()
        return {
            "chat": await self._chat(),
            "streaming": streaming,
            "usage in streams": usage,
            "tools": await self._tools(),
            "embeddings": await self._embeddings(),
            "tokenize": await self._tokenize(),
        }

    async def _chat(self) -> Ability:
        status, body = await self._post("/v1/chat/completions", self._body())
        answer = _read(body, _Whole)
        if status != 200 or answer is None or not answer.choices:
            return _refused(status, body)
        counts = answer.usage
        return Ability(True, f"{counts.completion_tokens} tokens in usage" if counts else "without usage")

    async def _stream(self) -> tuple[Ability, Ability]:
        """Whether it streams, and whether usage comes along."""
        body = self._body(stream=True, stream_options={"include_usage": True})
        began_s = time.monotonic()
        status, text = await self._post("/v1/chat/completions", body)
        events = [line.removeprefix(b"data:").strip() for line in text.split(b"\n") if line.startswith(b"data:")]
        if status != 200 or not events:
            return _refused(status, text), Ability(None, "it does not stream")
        chunks = [chunk for one in events if (chunk := _read(one, _Whole)) is not None]
        if not any(chunk.choices for chunk in chunks):
            return Ability(False, said(events[0])), Ability(None, "the stream failed")
        done = "" if events[-1] == b"[DONE]" else ", without [DONE]"
        told = [chunk for chunk in chunks if chunk.usage is not None]
        streaming = Ability(True, f"{len(events)} events in {time.monotonic() - began_s:.1f} s{done}")
        if not told:
            return streaming, Ability(False, "none with stream_options.include_usage")
        where = "in the finish event" if told[-1].choices else "in an event of its own"
        return streaming, Ability(True, where)

    async def _tools(self) -> Ability:
        body = self._body(tools=[_TOOL], tool_choice="required", max_tokens=64)
        status, text = await self._post("/v1/chat/completions", body)
        answer = _read(text, _Whole)
        if status != 200 or answer is None:
            return _refused(status, text)
        called = any(choice.message is not None and choice.message.tool_calls for choice in answer.choices or ())
        if called:
            return Ability(True, "tool_choice=required gave a call")
        return Ability(None, "tool_choice=required gave no call: the model may not be made for it")

    async def _embeddings(self) -> Ability:
        status, body = await self._post("/v1/embeddings", {"model": self._model, "input": "Hello"})
        answer = _read(body, _Vectors)
        if status != 200 or answer is None or not answer.data:
            return _refused(status, body)
        return Ability(True, f"{len(answer.data[0].embedding)} dimensions")

    async def _tokenize(self) -> Ability:
        status, body = await self._post("/tokenize", {"model": self._model, "prompt": "Hello", "content": "Hello"})
        answer = _read(body, _Tokens)
        if status != 200 or answer is None or not answer.tokens:
            return _refused(status, body)
        return Ability(True, "vLLM's format" if answer.count is not None else "llama.cpp's format")

    def _body(self, **fields: object) -> dict[str, object]:
        messages = [{"role": "user", "content": "Say hello."}]
        return {"model": self._model, "messages": messages, "max_tokens": 8, **fields}

    async def _post(self, path: str, body: dict[str, object]) -> tuple[int, bytes]:
        """Status and body; status 0: there was no answer, and the body says why."""
        import httpx

        try:
            answer = await self._client.post(path, json=body)
        except httpx.HTTPError as error:
            return 0, (str(error) or type(error).__name__).encode()
        return answer.status_code, answer.content


class _Message(msgspec.Struct):
    tool_calls: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct):
    message: _Message | None = None


class _Usage(msgspec.Struct):
    completion_tokens: int = 0


class _Whole(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None


class _Vector(msgspec.Struct):
    embedding: list[float]


class _Vectors(msgspec.Struct):
    data: list[_Vector]


class _Tokens(msgspec.Struct):
    tokens: list[msgspec.Raw]
    count: int | None = None


def _read(body: bytes, kind: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _refused(status: int, body: bytes) -> Ability:
    """4xx and 501: it says that it cannot; anything else leaves the question open."""
    detail = f"{status} {said(body)}".strip() if status else said(body)
    return Ability(False if status == 501 or (400 <= status < 500 and status != 429) else None, detail)


def said(body: bytes) -> str:
    return " ".join(body[: 4 * _SAID_CHARS].decode(errors="replace").split())[:_SAID_CHARS]
