"""Where `headrace cache evaluate` has the vectors of questions from."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from cache.embed.seam import EmbedderError, NoVector
from cache.evaluate.vectors import BadVectors, KeptVectors
from engines.models import ModelError
from gateway.caching.embedders import open_embedder
from gateway.caching.models import MINILM, STATIC, pull_weights
from gateway.cli.cache_evaluate_output import bar
from gateway.cli.progress import fetch_progress
from gateway.cli.simulate_values import wrong
from gateway.config.cache_options import EmbedderOptions

Kind = Literal["minilm", "static"]

_PATIENCE_S = 600.0
"""Nobody waits for a lookup here: a machine that is busy makes it slow, not wrong."""


def kept_vectors(kind: Kind, texts: Sequence[str], path: Path | None) -> KeptVectors:
    """Of all these texts: from the file, where it has them, else from the embedder, and then in the file too."""
    kept = KeptVectors(kind)
    try:
        if path is not None and path.exists():
            kept.read(path)
        if missing := kept.missing(texts):
            with fetch_progress() as told:
                pull_weights(MINILM if kind == "minilm" else STATIC, told)
            asyncio.run(_fill(kept, kind, missing))
            if path is not None:
                kept.write(path)
    except (BadVectors, EmbedderError, ModelError, NoVector) as error:
        wrong(str(error))
    return kept


async def _fill(kept: KeptVectors, kind: Kind, texts: Sequence[str]) -> None:
    stages = await open_embedder(EmbedderOptions(kind=kind, timeout_s=_PATIENCE_S))
    try:
        with bar("embedding", len(texts)) as step:
            await kept.fill(texts, stages.second, step)
    finally:
        await stages.aclose()
