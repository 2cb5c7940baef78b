"""TensorFlow Serving's REST API: https://www.tensorflow.org/tfx/serving/api_rest"""

from __future__ import annotations

from collections.abc import Mapping

from engines.classic.forms import Form
from engines.classic.refusals import message_in
from engines.classic.translator import Server, name_and_version

_PATH = '/v1/models/{{ model }}{{ "/versions/" ~ version if version }}{{ "/labels/" ~ label if label }}:predict'


def name_and_label(name: str) -> dict[str, str]:
    """`name#stable` is what the label `stable` stands for, `name@3` version 3."""
    model, hash_sign, label = name.rpartition("#")
    return {"model": model, "label": label} if hash_sign else name_and_version(name)


def refusal(status: int, headers: Mapping[bytes, bytes], body: bytes) -> tuple[int, str]:
    message = message_in(body)
    if status == 404:
        return 404, f"There is no such model: {message}"
    return status, message


SERVER = Server(
    text=Form(
        path=_PATH,
        request={"instances": ["{{ prompt }}"]},
        # By row for `instances`, by column for `inputs`.
        answers=("predictions.0", "outputs"),
    ),
    embeddings=Form(path=_PATH, request={"instances": "{{ input }}"}, answers=("predictions", "outputs")),
    # It has no health path; it says so, and that it lives.
    health_path="/v1/models",
    any_answer_is_well=True,
    refusal=refusal,
    parts=name_and_label,
)
