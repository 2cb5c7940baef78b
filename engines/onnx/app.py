"""OpenAI's API over a `Runner`."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel, Field

from engines.onnx.runner import Generation, Piece, Runner, Sampling

_DEFAULT_TOKENS = 256


class _Options(BaseModel):
    include_usage: bool | None = None


class _Format(BaseModel):
    type: str = "text"
    json_schema: dict[str, Any] | None = None


class _Call(BaseModel):
    model: str
    stream: bool = False
    stream_options: _Options | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    seed: int | None = None
    repetition_penalty: float = Field(default=1.0, gt=0)
    stop: str | list[str] | None = None
    n: int | None = Field(default=None, ge=1, le=1)
    response_format: _Format | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    prompt: str | None = None

    def sampling(self, most: int) -> Sampling:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            max_tokens=min(most, self.max_completion_tokens or self.max_tokens or _DEFAULT_TOKENS),
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p or 1.0,
            top_k=self.top_k,
            seed=self.seed,
            repetition_penalty=self.repetition_penalty,
            stop=tuple(stop),
            schema=self._schema(),
        )

    def _schema(self) -> str | None:
        wanted = self.response_format
        if wanted is None or wanted.type == "text":
            return None
        if wanted.type == "json_object":
            return '{"type": "object"}'
        return json.dumps((wanted.json_schema or {}).get("schema", {"type": "object"}))


class _Tokenize(BaseModel):
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None


class _Detokenize(BaseModel):
    tokens: list[int]


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class _Answer:
    """One call's names and counts, in the wire format of chat or of plain completions."""

    def __init__(self, call: _Call, prompt_tokens: int) -> None:
        self.chat = call.messages is not None
        self.id = f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid.uuid4().hex}"
        self.kind = "chat.completion" if self.chat else "text_completion"
        self.model = call.model
        self.created = int(time.time())  # noqa: TID251 - for people
        self.prompt_tokens = prompt_tokens

    def usage(self, tokens: int) -> dict[str, int]:
        total = self.prompt_tokens + tokens
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": tokens, "total_tokens": total}

    def whole(self, text: str, reason: str, tokens: int) -> dict[str, Any]:
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        choice = {"index": 0, **said, "finish_reason": reason, "logprobs": None}
        return {**self._head(self.kind), "choices": [choice], "usage": self.usage(tokens)}

    def piece(self, text: str | None, reason: str | None = None) -> bytes:
        said: dict[str, Any] = {"text": text or ""}
        if self.chat:
            said = {"delta": {"role": "assistant", "content": ""} if text is None else {"content": text}}
            if reason and not text:
                said = {"delta": {}}
        choice = {"index": 0, **said, "finish_reason": reason, "logprobs": None}
        return _event({**self._head(self._chunk_kind), "choices": [choice]})

    def last(self, tokens: int) -> bytes:
        return _event({**self._head(self._chunk_kind), "choices": [], "usage": self.usage(tokens)})

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.chat else self.kind

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def create_app(runner: Runner, name: str) -> FastAPI:
    app = FastAPI(title="ONNX Runtime GenAI", docs_url=None, redoc_url=None)
    app.add_exception_handler(_Refused, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        model = {"id": name, "object": "model", "owned_by": "onnxruntime-genai", "max_model_len": runner.context_tokens}
        return {"object": "list", "data": [model]}

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        load = runner.load
        return PlainTextResponse(
            f"# TYPE onnx:requests_running gauge\nonnx:requests_running {load.running}\n"
            f"# TYPE onnx:requests_waiting gauge\nonnx:requests_waiting {load.waiting}\n"
            f"# TYPE onnx:tokens_generated counter\nonnx:tokens_generated_total {load.generated}\n"
        )

    @app.post("/tokenize")
    async def tokenize(call: _Tokenize) -> dict[str, Any]:
        text = call.prompt if call.messages is None else _rendered(runner, call.messages, None)
        tokens = [int(token) for token in runner.tokenizer.encode(text or "")]
        return {"count": len(tokens), "max_model_len": runner.context_tokens, "tokens": tokens}

    @app.post("/detokenize")
    async def detokenize(call: _Detokenize) -> dict[str, Any]:
        return {"prompt": runner.tokenizer.decode(call.tokens)}

    @app.post("/v1/chat/completions")
    async def chat(call: _Call, request: Request) -> Response:
        if call.messages is None:
            raise _Refused(400, "`messages` is required", "missing_required_parameter")
        return await _answer(runner, call, _rendered(runner, call.messages, call.tools), request)

    @app.post("/v1/completions")
    async def complete(call: _Call, request: Request) -> Response:
        if call.prompt is None:
            raise _Refused(400, "`prompt` is required, as one text", "missing_required_parameter")
        call.messages = None
        return await _answer(runner, call, call.prompt, request)

    return app


def _rendered(runner: Runner, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
    more = {"tools": json.dumps(tools)} if tools else {}
    try:
        text: str = runner.tokenizer.apply_chat_template(json.dumps(messages), add_generation_prompt=True, **more)
    except Exception as error:  # the template refuses, in words of its own
        raise _Refused(400, f"the chat template does not take these messages: {error}") from None
    return text


async def _answer(runner: Runner, call: _Call, text: str, request: Request) -> Response:
    prompt = [int(token) for token in runner.tokenizer.encode(text)]
    room = runner.context_tokens - len(prompt)
    if room < 1:
        message = (
            f"This model's maximum context length is {runner.context_tokens} tokens; the prompt has {len(prompt)}."
        )
        raise _Refused(400, message, "context_length_exceeded")
    generation, pieces = runner.stream(prompt, call.sampling(room))
    answer = _Answer(call, len(prompt))
    if call.stream:
        wants_usage = call.stream_options is not None and bool(call.stream_options.include_usage)
        return StreamingResponse(_stream(generation, pieces, answer, wants_usage), media_type="text/event-stream")
    return await _whole(generation, pieces, answer, request)


async def _whole(
    generation: Generation, pieces: asyncio.Queue[Piece | Exception], answer: _Answer, request: Request
) -> Response:
    text = ""
    watching = asyncio.create_task(_gone(request))
    try:
        while True:
            getting = asyncio.create_task(pieces.get())
            await asyncio.wait((getting, watching), return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                getting.cancel()
                return Response(status_code=499)
            piece = getting.result()
            if isinstance(piece, Exception):
                raise _Refused(500, f"the generation failed: {piece}")
            text += piece.text
            if piece.finish_reason:
                return JSONResponse(answer.whole(text, piece.finish_reason, generation.tokens))
    finally:
        generation.cancelled = True
        watching.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _stream(
    generation: Generation, pieces: asyncio.Queue[Piece | Exception], answer: _Answer, wants_usage: bool
) -> AsyncIterator[bytes]:
    """Left by an exception when the client is gone, which ends the generation."""
    try:
        if answer.chat:
            yield answer.piece(None)
        while True:
            piece = await pieces.get()
            if isinstance(piece, Exception):
                yield _event(
                    {"error": {"message": f"the generation failed: {piece}", "type": "server_error", "code": 500}}
                )
                return
            if piece.text:
                yield answer.piece(piece.text)
            if piece.finish_reason:
                break
        yield answer.piece("", piece.finish_reason)
        if wants_usage:
            yield answer.last(generation.tokens)
        yield b"data: [DONE]\n\n"
    finally:
        generation.cancelled = True


def _event(data: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, _Refused)
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    body = {"message": str(error), "type": kind, "param": None, "code": error.code}
    return JSONResponse({"error": body}, error.status)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:])
    body = {
        "message": f"{field}: {first['msg']}",
        "type": "invalid_request_error",
        "param": field,
        "code": "invalid_value",
    }
    return JSONResponse({"error": body}, 400)
