"""The request that a replica answers before it gets traffic: what is slow the first time is slow for nobody."""

from __future__ import annotations

import json
from typing import Any

from engines.base import Engine, EngineError, EngineRequest, Operation, Timeouts
from gateway.config import Config
from gateway.config.pool_options import WarmUp

_MAX_ANSWER_BYTES = 16 * 1024 * 1024


def engine_models(config: Config, pool: str) -> list[str]:
    """The model names that a pool's engines are asked for."""
    return [
        variant.model or name
        for name, deployment in config.deployments.items()
        for variant in deployment.variants.values()
        if pool in variant.pools
    ]


class WarmUpCall:
    """The request, ready to be sent. `model`: the name that the engines know."""

    def __init__(self, options: WarmUp, model: str) -> None:
        body: dict[str, Any] = (
            json.loads(options.body)
            if options.body is not None
            else {"messages": [{"role": "user", "content": options.prompt}], "max_tokens": 1}
        )
        body.setdefault("model", model)
        body["stream"] = False
        if "messages" in body:
            operation = Operation.CHAT
        elif "input" in body:
            operation = Operation.EMBEDDINGS
            del body["stream"]
        else:
            operation = Operation.COMPLETIONS
        self._request = EngineRequest(operation, json.dumps(body).encode())
        self._limits = Timeouts(connect_s=min(5.0, options.timeout_s), total_s=options.timeout_s)

    async def send(self, engine: Engine) -> str:
        """Have the engine answer it. Returns what is wrong; empty: it is warm.

        An engine that refuses the request (4xx) has shown that it works; that is not told here.
        """
        try:
            response = await engine.send(self._request, self._limits)
            try:
                await response.read(_MAX_ANSWER_BYTES)
                status = response.status
            finally:
                response.abort()
        except EngineError as error:
            return f"warm-up: {error.with_traceback(None)}"
        return f"warm-up: the engine answered {status}" if status >= 500 or status in (408, 429) else ""
