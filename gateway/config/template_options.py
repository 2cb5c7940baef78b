"""How a chat becomes a request to a server that knows no chats, and where in its answer the text stands."""

from __future__ import annotations

from typing import Any, Literal

from gateway.config.base import Section


class EmbeddingsTemplate(Section):
    """How embeddings are asked for."""

    path: str | None = None
    """As `path` of the template."""
    request: dict[str, Any] | None = None
    """As `request` of the template; the texts to embed are `{{ input }}`, a list."""
    answer: str | None = None
    """Path to the embeddings: a list of them, or a V2 tensor."""


class TemplateOptions(Section):
    """For kserve, tfserving, torchserve and azureml: what is sent, and where the answer stands. What is not set is as
    the kind has it; docs/guide/classic-servers.md shows what that is."""

    prompt: str | None = None
    """Chat template (Jinja, as on Hugging Face) that makes a prompt of `messages`; none: ChatML."""
    path: str | None = None
    """Path of a request below the URL; it may name `{{ model }}`, `{{ version }}` and `{{ label }}`."""
    request: dict[str, Any] | None = None
    """Body of a request, whose texts may hold placeholders such as `{{ prompt }}` or `{{ max_tokens }}`. A text that is
    one placeholder keeps its type, and its key is left out if the caller did not set it."""
    answer: str | None = None
    """Path to the text in an answer, such as `outputs.0.data.0`; empty: the whole answer is the text."""
    stream: Literal["none", "sse", "text"] | None = None
    """How an answer streams: not at all, as events, or as the text itself; none: as the kind does, or not at all if
    `path` is set."""
    stream_path: str | None = None
    """Path of a request whose answer is to stream; none: `path`."""
    stream_answer: str | None = None
    """Path to the text in an event of a stream; none: `answer`."""
    embeddings: EmbeddingsTemplate = EmbeddingsTemplate()
    """How embeddings are asked for."""
