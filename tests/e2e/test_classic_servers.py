"""Real classic model servers from PyPI behind the gateway: Triton, MLServer (both KServe V2), TorchServe, and Azure
ML's own server.

Each runs a few lines that answer without a model. TorchServe needs Java; it wants torch only to know its tensors.
Triton comes with PyTriton.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import openai
import pytest

from engines.commands import free_port
from engines.outbox import Outbox
from gateway.config import EngineOptions
from gateway.engine_kinds import make_engine
from tests.clients.talk import client_of, said
from tests.e2e.clients.installs import python_with
from tests.harness import EMBEDDINGS, MODEL, Json, Server, config_of, serving

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]
START_S = 90.0

MLSERVER_MODEL = """
import asyncio
import numpy
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceResponse

class Model(MLModel):
    def answer(self, output):
        return InferenceResponse(model_name=self.name, outputs=[output])

    async def predict(self, payload):
        texts = StringCodec.decode_input(payload.inputs[0])
        if payload.inputs[0].name == "text_input":
            return self.answer(NumpyCodec.encode_output("e", numpy.array([[float(len(t)), 0.5] for t in texts])))
        return self.answer(StringCodec.encode_output("text", ["You said: " + texts[0]]))

    async def predict_stream(self, payloads):
        async for payload in payloads:
            for word in ("eins ", "zwei ", "fünf"):
                yield self.answer(StringCodec.encode_output("text", [word]))
"""
MLSERVER_TEMPLATE = {
    "prompt": "{{ messages[-1].content }}",
    "request": {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["{{ prompt }}"]}]},
    "answer": "outputs.0.data.0",
}
TRITON_SERVER = """
import sys
import numpy
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

def chat(requests):
    (request,) = requests
    text = request.data["text_input"].flatten()[0].decode()
    if "boom" in text:
        raise ValueError("boom")
    words = ("eins ", "zwei ", "fünf") if request.parameters.get("stream") else ("You said: " + text,)
    for word in words:
        yield [{"text_output": numpy.array([word.encode()])}]

@batch
def embed(text_input):
    return {"e": numpy.array([[len(text[0].decode()), 0.5] for text in text_input], dtype=numpy.float32)}

http, grpc, metrics = map(int, sys.argv[1:])
with Triton(config=TritonConfig(http_port=http, grpc_port=grpc, metrics_port=metrics)) as triton:
    text = Tensor(name="text_input", dtype=bytes, shape=(1,))
    said = Tensor(name="text_output", dtype=bytes, shape=(1,))
    single = ModelConfig(batching=False, decoupled=True)
    triton.bind(model_name="llm", infer_func=chat, inputs=[text], outputs=[said], config=single)
    floats = Tensor(name="e", dtype=numpy.float32, shape=(2,))
    triton.bind(model_name="embedder", infer_func=embed, inputs=[text], outputs=[floats])
    triton.serve()
"""
TORCHSERVE_HANDLER = """
from ts.handler_utils.utils import send_intermediate_predict_response

def handle(data, context):
    if data is None:
        return None
    body = data[0]["body"]
    if "boom" in body["prompt"]:
        raise ValueError("boom")
    if body["stream"]:
        for word in ("eins ", "zwei "):
            send_intermediate_predict_response([word], context.request_ids, "more", 200, context)
        return ["fünf"]
    return [{"text": "You said: " + body["prompt"]}]
"""
AZUREML_SCORE = """
import json

def init():
    pass

def run(data):
    texts = json.loads(data)["input_data"]["input_string"]
    if texts[-1] == "a":
        return json.dumps({"output": [[float(len(text)), 0.5] for text in texts]})
    if "boom" in texts[-1]["content"]:
        raise ValueError("boom")
    return json.dumps({"output": "You said: " + texts[-1]["content"]})
"""


@contextmanager
def running(command: list[str], health: str, folder: Path, **env: str) -> Iterator[None]:
    """A server that answers 200 at `health`."""
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **env}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline_s = time.monotonic() + START_S
        while not is_up(health):
            said_last = (folder / "server.log").read_text(errors="replace")[-2000:]
            assert process.poll() is None, said_last
            assert time.monotonic() < deadline_s, said_last
            time.sleep(0.1)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def is_up(health: str) -> bool:
    try:
        return httpx.get(health, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


async def assert_healthy(engine: Json, url: str) -> None:
    made = make_engine(EngineOptions.model_validate(engine), "e", url, Outbox())
    assert await made.healthy()
    await made.aclose()


@asynccontextmanager
async def gateway_to(url: str, engine: Json, model: str) -> AsyncIterator[tuple[Server, openai.AsyncOpenAI]]:
    async with serving(config_of(url, engine=engine, model=model)) as server, client_of(server) as client:
        yield server, client


async def streamed_text(client: openai.AsyncOpenAI) -> list[str]:
    stream = await client.chat.completions.create(model=MODEL, messages=said("hello"), stream=True)
    return [text async for chunk in stream if (text := chunk.choices[0].delta.content)]


async def answered(client: openai.AsyncOpenAI, text: str = "hello") -> str | None:
    answer = await client.chat.completions.create(model=MODEL, messages=said(text))
    return answer.choices[0].message.content


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    python = python_with("mlserver==1.7.1")
    folder, port = tmp_path_factory.mktemp("mlserver"), free_port()
    (folder / "model.py").write_text(MLSERVER_MODEL, encoding="utf-8")
    write_json(folder / "model-settings.json", {"name": "llm", "implementation": "model.Model"})
    ports = {"http_port": port, "grpc_port": free_port(), "metrics_endpoint": None}
    more = {"host": "127.0.0.1", "parallel_workers": 0, "gzip_enabled": False}
    write_json(folder / "settings.json", ports | more)
    url = f"http://127.0.0.1:{port}"
    command = [str(python.parent / "mlserver"), "start", "."]
    with running(command, f"{url}/v2/health/ready", folder, PYTHONPATH=str(folder)):
        yield url


async def test_mlserver_speaks_the_v2_protocol(mlserver: str) -> None:
    engine: Json = {"kind": "kserve", "template": MLSERVER_TEMPLATE}
    await assert_healthy(engine, mlserver)
    async with gateway_to(mlserver, engine, "llm") as (server, client):
        assert await answered(client) == "You said: hello"
        assert await streamed_text(client) == ["eins ", "zwei ", "fünf"]
        embedded = await client.embeddings.create(model=MODEL, input=["a", "abc"])
        assert [one.embedding for one in embedded.data] == [[1.0, 0.5], [3.0, 0.5]]
        assert (await server.records(3))[0]["estimated"] is True
    async with gateway_to(mlserver, engine, "unknown") as (_, client):
        with pytest.raises(openai.InternalServerError, match="unknown not found") as caught:
            await answered(client)
        assert caught.value.code == "upstream_model_not_found"


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    # Its Python backend loads the system's libpython, and no other's standard library goes with that.
    python = python_with("nvidia-pytriton==0.7.0", base="/usr/bin/python3")
    folder, port = tmp_path_factory.mktemp("triton"), free_port()
    (folder / "serve.py").write_text(TRITON_SERVER, encoding="utf-8")
    url = f"http://127.0.0.1:{port}"
    command = [str(python), "serve.py", str(port), str(free_port()), str(free_port())]
    with running(command, f"{url}/v2/models/embedder/ready", folder):
        yield url


async def test_triton_generates_streams_and_embeds(triton: str) -> None:
    engine: Json = {"kind": "kserve"}
    await assert_healthy(engine, triton)
    async with gateway_to(triton, engine, "llm") as (_, client):
        said_back = await answered(client)
        assert said_back is not None
        assert said_back.startswith("You said: <|im_start|>user\nhello<|im_end|>")
        assert await streamed_text(client) == ["eins ", "zwei ", "fünf"]
        with pytest.raises(openai.APIStatusError, match="boom"):
            await answered(client, "boom")
    async with gateway_to(triton, engine, "embedder") as (_, client):
        embedded = await client.embeddings.create(model=MODEL, input=["a", "abc"])
        assert [one.embedding for one in embedded.data] == [[1.0, 0.5], [3.0, 0.5]]
    async with gateway_to(triton, engine, "unknown") as (_, client):
        with pytest.raises(openai.InternalServerError, match="unknown") as caught:
            await answered(client)
        assert caught.value.code == "upstream_model_not_found"


@pytest.fixture(scope="module")
def torchserve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if shutil.which("java") is None:
        pytest.skip("TorchServe needs Java: apt-get install default-jre-headless")
    python = python_with("torchserve==0.12.0", "torch-model-archiver==0.12.0", "enum-compat")
    folder, port = tmp_path_factory.mktemp("torchserve"), free_port()
    env = torchserve_folder(folder, python, port)
    command = [str(python.parent / "torchserve"), "--foreground", "--model-store", ".", "--models", "llm=llm.mar"]
    command += ["--ts-config", "config.properties", "--disable-token-auth"]
    url = f"http://127.0.0.1:{port}"
    with running(command, f"{url}/ping", folder, **env):
        yield url


async def test_torchserve_answers_in_json_and_streams_as_text(torchserve: str) -> None:
    engine: Json = {"kind": "torchserve"}
    await assert_healthy(engine, torchserve)
    async with gateway_to(torchserve, engine, "llm@1.0") as (_, client):
        said_back = await answered(client)
        assert said_back is not None
        assert said_back.startswith("You said: <|im_start|>user\nhello<|im_end|>")
        assert "".join(await streamed_text(client)) == "eins zwei fünf"
        with pytest.raises(openai.InternalServerError, match="Prediction failed") as failed:
            await answered(client, "boom")
        assert failed.value.status_code == 502
    async with gateway_to(torchserve, engine, "llm@7") as (_, client):
        with pytest.raises(openai.InternalServerError, match="version: 7 does not exist") as caught:
            await answered(client)
        assert caught.value.code == "upstream_model_not_found"


def torchserve_folder(folder: Path, python: Path, port: int) -> dict[str, str]:
    """A model archive and a configuration; gives the environment in which they work."""
    (folder / "stub").mkdir()
    (folder / "stub/torch.py").write_text("class Tensor: ...\n", encoding="utf-8")
    (folder / "handler.py").write_text(TORCHSERVE_HANDLER, encoding="utf-8")
    env = {"PYTHONPATH": str(folder / "stub"), "PATH": f"{python.parent}:{os.environ['PATH']}"}
    archive = ["--model-name", "llm", "--version", "1.0", "--handler", "handler.py", "--export-path", "."]
    command = [str(python), "-m", "model_archiver.model_packaging", *archive]
    subprocess.run(command, cwd=folder, env={**os.environ, **env}, check=True, capture_output=True, timeout=60)
    lines = [f"inference_address=http://127.0.0.1:{port}", "default_workers_per_model=1"]
    lines += [f"{name}_address=http://127.0.0.1:{free_port()}" for name in ("management", "metrics")]
    lines += [f"grpc_{name}_port={free_port()}" for name in ("inference", "management")]
    (folder / "config.properties").write_text("\n".join(lines), encoding="utf-8")
    return env


@pytest.fixture(scope="module")
def azureml(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    python = python_with("azureml-inference-server-http==1.5.1")
    folder, port = tmp_path_factory.mktemp("azureml"), free_port()
    (folder / "score.py").write_text(AZUREML_SCORE, encoding="utf-8")
    command = [str(python.parent / "azmlinfsrv"), "--entry_script", "score.py", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with running(command, url, folder):
        yield url


async def test_azure_mls_own_server_runs_score_scripts(azureml: str) -> None:
    engine: Json = {"kind": "azureml", "api_key": "any"}
    await assert_healthy(engine, azureml)
    async with gateway_to(azureml, engine, "llm") as (server, client):
        assert await answered(client) == "You said: hello"
        assert await streamed_text(client) == ["You said: hello"]
        embedded = await server.post(EMBEDDINGS, {"model": MODEL, "input": ["abc", "a"]})
        assert [one["embedding"] for one in embedded.json()["data"]] == [[3.0, 0.5], [1.0, 0.5]]
        with pytest.raises(openai.InternalServerError, match="unexpected error occurred in scoring script"):
            await answered(client, "boom")


def write_json(file: Path, content: Mapping[str, object]) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")
