"""From a pool's `engine` section to an `Engine`. A kind that needs more is imported when a pool names it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import cast

from engines.base import Engine
from engines.http import Endpoint, HttpEngine
from engines.llamacpp import LlamaCppEngine
from engines.outbox import Outbox
from gateway.config import EngineOptions
from gateway.kinds.key import with_key

Make = Callable[[EngineOptions, Endpoint, Outbox], Engine]
_MADE_IN: Mapping[str, str] = {
    "azureml": "gateway.kinds.azureml",
    "kserve": "gateway.kinds.kserve",
    "tfserving": "gateway.kinds.tfserving",
    "torchserve": "gateway.kinds.torchserve",
    "anthropic": "gateway.kinds.anthropic",
    "azure": "gateway.kinds.azure",
    "bedrock": "gateway.kinds.bedrock",
    "sagemaker": "gateway.kinds.sagemaker",
    "transformers": "gateway.kinds.transformers",
    "vertex": "gateway.kinds.vertex",
}
"""The module whose `make(options, endpoint, outbox)` makes engines of a kind; all others speak OpenAI's protocol."""


def make_engine(options: EngineOptions, name: str, url: str, outbox: Outbox) -> Engine:
    """The engine for one replica.

    Raises:
        ImportError: a library that the kind needs is not installed.
        OSError: the CA file cannot be read.
    """
    headers = {key: value.get_secret_value() for key, value in options.headers.items()}
    endpoint = Endpoint(name, url, headers, options.ca_file)
    module = _MADE_IN.get(options.kind)
    if module is not None:
        make = cast(Make, importlib.import_module(module).make)
        return make(options, endpoint, outbox)
    kind = LlamaCppEngine if options.kind == "llamacpp" else HttpEngine
    return kind(with_key(endpoint, options), outbox=outbox)
