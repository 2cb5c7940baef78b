"""Azure Machine Learning online endpoints: https://learn.microsoft.com/azure/machine-learning/concept-endpoints-online"""

from __future__ import annotations

from collections.abc import Mapping

from engines.classic.forms import Form
from engines.classic.refusals import message_in
from engines.classic.translator import Server

_PARAMETERS = {
    "max_new_tokens": "{{ max_tokens }}",
    "temperature": "{{ temperature }}",
    "top_p": "{{ top_p }}",
    "top_k": "{{ top_k }}",
    "stop": "{{ stop }}",
}


def refusal(status: int, headers: Mapping[bytes, bytes], body: bytes) -> tuple[int, str]:
    """424: the endpoint works, and the model in it answered with a status of its own."""
    message = message_in(body)
    if status == 404:
        return 404, f"There is no such deployment of a model: {message}"
    if status != 424:
        return status, message
    reason = headers.get(b"ms-azureml-model-error-reason", b"").decode("latin-1")
    inner = headers.get(b"ms-azureml-model-error-statuscode", b"")
    failed = int(inner) if inner.isdigit() and b"400" <= inner < b"600" and len(inner) == 3 else 502
    return failed, message or reason


def deployment_header(model: Mapping[str, str]) -> dict[str, str]:
    """`name@blue` goes to the endpoint's deployment `blue`; without it the endpoint's own split decides."""
    return {"azureml-model-deployment": model["version"]} if "version" in model else {}


SERVER = Server(
    text=Form(
        path="/score",
        request={"input_data": {"input_string": "{{ messages or [prompt] }}", "parameters": _PARAMETERS}},
        answers=("output", "0.0", "choices.0.message.content", ""),
    ),
    embeddings=Form(
        path="/score", request={"input_data": {"input_string": "{{ input }}"}}, answers=("output", "embeddings", "")
    ),
    health_path="/",
    any_answer_is_well=True,
    refusal=refusal,
    headers=deployment_header,
)
