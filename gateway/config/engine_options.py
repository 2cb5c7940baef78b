"""What a pool says about its engines: which kind they are, how the gateway is let in, how to run them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr

from gateway.config.aws_options import AwsOptions
from gateway.config.base import Positive, Section
from gateway.config.cloud_options import AnthropicOptions, AzureOptions, GoogleOptions
from gateway.config.kv_options import KvEvents
from gateway.config.ray_options import RayOptions
from gateway.config.template_options import TemplateOptions

Kind = Literal[
    "openai",
    "vllm",
    "llamacpp",
    "transformers",
    "onnx",
    "bedrock",
    "sagemaker",
    "fake",
    "azure",
    "vertex",
    "anthropic",
    "kserve",
    "tfserving",
    "torchserve",
    "azureml",
]
GpuName = Annotated[int, Field(ge=0, le=1023)] | Annotated[str, Field(pattern=r"^(GPU|MIG)-[0-9A-Za-z/-]+$")]


class EngineOptions(Section):
    """How to speak to the replicas of a pool, and how to run them if the gateway is to start them."""

    kind: Kind = "openai"
    """What the replicas speak; `openai` is any compatible server. docs/guide/engines.md has them all."""
    api_key: SecretStr | None = None
    """Sent to the engine as a bearer token; azure: as `api-key`, anthropic: as `x-api-key`. A caller's own credentials
    never are."""
    headers: dict[str, SecretStr] = {}
    """More headers for every request to the engine."""
    ca_file: str | None = None
    """PEM bundle to trust for an https engine, instead of the system's."""
    aws: AwsOptions = AwsOptions()
    """bedrock, sagemaker: how the gateway is let in."""
    model: str | None = None
    """What to run. llamacpp: a name from `headrace models list`, a GGUF path, or `hf:owner/repo/file.gguf`; vllm and
    transformers: a name on Hugging Face, or a folder; onnx: a folder with `genai_config.json`."""
    context_tokens: Annotated[int, Field(ge=256)] = 8192
    """llamacpp: size of the KV cache shared by all slots, in tokens."""
    slots: Annotated[int, Field(ge=1, le=256)] = 8
    """llamacpp and onnx: requests decoded together."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """llamacpp: CPU threads; none: one per core."""
    args: list[str] = []
    """vllm, transformers, fake: more command-line arguments of an engine that the gateway starts, as its own
    documentation has them."""
    python: str | None = None
    """vllm, transformers, onnx: the Python interpreter of the environment where the engine is installed; none: the
    gateway's own."""
    env: dict[str, SecretStr] = {}
    """Environment variables of an engine that the gateway starts, besides the gateway's own."""
    gpus: Annotated[int, Field(ge=0, le=64)] | Annotated[list[GpuName], Field(min_length=1)] | None = None
    """GPUs of the engines that the gateway starts: how many each replica gets, counted from the first, or which ones
    all replicas share out evenly, by index or UUID; 0: none; not set: all that there are."""
    launcher: Literal["local", "ray"] = "local"
    """Where the gateway starts the engines: on this machine, or on a Ray cluster (needs the extra `ray`)."""
    ray: RayOptions = RayOptions()
    """With `launcher: ray`: which cluster, and how many replicas."""
    kv_events: KvEvents = KvEvents()
    """What the engine tells of its KV cache."""
    start_timeout_s: Positive = 600.0
    """An engine that does not serve this long after its start is stopped and started again."""
    azure: AzureOptions = AzureOptions()
    """azure: which API, and Entra ID."""
    google: GoogleOptions = GoogleOptions()
    """vertex: where, and as whom."""
    anthropic: AnthropicOptions = AnthropicOptions()
    """anthropic: what its API requires."""
    template: TemplateOptions = TemplateOptions()
    """kserve, tfserving, torchserve, azureml: how a chat becomes a request, and where the answer stands."""
