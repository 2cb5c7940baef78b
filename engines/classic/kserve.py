"""KServe's V2 protocol: Triton with its generate extension, KServe, MLServer.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol
"""

from __future__ import annotations

from collections.abc import Mapping

from engines.classic.forms import Form, Streaming
from engines.classic.refusals import message_in
from engines.classic.translator import Server

_MODEL = '/v2/models/{{ model }}{{ "/versions/" ~ version if version }}'
_PARAMETERS = {
    "max_tokens": "{{ max_tokens }}",
    "temperature": "{{ temperature }}",
    "top_p": "{{ top_p }}",
    "top_k": "{{ top_k }}",
    "seed": "{{ seed }}",
    # Triton takes no lists here.
    "stop": "{{ stop[0] if stop and stop | length == 1 else stop }}",
    "stream": "{{ stream }}",
    "exclude_input_in_output": True,
}


def refusal(status: int, headers: Mapping[bytes, bytes], body: bytes) -> tuple[int, str]:
    """Older Tritons answer 400 to everything; what they say tells more."""
    message = message_in(body)
    if "unknown model" in message.lower():
        return 404, message
    if "maximum queue size" in message.lower():
        return 503, message
    return status, message


SERVER = Server(
    text=Form(
        path=f"{_MODEL}/generate",
        request={"text_input": "{{ prompt }}", "parameters": _PARAMETERS},
        answers=("text_output", "outputs.0.data.0"),
        streaming=Streaming.SSE,
        stream_path=f"{_MODEL}/generate_stream",
    ),
    embeddings=Form(
        path=f"{_MODEL}/infer",
        request={
            "inputs": [
                {
                    "name": "text_input",
                    "datatype": "BYTES",
                    "shape": ["{{ input | length }}", 1],
                    "data": "{{ input }}",
                }
            ]
        },
        answers=("outputs.0",),
    ),
    health_path="/v2/health/ready",
    refusal=refusal,
)
