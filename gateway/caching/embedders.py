"""What compares questions, as the configuration asks for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from urllib.parse import urlsplit

from cache.embed.batches import Room
from cache.embed.endpoint import EndpointEmbedder
from cache.embed.minilm import MiniLmEmbedder
from cache.embed.seam import EmbedderError
from cache.embed.static import StaticEmbedder
from cache.embed.two_stage import TwoStage
from engines.base import EngineRequest, Operation, Timeouts
from engines.http import Endpoint, HttpEngine
from engines.models import ModelError
from gateway.caching.models import MINILM, STATIC, Weights, pull_weights
from gateway.config.cache_options import EmbedderOptions

logger = logging.getLogger(__name__)

_MAX_ANSWER_BYTES = 8 * 1024 * 1024


async def open_embedder(options: EmbedderOptions) -> TwoStage:
    """Fetches weights that are not here, and reads them, in a thread: seconds. After the process was forked.

    Raises:
        EmbedderError: it cannot be had; the message says why and what to do about it.
    """
    await asyncio.to_thread(_load_graphs)
    if options.kind == "endpoint":
        return TwoStage(None, _endpoint(options), remote=True)
    try:
        return await asyncio.to_thread(_local, options)
    except ModelError as error:
        raise EmbedderError(str(error)) from error


class EndpointPost:
    """The way to an endpoint, over kept connections."""

    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        self._engine = HttpEngine(endpoint)
        self._limits = Timeouts(connect_s=timeout_s, total_s=timeout_s)

    async def __call__(self, body: bytes) -> tuple[int, bytes]:
        response = await self._engine.send(EngineRequest(Operation.EMBEDDINGS, body), self._limits)
        try:
            return response.status, await response.read(_MAX_ANSWER_BYTES)
        finally:
            response.abort()

    async def aclose(self) -> None:
        await self._engine.aclose()


def _endpoint(options: EmbedderOptions) -> EndpointEmbedder:
    if options.url is None or options.model is None:
        missing = "url" if options.url is None else "model"
        raise EmbedderError(f"`cache.semantic.embedder.kind: endpoint` needs `cache.semantic.embedder.{missing}`")
    headers = {} if options.key is None else {"authorization": f"Bearer {options.key.get_secret_value()}"}
    host = urlsplit(options.url).netloc.rpartition("@")[2]
    post = EndpointPost(Endpoint("embedder", options.url, headers), options.timeout_s)
    name = f"{options.model}@{host}"
    return EndpointEmbedder(post, model=options.model, name=name, room=Room(timeout_s=options.timeout_s))


def _load_graphs() -> None:
    """What large indexes are made of reads many files as it is imported: now, rather than when one grows large."""
    with contextlib.suppress(ImportError):
        import usearch.index  # noqa: F401


def _local(options: EmbedderOptions) -> TwoStage:
    if options.kind == "static":
        return TwoStage(None, StaticEmbedder(_folder(options, STATIC)))
    second = MiniLmEmbedder(_folder(options, MINILM), Room(timeout_s=options.timeout_s))
    try:
        first = StaticEmbedder(_folder(options, STATIC))
    except (EmbedderError, ModelError) as error:
        logger.warning("every question asks MiniLM, for want of the table that is quicker: %s", error)
        return TwoStage(None, second)
    return TwoStage(first, second)


def _folder(options: EmbedderOptions, weights: Weights) -> Path:
    if options.path is not None:
        return Path(options.path).expanduser().absolute() / weights.name
    return pull_weights(weights, _Told(weights.name))


class _Told:
    """A fetch in the log: that it began, and what went wrong on the way."""

    def __init__(self, name: str) -> None:
        self._name = name

    def begin(self, what: str, total_bytes: int | None, done_bytes: int) -> None:
        size = "" if total_bytes is None else f", {total_bytes / 1e6:.1f} MB"
        logger.info("fetching %s for %s%s", what, self._name, size)

    def advance(self, count_bytes: int) -> None:
        pass

    def note(self, text: str) -> None:
        logger.info("%s: %s", self._name, text)
