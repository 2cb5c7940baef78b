"""How a chat becomes a request to a server that knows no chats: templates, rendered in a sandbox.

A caller's text is only ever a value in a template, never a part of one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NoReturn

from jinja2 import Environment, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engines.adapter import CannotSay
from engines.classic.asked import NAMES

CHAT_ML = """\
{% for message in messages %}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}
<|im_start|>assistant
"""
"""The chat template of a pool that has none of its own."""
_LONE = re.compile(r"\s*\{\{((?:(?!\{\{).)*)\}\}\s*", re.DOTALL)
Names = Mapping[str, object]
Render = Callable[[Names], object]
Place = tuple[str | int, ...]


class BadTemplate(Exception):
    """A template that cannot be used. `place`: keys and indices that lead to it within its section."""

    def __init__(self, place: Place, message: str, value: str = "", unknown: str = "") -> None:
        super().__init__(message)
        self.place = place
        self.value = value
        self.unknown = unknown
        """A name that no request has."""


class _Refused(Exception):
    """A template called `raise_exception`: it does not take this conversation."""


def environment() -> Environment:
    """Jinja as the chat templates on Hugging Face expect it."""
    made = ImmutableSandboxedEnvironment(  # not for HTML: what it writes goes to a model
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, extensions=["jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = _to_json
    made.globals.update(
        raise_exception=_raise_exception,
        strftime_now=lambda form: datetime.now().strftime(form),
        add_generation_prompt=True,
        bos_token="",
        eos_token="",
    )
    return made


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise _Refused(message)


class TextTemplate:
    """A template that makes a text.

    Raises:
        BadTemplate: it is none.
    """

    def __init__(self, jinja: Environment, source: str, place: Place) -> None:
        self.names = _names_in(jinja, source, place)
        self._template = jinja.from_string(source)

    def render(self, names: Names) -> str:
        """The text.

        Raises:
            CannotSay: the template refuses, or cannot be filled with this request.
        """
        return str(_filled(lambda: self._template.render(names)))


class JsonTemplate:
    """A JSON value whose texts may hold placeholders. A placeholder that is the whole text keeps its type, and a key
    whose placeholder has no value is left out.

    Raises:
        BadTemplate: a text in it is no template.
    """

    def __init__(self, jinja: Environment, value: object, place: Place) -> None:
        self._jinja = jinja
        self.names: frozenset[str] = frozenset()
        self._render = self._compiled(value, place)

    def render(self, names: Names) -> object:
        """The value.

        Raises:
            CannotSay: as `TextTemplate.render`.
        """
        return _filled(lambda: self._render(names))

    def _compiled(self, value: object, place: Place) -> Render:
        if isinstance(value, str):
            return self._compiled_text(value, place)
        if isinstance(value, Mapping):
            fields = {str(key): self._compiled(each, (*place, str(key))) for key, each in value.items()}
            optional = {str(key) for key, each in value.items() if isinstance(each, str) and _LONE.fullmatch(each)}
            return lambda names: _mapping(fields, optional, names)
        if isinstance(value, list):
            parts = [self._compiled(each, (*place, index)) for index, each in enumerate(value)]
            return lambda names: [part(names) for part in parts]
        return lambda names: value

    def _compiled_text(self, source: str, place: Place) -> Render:
        lone = _LONE.fullmatch(source)
        self.names |= _names_in(self._jinja, source, place)
        if lone is not None:
            return self._jinja.compile_expression(lone[1], undefined_to_none=True)
        return self._jinja.from_string(source).render


def _mapping(fields: Mapping[str, Render], optional: set[str], names: Names) -> dict[str, object]:
    values = {key: render(names) for key, render in fields.items()}
    return {key: value for key, value in values.items() if value is not None or key not in optional}


def _names_in(jinja: Environment, source: str, place: Place) -> frozenset[str]:
    try:
        jinja.from_string(source)
        names = meta.find_undeclared_variables(jinja.parse(source)) - jinja.globals.keys()
    except TemplateError as error:
        raise BadTemplate(place, f"it is no Jinja template: {error}", source) from error
    unknown = sorted(names - NAMES)
    if unknown:
        raise BadTemplate(place, f'a request has no "{unknown[0]}"', source, unknown[0])
    return frozenset(names)


def _filled(render: Callable[[], object]) -> object:
    try:
        return render()
    except _Refused as error:
        raise CannotSay(f"{error}", code="invalid_value") from None
    except Exception as error:  # whatever an expression of the template raises
        message = f"The template of this model cannot be filled with this request: {error}."
        raise CannotSay(message, code="invalid_value") from None
