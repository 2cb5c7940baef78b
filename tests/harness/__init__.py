"""The real gateway on a loopback socket, in front of fake engines, and clients that see every byte.

    async with engine_running() as engine, serving(config_of(engine)) as server:
        answer = await server.post(CHAT, chat())

Leaving either block is a check: whatever a request held must have been given back.
"""

from tests.harness.by_hand import (
    DONE,
    FINISH,
    SSE_HEAD,
    HandEngine,
    Turn,
    engine_by_hand,
    framed,
    no_answer,
    nobody,
    token,
    whole,
)
from tests.harness.configs import CHAT, COMPLETIONS, EMBEDDINGS, MODEL, NO_SCRAPE, Json, chat, config_of, streamed
from tests.harness.events import events_in, text_in
from tests.harness.running import engine_running, gauges, serving
from tests.harness.server import Server, metrics_in
from tests.harness.waiting import PATIENCE_S, Watch, settled
from tests.harness.wire import Wire, request_bytes

__all__ = [
    "CHAT",
    "COMPLETIONS",
    "DONE",
    "EMBEDDINGS",
    "FINISH",
    "MODEL",
    "NO_SCRAPE",
    "PATIENCE_S",
    "SSE_HEAD",
    "HandEngine",
    "Json",
    "Server",
    "Turn",
    "Watch",
    "Wire",
    "chat",
    "config_of",
    "engine_by_hand",
    "engine_running",
    "events_in",
    "framed",
    "gauges",
    "metrics_in",
    "no_answer",
    "nobody",
    "request_bytes",
    "serving",
    "settled",
    "streamed",
    "text_in",
    "token",
    "whole",
]
