"""What a caller asks, as far as a server that takes text can be told."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import msgspec

from engines.adapter import CannotSay
from engines.base import EngineRequest, Operation

SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "user",
)
"""Passed to a template as they came; one that names none of them asks with the server's own settings."""
ONLY_BY_TEMPLATE = ("stop", "response_format", "suffix", "dimensions")
"""Fields that change what an answer means: refused, unless the template names them."""
NAMES = frozenset(
    {"prompt", "messages", "input", "max_tokens", "stream", "model", "version", "label", "body"}
    | {*SAMPLING, *ONLY_BY_TEMPLATE}
)
"""What a template may name."""
_AT_FIELD = re.compile(r"\$\.([A-Za-z_]+)")


class _Part(msgspec.Struct):
    type: str
    text: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    name: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class _ResponseFormat(msgspec.Struct):
    type: str


class _Body(msgspec.Struct):
    model: str
    messages: list[_Message] | None = None
    prompt: str | list[str] | None = None
    input: str | list[str] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    logprobs: bool | int | None = None
    tools: list[msgspec.Raw] | None = None
    functions: list[msgspec.Raw] | None = None
    modalities: list[str] | None = None
    response_format: _ResponseFormat | None = None
    encoding_format: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """names: what a template may name, but for the prompt of a chat, which is made of `messages`."""

    operation: Operation
    model: str
    stream: bool
    inputs: list[str]
    base64: bool
    names: dict[str, object]


def read_asked(request: EngineRequest, named: Collection[str]) -> Asked:
    """Take a request apart. `named`: what the template that it will go through names.

    Raises:
        CannotSay: it asks for what cannot be said in text, or a field has the wrong type.
    """
    try:
        body = msgspec.json.decode(request.body, type=_Body)
        fields = msgspec.json.decode(request.body, type=dict[str, object])
    except msgspec.ValidationError as error:
        at = _AT_FIELD.search(str(error))
        raise CannotSay(f"{error}.", param=at[1] if at else None, code="invalid_type") from None
    _refuse(body, fields, named)
    names: dict[str, object] = {name: fields.get(name) for name in (*SAMPLING, *ONLY_BY_TEMPLATE)}
    names["stop"] = [body.stop] if isinstance(body.stop, str) else body.stop
    names["max_tokens"] = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    names |= {"stream": request.stream, "body": fields}
    inputs = _inputs(request.operation, body, names)
    return Asked(request.operation, body.model, request.stream, inputs, body.encoding_format == "base64", names)


def _inputs(operation: Operation, body: _Body, names: dict[str, object]) -> list[str]:
    """Put what is asked about into `names`; gives the texts to embed."""
    if operation is Operation.CHAT:
        names["messages"] = [_plain(message) for message in body.messages or ()]
        if not body.messages:
            raise CannotSay("`messages` is empty.", param="messages", code="missing_required_parameter")
        return []
    if operation is Operation.COMPLETIONS:
        names["prompt"] = _one(body.prompt)
        return []
    if operation is Operation.EMBEDDINGS:
        names["input"] = inputs = [body.input] if isinstance(body.input, str) else body.input or []
        if not inputs:
            raise CannotSay("`input` is empty.", param="input", code="missing_required_parameter")
        return inputs
    message = f"The server behind this model does not offer /{operation}."
    raise CannotSay(message, code="unsupported_operation")


def _one(prompt: str | list[str] | None) -> str:
    if isinstance(prompt, str):
        return prompt
    if not prompt or len(prompt) > 1:
        raise CannotSay("This model takes one `prompt` in a request.", param="prompt")
    return prompt[0]


def _plain(message: _Message) -> dict[str, str]:
    """A message whose content is one text, as chat templates want it."""
    if message.tool_calls or message.role in ("tool", "function"):
        raise CannotSay("This model does not take tool calls.", param="messages")
    content = message.content
    if isinstance(content, list):
        for part in content:
            if part.type != "text":
                raise CannotSay(f"This model takes text, and no {part.type!r}.", param="messages")
        content = "\n".join(part.text for part in content)
    plain = {"role": message.role, "content": content or ""}
    return plain | ({"name": message.name} if message.name else {})


def _refuse(body: _Body, fields: Mapping[str, object], named: Collection[str]) -> None:
    """What no answer in text could do."""
    wants_more = {
        "n": (body.n or 1) > 1,
        "best_of": (body.best_of or 1) > 1,
        "echo": body.echo,
        "logprobs": body.logprobs is not None and body.logprobs is not False,
        "tools": body.tools,
        "functions": body.functions,
        "modalities": body.modalities and body.modalities != ["text"],
    }
    for field, wanted in wants_more.items():
        if wanted:
            raise CannotSay(f"The server behind this model does not offer `{field}`.", param=field)
    plain_text = body.response_format is not None and body.response_format.type == "text"
    for field in ONLY_BY_TEMPLATE:
        asked_for = fields.get(field) not in (None, []) and not (field == "response_format" and plain_text)
        if asked_for and field not in named and "body" not in named:
            message = f"This model does not take `{field}`: the `template.request` of its pool does not name it."
            raise CannotSay(message, param=field)
