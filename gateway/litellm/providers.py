"""Which of LiteLLM's providers speak the OpenAI protocol, so that an engine of ours can stand in their place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Site = Literal["on-premise", "cloud"]


@dataclass(frozen=True, slots=True)
class Provider:
    """`base` and `key_env` are what LiteLLM takes where a model names neither `api_base` nor `api_key`."""

    kind: Literal["openai", "vllm"] = "openai"
    base: str | None = None
    key_env: str | None = None
    adds_v1: bool = False
    """LiteLLM takes `api_base` without `/v1`, as we do."""


CARRIED = {
    "openai": Provider(base="https://api.openai.com", key_env="OPENAI_API_KEY"),
    "text-completion-openai": Provider(base="https://api.openai.com", key_env="OPENAI_API_KEY"),
    "custom_openai": Provider(),
    "openai_like": Provider(),
    "litellm_proxy": Provider(),
    "hosted_vllm": Provider(kind="vllm"),
    "vllm": Provider(kind="vllm"),
    "ollama": Provider(base="http://localhost:11434", adds_v1=True),
    "ollama_chat": Provider(base="http://localhost:11434", adds_v1=True),
    "lm_studio": Provider(),
    "llamafile": Provider(base="http://127.0.0.1:8080"),
    "xinference": Provider(),
    "deepseek": Provider(base="https://api.deepseek.com", key_env="DEEPSEEK_API_KEY"),
    "fireworks_ai": Provider(base="https://api.fireworks.ai/inference", key_env="FIREWORKS_API_KEY"),
    "groq": Provider(base="https://api.groq.com/openai", key_env="GROQ_API_KEY"),
    "mistral": Provider(base="https://api.mistral.ai", key_env="MISTRAL_API_KEY"),
    "nvidia_nim": Provider(base="https://integrate.api.nvidia.com", key_env="NVIDIA_NIM_API_KEY"),
    "openrouter": Provider(base="https://openrouter.ai/api", key_env="OPENROUTER_API_KEY"),
    "together_ai": Provider(base="https://api.together.xyz", key_env="TOGETHERAI_API_KEY"),
    "xai": Provider(base="https://api.x.ai", key_env="XAI_API_KEY"),
}

_OTHERS = (
    "ai21 aleph_alpha anthropic anthropic_text azure azure_ai azure_text baseten bedrock cerebras clarifai cloudflare "
    "codestral cohere cohere_chat custom databricks deepinfra gemini github github_copilot huggingface hyperbolic "
    "infinity jina_ai lambda_ai meta_llama moonshot nebius nlp_cloud novita oci palm perplexity petals predibase "
    "replicate sagemaker sagemaker_chat sambanova snowflake topaz triton vertex_ai vertex_ai_beta volcengine voyage "
    "watsonx watsonx_text"
)
NOT_CARRIED = frozenset(_OTHERS.split())

_OPENAI_MODEL = re.compile(
    r"^(?:gpt-|chatgpt-|o[1-9](?:-|$)|text-embedding-|ft:|davinci|babbage|omni-|whisper-|tts-|dall-e)"
)
_ANTHROPIC_MODEL = re.compile(r"^claude-")
_VERSIONED = re.compile(r"/v(?!1$)[0-9]+[a-z0-9]*$")


def split_model(model: str, named: str | None) -> tuple[str | None, str]:
    """Provider and engine model of `litellm_params.model`, as LiteLLM reads it; None for a provider nobody knows."""
    prefix, slash, rest = model.partition("/")
    if named is not None:
        return named, rest if slash and prefix == named else model
    if slash and (prefix in CARRIED or prefix in NOT_CARRIED):
        return prefix, rest
    if _OPENAI_MODEL.match(model):
        return "openai", model
    if _ANTHROPIC_MODEL.match(model):
        return "anthropic", model
    return None, model


def other_version(url: str) -> str | None:
    """`/v4` of a base URL that ends in a version other than `/v1`, to which the gateway could not add its own."""
    found = _VERSIONED.search(url.rstrip("/"))
    return found[0] if found else None
