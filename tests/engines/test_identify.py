"""What a server is, from the pages that servers of each sort show."""

from __future__ import annotations

import json

import pytest

from engines.identify import Identity, ModelCard, Seen, identify, models_in
from engines.kinds import SERVERS


def page(body: object, status: int = 200, **headers: str) -> Seen:
    return Seen(status, headers, body.encode() if isinstance(body, str) else json.dumps(body).encode())


def models(*cards: dict[str, object]) -> Seen:
    return page({"object": "list", "data": list(cards)})


VLLM = {
    "/v1/models": models({"id": "m", "object": "model", "owned_by": "vllm", "max_model_len": 1024, "root": "m"}),
    "/version": page({"version": "0.32.0"}),
    "/metrics": page('# HELP x\nvllm:num_requests_running{engine="0"} 0.0\n'),
}
LLAMACPP = {
    "/v1/models": Seen(
        200,
        {"server": "llama.cpp"},
        b'{"models":[],"data":[{"id":"m","owned_by":"llamacpp","meta":{"n_ctx":8192,"n_ctx_train":2048}}]}',
    ),
    "/props": page({"total_slots": 4, "build_info": "b1-abc", "model_path": "m.gguf"}),
    "/metrics": page("llamacpp:requests_processing 0\n"),
}
SGLANG = {
    "/v1/models": models({"id": "m", "owned_by": "sglang"}),
    "/get_server_info": page({"version": "0.5.6", "context_length": None, "max_req_input_len": 4090}),
}
TGI = {
    "/v1/models": models({"id": "org/m", "owned_by": "org/m"}),
    "/info": page({"model_id": "org/m", "version": "3.3.0", "max_total_tokens": 4096, "max_input_tokens": 4095}),
}
TENSORRT = {"/v1/models": models({"id": "m", "owned_by": "tensorrt_llm"}), "/version": page({"version": "1.1.0"})}
TRITON = {"/v1/models": page("", 404), "/v2": page({"name": "triton", "version": "2.60.0", "extensions": []})}
OLLAMA = {"/v1/models": models({"id": "m:latest", "owned_by": "library"}), "/api/version": page({"version": "0.12.3"})}
LM_STUDIO = {"/v1/models": models({"id": "m", "owned_by": "organization_owner"})}
TRANSFORMERS = {
    "/v1/models": page("Internal Server Error", 500),
    "/openapi.json": page({"paths": {"/load_model": {}, "/reset": {}, "/v1/chat/completions": {}, "/health": {}}}),
}
FAKE = {**VLLM, "/fake/stats": page({"open": 0, "connected": 1})}


@pytest.mark.parametrize(
    ("seen", "server", "version"),
    [
        (VLLM, "vllm", "0.32.0"),
        (LLAMACPP, "llamacpp", "b1-abc"),
        (SGLANG, "sglang", "0.5.6"),
        (TGI, "tgi", "3.3.0"),
        (TENSORRT, "tensorrt-llm", "1.1.0"),
        (TRITON, "triton", "2.60.0"),
        (OLLAMA, "ollama", "0.12.3"),
        (LM_STUDIO, "lm-studio", ""),
        (TRANSFORMERS, "transformers", ""),
        (FAKE, "fake", ""),
    ],
)
def test_each_server_is_recognized_by_what_it_shows(seen: dict[str, Seen], server: str, version: str) -> None:
    found = identify(seen)
    assert (found.server, found.version) == (server, version)
    assert found.evidence
    assert server in SERVERS


def test_one_sign_is_enough() -> None:
    assert identify({"/v1/models": VLLM["/v1/models"]}).evidence == ("/v1/models: owned_by vllm",)
    assert identify({"/metrics": VLLM["/metrics"]}).evidence == ("/metrics: vllm:",)
    assert identify({"/props": LLAMACPP["/props"]}).evidence == ("/props: total_slots",)
    assert identify({"/get_server_info": SGLANG["/get_server_info"]}).evidence == ("/get_server_info",)
    assert identify({"/v1/models": SGLANG["/v1/models"]}) == Identity("sglang", "", ("/v1/models: owned_by sglang",))


def test_what_nobody_knows_is_a_server_like_all_others() -> None:
    answer = models({"id": "gpt", "owned_by": "system", "context_window": 9000})
    seen = {"/v1/models": Seen(200, {"server": "uvicorn"}, answer.body), "/v2": page({"name": "something"})}
    assert identify(seen) == Identity("openai", "", ("server: uvicorn",))
    assert models_in(seen, identify(seen)) == [ModelCard("gpt", 9000)]
    assert identify({}) == Identity("openai", "", ())


@pytest.mark.parametrize("body", ["<html>", "[]", '{"data": [{"name": "x"}]}', '{"data": 3}', "\udcff"])
def test_a_page_of_another_form_says_nothing(body: str) -> None:
    seen = {path: Seen(200, {}, body.encode(errors="surrogateescape")) for path in ("/v1/models", "/props", "/info")}
    assert identify(seen).server == "openai"
    assert models_in(seen, identify(seen)) == []


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (VLLM, [ModelCard("m", 1024)]),
        (LLAMACPP, [ModelCard("m", 8192)]),
        (SGLANG, [ModelCard("m", 4090)]),
        (TGI, [ModelCard("org/m", 4096)]),
        (OLLAMA, [ModelCard("m:latest", 0)]),
        ({"/v1/models": SGLANG["/v1/models"]}, [ModelCard("m", 0)]),
    ],
)
def test_the_context_length_is_found_where_it_is_told(seen: dict[str, Seen], expected: list[ModelCard]) -> None:
    assert models_in(seen, identify(seen)) == expected


def test_every_kind_says_what_it_is_configured_as() -> None:
    assert {known.kind for known in SERVERS.values()} == {"vllm", "llamacpp", "transformers", "onnx", "fake", "openai"}
    assert [*SERVERS][-1] == "openai"


def test_onnx_runtime_is_known_by_its_owner_and_its_metrics() -> None:
    card = b'{"object":"list","data":[{"id":"m","object":"model","owned_by":"onnxruntime-genai","max_model_len":8192}]}'
    seen = {"/v1/models": Seen(200, {}, card), "/metrics": Seen(200, {}, b"onnx:requests_running 0\n")}
    found = identify(seen)
    assert (found.server, len(found.evidence)) == ("onnx", 2)
    assert models_in(seen, found) == [ModelCard("m", 8192)]
