"""One translator for all classic servers; what differs between them is data, and how each refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from engines.adapter import StreamReader, Wire, error_body
from engines.base import EngineProtocolError, EngineRequest, Operation
from engines.classic.answers import Answer
from engines.classic.asked import Asked, read_asked
from engines.classic.forms import NO_JSON, CompiledForm, Form, Streaming, decoded, error_in, first_text, first_value
from engines.classic.paths import NotThere, ServerFailed
from engines.classic.refusals import message_in
from engines.classic.streams import EitherReader, EventReader, TextReader, WholeReader
from engines.classic.template import CHAT_ML, TextTemplate, environment
from engines.classic.vectors import vectors_in

_T = TypeVar("_T")
Refusal = Callable[[int, Mapping[bytes, bytes], bytes], tuple[int, str]]
"""An answer's status, headers and body as the status that OpenAI would send, and its message."""


def plain_refusal(status: int, headers: Mapping[bytes, bytes], body: bytes) -> tuple[int, str]:
    return status, message_in(body)


def name_and_version(name: str) -> dict[str, str]:
    """`name@3` is version 3 of `name`."""
    model, at, version = name.rpartition("@")
    return {"model": model, "version": version} if at else {"model": name}


@dataclass(frozen=True, slots=True)
class Server:
    """What is particular to one kind of server.

    text, embeddings:   how it is asked, unless the configuration says otherwise.
    health_path:        answered with 200 by a server that works.
    any_answer_is_well: on that path every answer but a server error is one of a server that works.
    refusal:            reads what is no answer.
    parts:              takes a model name apart, into `model` and `version` or `label`.
    headers:            more headers for a request to a model that was so taken apart.
    """

    text: Form
    embeddings: Form
    health_path: str
    any_answer_is_well: bool = False
    refusal: Refusal = plain_refusal
    parts: Callable[[str], dict[str, str]] = name_and_version
    headers: Callable[[Mapping[str, str]], dict[str, str]] = lambda model: {}


class ClassicTranslator:
    """Implements `Translator`.

    Raises:
        BadTemplate: a template of the configuration is none.
    """

    def __init__(self, server: Server, text: Form, embeddings: Form, prompt: str | None = None) -> None:
        jinja = environment()
        self._server = server
        self._prompt = TextTemplate(jinja, CHAT_ML if prompt is None else prompt, ("prompt",))
        self._text = CompiledForm(jinja, text)
        self._embeddings = CompiledForm(jinja, embeddings, ("embeddings",))

    def begin(self, request: EngineRequest) -> ClassicExchange:
        form = self._embeddings if request.operation is Operation.EMBEDDINGS else self._text
        asked = read_asked(request, form.names)
        names = dict(asked.names)
        if request.operation is Operation.CHAT:
            names["prompt"] = self._prompt.render(names)
        model = self._server.parts(asked.model)
        wire = form.wire(names, model, stream=asked.stream and form.streaming is not Streaming.NONE)
        wire = Wire(wire.path, wire.body, self._server.headers(model))
        return ClassicExchange(asked, form, wire, self._server.refusal)


class ClassicExchange:
    """Implements `Exchange`."""

    def __init__(self, asked: Asked, form: CompiledForm, wire: Wire, refusal: Refusal) -> None:
        self.wire = wire
        self._asked = asked
        self._form = form
        self._refusal = refusal
        self._answer = Answer(asked)

    def whole(self, body: bytes) -> bytes:
        try:
            if self._asked.operation is not Operation.EMBEDDINGS:
                return self._answer.whole(self._text(body))
            count = len(self._asked.inputs)
            return self._answer.embeddings(
                _first(body, lambda it: vectors_in(first_value(self._form.answers, it), count))
            )
        except NotThere as error:
            return error_body(f"{error}", kind="upstream_error")

    def stream(self) -> StreamReader:
        answer, streaming = self._answer, self._form.streaming
        if streaming is Streaming.SSE:
            return EventReader(answer, self._form.events)
        if streaming is Streaming.TEXT:
            return TextReader(answer)
        whole = WholeReader(answer, self._text)
        return EitherReader(whole, TextReader(answer)) if streaming is Streaming.EITHER else whole

    def refusal(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> tuple[int, bytes]:
        status, message = self._refusal(status, headers, body)
        return status, error_body(message or f"The server answered with status {status}.", kind="upstream_error")

    def _text(self, body: bytes) -> str:
        """The text of a whole answer.

        Raises:
            NotThere: it has none where one should stand.
            EngineProtocolError: it is no JSON, and a path leads into it.
        """
        paths = self._form.answers
        if all(not path.steps for path in paths):
            return _text_itself(body)
        try:
            return _first(body, lambda document: first_text(paths, document))
        except ServerFailed:
            raise
        except (NotThere, EngineProtocolError):
            if self._form.plain:
                return _text_itself(body)
            raise


def _first(body: bytes, read: Callable[[object], _T]) -> _T:
    """What `read` finds in a JSON answer. A text in it may be JSON again, as score scripts like to give it.

    Raises:
        NotThere: what `read` says; or `ServerFailed`.
        EngineProtocolError: the answer is no JSON.
    """
    document = decoded(body)
    if document is NO_JSON:
        raise EngineProtocolError("the answer is no JSON")
    inner = decoded(document.encode()) if isinstance(document, str) else NO_JSON
    if inner is not NO_JSON:
        try:
            return read(_without_error(inner))
        except NotThere:
            pass
    return read(_without_error(document))


def _without_error(document: object) -> object:
    if error_in(document):
        raise ServerFailed(message_in(msgspec.json.encode(document)) or "the server reports an error")
    return document


def _text_itself(body: bytes) -> str:
    """An answer that is the text: as it is, or as a JSON string."""
    if body[:1] == b'"':
        text = decoded(body)
        if isinstance(text, str):
            return text
    return body.decode(errors="replace")
