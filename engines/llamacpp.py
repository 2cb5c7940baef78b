"""llama.cpp's server, embedded or by URL: OpenAI's protocol, but tokenizing has a wire format of its own."""

from __future__ import annotations

from engines.http import HttpEngine


class LlamaCppEngine(HttpEngine):
    """Implements `Engine`."""
