"""The weights that compare questions, fetched once for all runs of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.model_fetch import Silent
from gateway.caching.models import Weights, pull_weights
from tests.e2e.clients.installs import cache


def weights_folder(*wanted: Weights) -> Path:
    """What `cache.semantic.embedder.path` takes; it may be deleted at any time between runs."""
    folder = cache() / "weights"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_CACHE", str(folder))
        for weights in wanted:
            pull_weights(weights, Silent())
    return folder / "models"
