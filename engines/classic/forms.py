"""What is sent to a server for one kind of question, and where in its answer the result stands."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

import msgspec
from jinja2 import Environment

from engines.adapter import CannotSay, Wire
from engines.classic.paths import JsonPath, NotThere, text_at
from engines.classic.template import BadTemplate, JsonTemplate, Names, Place, TextTemplate

_T = TypeVar("_T")


class Streaming(enum.StrEnum):
    """How a streamed answer comes."""

    NONE = "none"
    """Not at all: it comes whole, and the caller gets it as one event."""
    SSE = "sse"
    """As server-sent events."""
    TEXT = "text"
    """As the text itself."""
    EITHER = "either"
    """As the text itself, unless it begins as JSON does: then whole."""


@dataclass(frozen=True, slots=True)
class Form:
    """One kind of question, as a server wants it.

    path, stream_path: templates below the server's URL; they may name `model`, `version` and `label`.
    request:           a JSON value with placeholders.
    answers:           paths to the result; the first that leads somewhere counts.
    events:            the same for each event of a stream.
    plain:             a whole answer in which no path leads anywhere is itself the text.
    """

    path: str
    request: object
    answers: tuple[str, ...]
    streaming: Streaming = Streaming.NONE
    stream_path: str | None = None
    events: tuple[str, ...] | None = None
    plain: bool = False


class CompiledForm:
    """A form, ready for use. `place` leads to it in its section of the configuration.

    Raises:
        BadTemplate: a template or a path in it is none.
    """

    def __init__(self, jinja: Environment, form: Form, place: Place = ()) -> None:
        self.streaming = form.streaming
        self.plain = form.plain
        self._path = TextTemplate(jinja, _absolute(form.path, (*place, "path")), (*place, "path"))
        stream_path = form.stream_path or form.path
        self._stream_path = TextTemplate(
            jinja, _absolute(stream_path, (*place, "stream_path")), (*place, "stream_path")
        )
        self._request = JsonTemplate(jinja, form.request, (*place, "request"))
        self.answers = _paths(form.answers, (*place, "answer"))
        self.events = _paths(form.events, (*place, "stream_answer")) if form.events is not None else self.answers

    @property
    def names(self) -> frozenset[str]:
        """What the request names."""
        return self._request.names

    def wire(self, names: Names, model: Names, *, stream: bool) -> Wire:
        """The request.

        Args:
            names:  what the caller asks.
            model:  `model`, and `version` or `label` if one is asked for.
            stream: whether the answer is to come in pieces.

        Raises:
            CannotSay: the template cannot be filled with this request.
        """
        where = self._stream_path if stream else self._path
        path = where.render({name: quote(str(value), safe="") for name, value in model.items()})
        body = self._request.render({**names, **model, "stream": stream})
        try:
            return Wire(path, msgspec.json.encode(body))
        except (TypeError, ValueError) as error:
            message = f"The template of this model makes what is no JSON: {error}."
            raise CannotSay(message, code="invalid_value") from None


def _absolute(path: str, place: Place) -> str:
    if not path.startswith("/"):
        raise BadTemplate(place, f'a path begins with "/", and "{path}" does not', path)
    return path


def _paths(texts: tuple[str, ...], place: Place) -> tuple[JsonPath, ...]:
    try:
        return tuple(map(JsonPath.parse, texts))
    except ValueError as error:
        raise BadTemplate(place, f"{error}") from error


def first_text(paths: tuple[JsonPath, ...], document: object) -> str:
    """The text at the first path that leads to one.

    Raises:
        NotThere: none does; what it says is of the first.
    """
    return _first(paths, lambda path: text_at(path, document))


def first_value(paths: tuple[JsonPath, ...], document: object) -> object:
    """As `first_text`, for values of any type."""
    return _first(paths, lambda path: path.find(document))


def _first(paths: tuple[JsonPath, ...], read: Callable[[JsonPath], _T]) -> _T:
    said: list[str] = []  # not the exceptions, whose tracebacks lead back here: a cycle
    for path in paths:
        try:
            return read(path)
        except NotThere as error:
            said.append(f"{error}")
    raise NotThere(said[0])


def error_in(document: object) -> object:
    """What a server says in place of an answer: under `error`, in JSON. None if it does not."""
    return document.get("error") if isinstance(document, Mapping) else None


def decoded(body: bytes) -> object:
    """What the JSON of an answer says; `NO_JSON` if it is none. An exception would keep the caller's frames alive as
    the context of the error that it becomes: a cycle."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return NO_JSON


NO_JSON = object()
