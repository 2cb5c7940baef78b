"""Azure Machine Learning online endpoints."""

from __future__ import annotations

from engines.base import Engine
from engines.classic.azureml import SERVER
from engines.http import Endpoint
from engines.outbox import Outbox
from gateway.config import EngineOptions
from gateway.kinds.classic import make_classic


def make(options: EngineOptions, endpoint: Endpoint, outbox: Outbox) -> Engine:
    return make_classic(SERVER, options, endpoint, outbox)
