"""A model's chat template, rendered as transformers renders it (checked against transformers 5.19)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gateway.prompts.content_format import content_format
from gateway.prompts.conversation import Object, Unrenderable, conversation, tool_schemas

_CONTINUE = "CONTINUE_FINAL_MESSAGE_TAG "
_OWN_ARGUMENTS = frozenset(
    {
        "chat_template",
        "tokenize",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
        "conversation",
        "messages",
        "tools",
        "documents",
    }
)
"""Names in `chat_template_kwargs` that are arguments of the renderer itself: what they do there is not done here."""


class _Generation(Extension):
    """`{% generation %}` marks for training what the assistant wrote; here it is its content and no more."""

    tags = {"generation"}  # noqa: RUF012  # Jinja's own declaration

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class ChatTemplate:
    """One template, compiled.

    source: the template. It is the operator's: a caller's own is never compiled.
    variables: what it sees besides the request's, such as `bos_token`.

    Raises:
        TemplateError: it cannot be compiled.
    """

    def __init__(self, source: str, variables: Mapping[str, str]) -> None:
        environment = _environment()
        self.source = source
        self._template = environment.from_string(source)
        self._variables = variables
        self._format = content_format(environment.parse(source))
        self._developer_role = '"developer"' in source or "'developer'" in source

    def render(self, body: Object) -> str:
        """The text that the engine encodes for a chat body.

        Raises:
            Unrenderable: it cannot be known here, or the engine refuses the request.
        """
        messages = body.get("messages")
        if not isinstance(messages, list) or body.get("chat_template") is not None:
            raise Unrenderable("no messages, or a template of the caller's own")
        continued = body.get("continue_final_message") is True
        generate = body.get("add_generation_prompt", True)
        if continued and generate:
            raise Unrenderable("either continue or generate")
        turns = conversation(messages, self._format, developer_role=self._developer_role)
        tools = tool_schemas(body.get("tools"))
        last = _mark(turns) if continued else ""
        variables: dict[str, object] = {**self._variables, **_extra(body), "messages": turns, "tools": tools}
        variables |= {"documents": body.get("documents"), "add_generation_prompt": generate}
        try:
            text = self._template.render(variables)
        except Exception as error:  # a template does what it likes with what the caller wrote
            raise Unrenderable(str(error)) from error
        return _cut(text, last) if continued else text


def _extra(body: Object) -> dict[str, object]:
    """The caller's own variables."""
    given = body.get("chat_template_kwargs")
    extra = dict(given) if isinstance(given, dict) else {}
    if not _OWN_ARGUMENTS.isdisjoint(extra):
        raise Unrenderable("an argument of the renderer")
    effort = body.get("reasoning_effort")
    if effort is not None:
        extra.setdefault("enable_thinking", effort != "none")
        extra["reasoning_effort"] = effort
    return extra


def _mark(turns: list[Object]) -> str:
    """Marks the end of the last message, and returns what it was."""
    final = dict(turns[-1])
    content = final.get("content")
    if isinstance(content, str):
        final["content"] = content + _CONTINUE
        turns[-1] = final
        return content
    if isinstance(content, list):
        for index in range(len(content) - 1, -1, -1):
            text = content[index]["text"]
            parts = [*content]
            parts[index] = {**content[index], "text": text + _CONTINUE}
            turns[-1] = {**final, "content": parts}
            return str(text)
    raise Unrenderable("nothing to continue")


def _cut(text: str, last: str) -> str:
    """The rendered text up to the mark."""
    bare = _CONTINUE.strip()
    if last.strip() not in text or bare not in text:
        raise Unrenderable("the template drops a part of the final message")
    at = text.rindex(bare)
    return text[:at] if text.startswith(_CONTINUE, at) else text[:at].rstrip()


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    filters: dict[str, Callable[..., object]] = environment.filters
    filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    """The engine's clock and time zone are taken to be the gateway's."""
    return datetime.now().astimezone().strftime(form)
