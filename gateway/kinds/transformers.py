"""`kind: transformers`: a `transformers serve`."""

from __future__ import annotations

from engines.base import Engine
from engines.http import Endpoint
from engines.outbox import Outbox
from engines.transformers import TransformersEngine
from gateway.config import EngineOptions
from gateway.kinds.key import with_key


def make(options: EngineOptions, endpoint: Endpoint, outbox: Outbox) -> Engine:
    return TransformersEngine(with_key(endpoint, options), model=options.model, outbox=outbox)
