"""TorchServe's inference API: https://pytorch.org/serve/inference_api.html

What goes in and comes out is the handler's choice: the usual keys are tried, and any other answer is taken as text.
"""

from __future__ import annotations

from collections.abc import Mapping

from engines.classic.forms import Form, Streaming
from engines.classic.refusals import message_in, type_in
from engines.classic.translator import Server

_PATH = '/predictions/{{ model }}{{ "/" ~ version if version }}'


def refusal(status: int, headers: Mapping[bytes, bytes], body: bytes) -> tuple[int, str]:
    """It says 503 when it is full, and when a handler failed as well: only the type tells which."""
    message = message_in(body)
    if status == 503 and type_in(body) == "InternalServerException":
        return 500, message
    return status, message


SERVER = Server(
    text=Form(
        path=_PATH,
        request={
            "prompt": "{{ prompt }}",
            "max_tokens": "{{ max_tokens }}",
            "temperature": "{{ temperature }}",
            "top_p": "{{ top_p }}",
            "top_k": "{{ top_k }}",
            "seed": "{{ seed }}",
            "stop": "{{ stop }}",
            "stream": "{{ stream }}",
        },
        answers=("text", "generated_text", "0.generated_text", "output"),
        streaming=Streaming.EITHER,
        plain=True,
    ),
    embeddings=Form(path=_PATH, request={"input": "{{ input }}"}, answers=("embeddings", "")),
    health_path="/ping",
    refusal=refusal,
)
