"""The kind `sagemaker`."""

from __future__ import annotations

from engines.adapter import AdapterEngine
from engines.aws.sagemaker import SERVICE, SageMakerTranslator
from engines.base import Engine
from engines.http import Endpoint
from engines.outbox import Outbox
from gateway.config import EngineOptions
from gateway.kinds.aws import signer_for


def make(options: EngineOptions, endpoint: Endpoint, outbox: Outbox) -> Engine:
    return AdapterEngine(endpoint, SageMakerTranslator(), signer_for(options.aws, endpoint.url, SERVICE), outbox)
