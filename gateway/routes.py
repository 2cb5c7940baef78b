"""Which handler answers a request: a model call, the API, or a refusal."""

from __future__ import annotations

from functools import partial

from engines.base import Operation
from gateway.errors import ApiError, MethodNotAllowed
from gateway.http import Handler, Request, Sink
from gateway.http.asgi import AsgiHandler
from gateway.http.cors import Cors
from gateway.pipeline import Pipeline
from gateway.reception import Reception
from gateway.record import Record
from gateway.telemetry import Span

CALLS = {
    prefix + path: operation
    for prefix in ("", "/v1")
    for path, operation in {
        "/chat/completions": Operation.CHAT,
        "/completions": Operation.COMPLETIONS,
        "/embeddings": Operation.EMBEDDINGS,
        "/tokenize": Operation.TOKENIZE,
        "/detokenize": Operation.DETOKENIZE,
    }.items()
}
_GEN_AI_OPERATION = {
    Operation.CHAT: "chat",
    Operation.COMPLETIONS: "text_completion",
    Operation.EMBEDDINGS: "embeddings",
    Operation.TOKENIZE: "tokenize",
    Operation.DETOKENIZE: "detokenize",
}


class Routes:
    """Every handler goes through the reception, so that no request is answered without a trace."""

    def __init__(self, reception: Reception, pipeline: Pipeline, api: AsgiHandler, cors: Cors | None) -> None:
        self._cors = cors
        self._refusal = reception.refusal
        self._calls = {o: _call(reception, pipeline, o) for o in Operation}

        async def serve_api(request: Request, sink: Sink, record: Record, span: Span) -> None:
            await api(request, sink, record)

        async def serve_preflight(request: Request, sink: Sink, record: Record, span: Span) -> None:
            Cors.preflight(request, sink)

        self._api = reception.handler(serve_api)
        self._preflight = reception.handler(serve_preflight)

    def route(self, request: Request) -> Handler:
        if self._cors is not None and self._cors.is_preflight(request):
            return self._preflight
        operation = CALLS.get(request.path)
        if operation is None:
            return self._api
        if request.method != b"POST":
            return self._refusal(MethodNotAllowed(f"{request.path} takes POST.", allow="POST"))
        return self._calls[operation]

    def refusal(self, error: ApiError) -> Handler:
        """The handler for a request that the server will not serve."""
        return self._refusal(error)


def _call(reception: Reception, pipeline: Pipeline, operation: Operation) -> Handler:
    return reception.handler(partial(pipeline.serve, operation), _GEN_AI_OPERATION[operation])
