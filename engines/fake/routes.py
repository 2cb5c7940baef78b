"""The model's API: which path does what. Everything under /fake/ is in `control`."""

from __future__ import annotations

import datetime
from collections.abc import Callable

import msgspec

from engines.fake.answers import Choice, make_choices
from engines.fake.connection import Connection, Request
from engines.fake.generation import Generation
from engines.fake.options import Overrides
from engines.fake.plan import Plan
from engines.fake.shapes import ChatReply, CompletionReply, EmbeddingReply, Head, Reply, Usage
from engines.fake.state import State
from engines.fake.tokens import split_tokens, token_bytes, token_id
from engines.fake.wire import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    Generate,
    Prompt,
    Refusal,
    TokenizeRequest,
    parse,
    render,
)

VERSION = "0.32.0"
_MAX_N = 128
_TEXT = "text/plain; version=0.0.4; charset=utf-8"


def created_s() -> int:
    return int(datetime.datetime.now(datetime.UTC).timestamp())


class ModelApi:
    """Answers requests to the model, and those about it."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._model_paths: dict[str, Callable[[Connection, Request], None]] = {
            "/v1/chat/completions": self._chat,
            "/v1/completions": self._complete,
            "/v1/embeddings": self._embed,
        }
        self._paths: dict[tuple[str, str], Callable[[Connection, Request], None]] = {
            ("GET", "/health"): self._health,
            ("GET", "/ping"): self._health,
            ("GET", "/v1/models"): self._models,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/version"): lambda c, _: c.send(200, msgspec.json.encode({"version": VERSION})),
            ("GET", "/load"): lambda c, _: c.send(200, msgspec.json.encode({"server_load": self._state.open})),
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
        }

    def serve(self, connection: Connection, request: Request) -> None:
        handler = self._model_paths.get(request.path) if request.method == "POST" else None
        state = self._state
        if handler is not None:
            state.counters.requests += 1
            state.counters.arrived += 1
        elif (request.method, request.path) in self._paths:
            handler = self._paths[request.method, request.path]
        else:
            self._no_such_path(connection, request)
            return
        try:
            self._guard(request)
            handler(connection, request)
        except Refusal as refusal:
            state.counters.refused += request.path in self._model_paths
            connection.send(refusal.status, refusal.body())
        state.watch.changed()

    def _no_such_path(self, connection: Connection, request: Request) -> None:
        known = request.path in self._model_paths or any(path == request.path for _, path in self._paths)
        status, text = (405, "Method Not Allowed") if known else (404, "Not Found")
        connection.send(status, msgspec.json.encode({"detail": text}))

    def _guard(self, request: Request) -> None:
        options = self._state.options
        guarded = request.path.startswith("/v1")
        if guarded and options.api_key is not None and request.header("authorization") != f"Bearer {options.api_key}":
            raise Unauthorized
        if self._state.starting and request.path in (*self._model_paths, "/health", "/ping"):
            raise Refusal(503, "The engine is still loading its model.", "ServiceUnavailableError")

    def _health(self, connection: Connection, _: Request) -> None:
        connection.send(self._state.options.health_status, b"")

    def _models(self, connection: Connection, _: Request) -> None:
        options = self._state.options
        common: dict[str, object] = {"object": "model", "created": created_s(), "owned_by": "vllm", "parent": None}
        common["max_model_len"] = options.max_model_len
        data = [{"id": name, "root": name} | common for name in options.models]
        connection.send(200, msgspec.json.encode({"object": "list", "data": data}))

    def _metrics(self, connection: Connection, _: Request) -> None:
        state = self._state
        page = state.metrics.render(
            model=state.options.models[0],
            running=state.scheduler.running,
            waiting=state.scheduler.waiting,
            kv_usage=state.scheduler.kv_usage,
            block_tokens=state.options.block_tokens,
            blocks=state.options.kv_tokens // state.options.block_tokens,
        )
        connection.send(200, page, kind=_TEXT)

    def _tokenize(self, connection: Connection, request: Request) -> None:
        asked = parse(request.body, TokenizeRequest)
        self._known(asked.model)
        if asked.prompt is None and asked.messages is None:
            raise Refusal(400, "one of `prompt` and `messages` is required", "Bad Request")
        tokens = split_tokens(asked.prompt if asked.prompt is not None else render(asked.messages or []))
        strings = [token.decode("utf-8", "replace") for token in tokens] if asked.return_token_strs else None
        answer = {
            "count": len(tokens),
            "max_model_len": self._state.options.max_model_len,
            "tokens": [token_id(token) for token in tokens],
            "token_strs": strings,
        }
        connection.send(200, msgspec.json.encode(answer))

    def _detokenize(self, connection: Connection, request: Request) -> None:
        asked = parse(request.body, DetokenizeRequest)
        self._known(asked.model)
        text = b"".join(map(token_bytes, asked.tokens)).decode("utf-8", "replace")
        connection.send(200, msgspec.json.encode({"prompt": text}))

    def _chat(self, connection: Connection, request: Request) -> None:
        asked = parse(request.body, ChatRequest, refuse_unknown=self._state.options.refuse_unknown_fields)
        if not asked.messages:
            raise Refusal(400, "`messages` must not be empty", "BadRequestError", "messages")
        _check_n(asked.n)
        text = asked.prompt()
        prompt = split_tokens(text)
        limit = self._limit(len(prompt), _first(asked.max_completion_tokens, asked.max_tokens))
        plan = self._plan(request, asked.fake)
        choices = make_choices(asked, plan, text, limit, self._state.options.seed)
        usage = Usage(len(prompt), sum(choice.tokens for choice in choices))
        reply = ChatReply(
            self._head("chatcmpl", asked.model), choices, usage,
            logprobs=(asked.top_logprobs or 0) if asked.logprobs else None, include_usage=asked.include_usage,
        )  # fmt: skip
        self._generate(connection, plan, reply, prompt, asked)

    def _complete(self, connection: Connection, request: Request) -> None:
        asked = parse(request.body, CompletionRequest, refuse_unknown=self._state.options.refuse_unknown_fields)
        _check_n(asked.n)
        texts = _texts(asked.prompt)
        prompts = [split_tokens(text) for text in texts]
        limit = self._limit(max(map(len, prompts)), _first(asked.max_tokens, 16))
        plan = self._plan(request, asked.fake)
        choices: list[Choice] = []
        for text in texts:
            made = make_choices(asked, plan, text, limit, self._state.options.seed, len(choices))
            if asked.echo:
                for choice in made:
                    choice.pieces.insert(0, text)
            choices += made
        tokens = [token for prompt in prompts for token in prompt]
        usage = Usage(len(tokens), sum(choice.tokens - bool(asked.echo) for choice in choices))
        head = self._head("cmpl", asked.model)
        reply = CompletionReply(head, choices, usage, logprobs=asked.logprobs, include_usage=asked.include_usage)
        self._generate(connection, plan, reply, tokens, asked)

    def _embed(self, connection: Connection, request: Request) -> None:
        state = self._state
        asked = parse(request.body, EmbeddingRequest, refuse_unknown=state.options.refuse_unknown_fields)
        texts = _texts(asked.input)
        prompts = [split_tokens(text) for text in texts]
        for prompt in prompts:
            self._fits(len(prompt), 0)
        tokens = [token for prompt in prompts for token in prompt]
        dims = asked.dimensions or state.options.embedding_dims
        reply = EmbeddingReply(
            self._head("embd", asked.model), texts, Usage(len(tokens), 0),
            dims=dims, as_base64=asked.encoding_format == "base64",
        )  # fmt: skip
        self._start(connection, self._plan(request, asked.fake), reply, tokens, stream=False)

    def _generate(self, connection: Connection, plan: Plan, reply: Reply, prompt: list[bytes], asked: Generate) -> None:
        self._start(connection, plan, reply, prompt, stream=bool(asked.stream), salt=asked.cache_salt or "")

    def _start(
        self, connection: Connection, plan: Plan, reply: Reply, prompt: list[bytes], *, stream: bool, salt: str = ""
    ) -> None:
        state = self._state
        reply.show_usage = plan.usage
        kv_tokens = len(prompt) + reply.usage.completion_tokens
        job = Generation(state, connection, plan, reply, prompt, stream=stream, kv_tokens=kv_tokens, salt=salt)
        state.open += 1
        if not job.submit():
            state.open -= 1
            waiting = state.scheduler.waiting
            message = f"The engine is full: {waiting} requests wait, --max-queue allows {state.options.max_queue}."
            raise Refusal(503, message, "ServiceUnavailableError")

    def _plan(self, request: Request, overrides: Overrides | None) -> Plan:
        header = request.header("x-fake")
        if overrides is None and header is not None:
            overrides = parse(header.encode("latin-1"), Overrides)
        return self._state.planner.plan(self._state.options, overrides)

    def _head(self, kind: str, model: str | None) -> Head:
        state = self._state
        name = self._known(model)
        state.made += 1
        return Head(f"{kind}-{state.made:016x}", created_s(), name)

    def _known(self, model: str | None) -> str:
        models = self._state.options.models
        if model is None:
            return models[0]
        if model not in models:
            raise Refusal(404, f"The model `{model}` does not exist.", "NotFoundError", "model")
        return model

    def _limit(self, prompt_tokens: int, max_tokens: int | None) -> int:
        """The tokens that an answer may have.

        Raises:
            Refusal: the limit asked for is not positive, or too long with the prompt.
        """
        if max_tokens is not None and max_tokens < 1:
            raise Refusal(400, f"max_tokens must be at least 1, got {max_tokens}.", "BadRequestError", "max_tokens")
        self._fits(prompt_tokens, max_tokens or 0)
        return max_tokens or self._state.options.max_model_len - prompt_tokens

    def _fits(self, prompt_tokens: int, wanted: int) -> None:
        longest = self._state.options.max_model_len
        if prompt_tokens + max(wanted, 1) > longest:
            message = (
                f"This model's maximum context length is {longest} tokens. However, you requested {wanted} output "
                f"tokens and your prompt contains {prompt_tokens} input tokens. Please reduce the length of either one."
            )
            raise Refusal(400, message, "BadRequestError", "input_tokens")


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


def _check_n(n: int | None) -> None:
    if n is not None and not 1 <= n <= _MAX_N:
        raise Refusal(400, f"n must be from 1 to {_MAX_N}, got {n}.", "BadRequestError", "n")


class Unauthorized(Refusal):
    """vLLM's answer to a missing or wrong key is not in its own error shape."""

    def __init__(self) -> None:
        super().__init__(401, "Unauthorized", "Unauthorized")

    def body(self) -> bytes:
        return b'{"error":"Unauthorized"}'


def _texts(prompt: Prompt) -> list[str]:
    """Each prompt as text; token ids are turned back."""
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise Refusal(400, "the prompt must not be an empty list", "BadRequestError", "prompt")
    numbers = [part for part in prompt if isinstance(part, int)]
    if numbers:
        return [_detokenized(numbers)]
    return [part if isinstance(part, str) else _detokenized(part) for part in prompt if not isinstance(part, int)]


def _detokenized(numbers: list[int]) -> str:
    return b"".join(map(token_bytes, numbers)).decode("utf-8", "replace")
