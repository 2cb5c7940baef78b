"""Engines that are classic model servers: the form that a kind has, changed by what the configuration says."""

from __future__ import annotations

from dataclasses import replace

from engines.classic.engine import ClassicEngine
from engines.classic.forms import Form, Streaming
from engines.classic.translator import ClassicTranslator, Server
from engines.http import Endpoint
from engines.outbox import Outbox
from gateway.config import EngineOptions
from gateway.config.template_options import TemplateOptions
from gateway.kinds.key import with_key


def make_classic(server: Server, options: EngineOptions, endpoint: Endpoint, outbox: Outbox) -> ClassicEngine:
    """An engine for one replica.

    Raises:
        BadTemplate: a template of the configuration is none.
    """
    return ClassicEngine(with_key(endpoint, options), server, translator_for(server, options.template), outbox)


def translator_for(server: Server, options: TemplateOptions) -> ClassicTranslator:
    """The kind's translator, as the configuration changes it.

    Raises:
        BadTemplate: a template is none; `place` leads to it from `template`.
    """
    text, embeddings = _text(server.text, options), _embeddings(server.embeddings, options)
    return ClassicTranslator(server, text, embeddings, options.prompt)


def _text(form: Form, options: TemplateOptions) -> Form:
    form = _changed(form, options.path, options.request, options.answer)
    if options.path is not None:
        form = replace(form, stream_path=None, streaming=Streaming.NONE)
    if options.stream is not None:
        form = replace(form, streaming=Streaming(options.stream))
    if options.stream_path is not None:
        form = replace(form, stream_path=options.stream_path)
    if options.stream_answer is not None:
        form = replace(form, events=(options.stream_answer,))
    return form


def _embeddings(form: Form, options: TemplateOptions) -> Form:
    template = options.embeddings
    return _changed(form, template.path, template.request, template.answer)


def _changed(form: Form, path: str | None, request: object, answer: str | None) -> Form:
    if path is not None:
        form = replace(form, path=path)
    if request is not None:
        form = replace(form, request=request)
    if answer is not None:
        form = replace(form, answers=(answer,), plain=False)
    return form
