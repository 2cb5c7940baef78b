"""What is known of each server that speaks OpenAI's protocol: for the probe, for load metrics and for the guide."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class StreamUsage(enum.StrEnum):
    """Where the usage of a stream comes."""

    ON_REQUEST = "own event, with `include_usage`"
    IN_FINISH = "in the finish event, always"
    UNKNOWN = "not tested"


class Unknown(enum.StrEnum):
    """What becomes of a body field that the server does not know."""

    IGNORED = "ignored"
    REFUSED = "refused with 422"
    UNTESTED = "not tested"


@dataclass(frozen=True, slots=True)
class LoadMetrics:
    """Names on the server's Prometheus page: `name`; `name{label="value"}`, the series with that label alone; or
    `name[label]`, a number that stands in a label. Where there are several, the first that the page has counts.

    running, waiting: requests.
    kv_usage:      share of the KV cache in use, 0 to 1.
    kv_tokens:     tokens that fit the KV cache.
    block_tokens:  tokens in a block of it.
    blocks:        blocks in it, for want of `kv_tokens`.
    prompts:       requests ever taken or answered.
    prompt_tokens: those of these prompts, the cached ones included.
    cached_tokens: of these, those that were found in the KV cache.
    path:          where the page is.
    """

    running: str
    waiting: str
    kv_usage: str | None = None
    kv_tokens: tuple[str, ...] = ()
    block_tokens: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    prompts: str | None = None
    prompt_tokens: str | None = None
    cached_tokens: str | None = None
    path: str = "/metrics"


_VLLM_LOAD = LoadMetrics(
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    kv_tokens=("vllm:cache_config_info[kv_cache_size_tokens]",),
    block_tokens=("vllm:cache_config_info[block_size]",),
    blocks=("vllm:cache_config_info[num_gpu_blocks]",),
    prompts="vllm:request_success_total",
    prompt_tokens="vllm:prompt_tokens_total",
    cached_tokens="vllm:prompt_tokens_cached_total",
)


@dataclass(frozen=True, slots=True)
class ServerKind:
    """One server.

    kind:     what a pool's `engine.kind` has to be.
    load:     None: it tells nothing of its load.
    full:     how it says that it takes no more.
    abort:    what ends a request; how soon was measured, for the versions tested.
    tokenize: whether `/tokenize` can be had through the gateway.
    tested:   the version that the tests with a real server ran; empty: it is known by its documentation alone.
    quirks:   what the gateway makes good, or cannot.
    """

    title: str
    kind: str
    health_path: str = "/health"
    version_path: str | None = None
    metrics_prefix: str | None = None
    load: LoadMetrics | None = None
    full: str = "429 or 503"
    abort: str = "closed connection"
    usage: StreamUsage = StreamUsage.UNKNOWN
    unknown_fields: Unknown = Unknown.UNTESTED
    tokenize: bool = False
    tested: str = ""
    quirks: tuple[str, ...] = ()


SERVERS: Mapping[str, ServerKind] = {
    "vllm": ServerKind(
        "vLLM",
        "vllm",
        version_path="/version",
        metrics_prefix="vllm:",
        load=_VLLM_LOAD,
        full="503 without `retry-after`, with `--max-num-queued-reqs`; else requests wait",
        usage=StreamUsage.ON_REQUEST,
        unknown_fields=Unknown.IGNORED,
        tokenize=True,
        tested="0.32.0",
        quirks=(
            "a stream that failed ends with `[DONE]` after the error, which the gateway does not take for success",
            "EngineCore and workers outlive a server that was killed; the gateway ends them",
        ),
    ),
    "llamacpp": ServerKind(
        "llama.cpp",
        "llamacpp",
        version_path="/props",
        metrics_prefix="llamacpp:",
        load=LoadMetrics("llamacpp:requests_processing", "llamacpp:requests_deferred", "llamacpp:kv_cache_usage_ratio"),
        full="never: requests wait for a slot",
        usage=StreamUsage.ON_REQUEST,
        unknown_fields=Unknown.IGNORED,
        tokenize=True,
        tested="xllamacpp 2026.10.11549",
        quirks=(
            "the connection is closed after each stream",
            "tokenizing has a format of its own, which the gateway translates",
            "any model name is answered",
        ),
    ),
    "transformers": ServerKind(
        "transformers serve",
        "transformers",
        full="never: requests wait",
        usage=StreamUsage.IN_FINISH,
        unknown_fields=Unknown.REFUSED,
        tested="5.19.0, also with bitsandbytes 0.50.2",
        quirks=(
            "streams end without `[DONE]`",
            "`max_completion_tokens` is ignored; the gateway sends `max_tokens` in its place",
            "`response_format`, `n`, `logprobs` and `tool_choice` are ignored; what they would change is refused",
            "answers name the model by its path",
        ),
    ),
    "onnx": ServerKind(
        "ONNX Runtime GenAI",
        "onnx",
        metrics_prefix="onnx:",
        load=LoadMetrics("onnx:requests_running", "onnx:requests_waiting"),
        full="never: requests wait for their turn",
        usage=StreamUsage.ON_REQUEST,
        unknown_fields=Unknown.IGNORED,
        tokenize=True,
        tested="0.18.0",
        quirks=(
            "requests take turns, a token each; they are not computed as one batch",
            "`n`, `logprobs` and tool calls in answers are not offered",
        ),
    ),
    "fake": ServerKind(
        "the fake engine",
        "fake",
        version_path="/version",
        metrics_prefix="vllm:",
        load=_VLLM_LOAD,
        full="503, with `--max-queue`",
        usage=StreamUsage.ON_REQUEST,
        unknown_fields=Unknown.IGNORED,
        tokenize=True,
        tested="this version",
    ),
    "sglang": ServerKind(
        "SGLang",
        "openai",
        version_path="/get_server_info",
        metrics_prefix="sglang:",
        load=LoadMetrics(
            "sglang:num_running_reqs",
            "sglang:num_queue_reqs",
            "sglang:token_usage",
            kv_tokens=("sglang:max_total_num_tokens",),
            block_tokens=("sglang:page_size", "sglang:cache_config_info[page_size]"),
            blocks=("sglang:num_pages", "sglang:cache_config_info[num_pages]"),
            prompts="sglang:num_requests_total",
            prompt_tokens="sglang:prompt_tokens_total",
            cached_tokens="sglang:cached_tokens_total",
        ),
        full="503, with `--max-queued-requests`",
    ),
    "tgi": ServerKind(
        "TGI",
        "openai",
        version_path="/info",
        metrics_prefix="tgi_",
        load=LoadMetrics(
            "tgi_batch_current_size",
            "tgi_queue_size",
            prompts="tgi_request_input_length_count",
            prompt_tokens="tgi_request_input_length_sum",
        ),
        full="429",
    ),
    "tensorrt-llm": ServerKind(
        "TensorRT-LLM",
        "openai",
        version_path="/version",
        load=LoadMetrics(
            "trtllm_num_requests_running",
            "trtllm_num_requests_waiting",
            "trtllm_kv_cache_utilization",
            block_tokens=("trtllm_kv_cache_tokens_per_block",),
            blocks=("trtllm_kv_cache_max_blocks",),
            path="/prometheus/metrics",
        ),
    ),
    "ollama": ServerKind(
        "Ollama", "openai", health_path="/", version_path="/api/version", full="503, beyond `OLLAMA_MAX_QUEUE`"
    ),
    "lm-studio": ServerKind("LM Studio", "openai", health_path="/v1/models"),
    "triton": ServerKind(
        "Triton",
        "openai",
        health_path="/v2/health/ready",
        version_path="/v2",
        metrics_prefix="nv_",
        load=LoadMetrics(
            'nv_trt_llm_request_metrics{request_type="scheduled"}',
            'nv_trt_llm_request_metrics{request_type="waiting"}',
            'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction"}',
            block_tokens=('nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per"}',),
            blocks=('nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max"}',),
        ),
        quirks=(
            "metrics are on a port of their own, 8002 unless `--metrics-port` says otherwise: `scrape.port`",
            "OpenAI's protocol comes with its OpenAI frontend alone; without it, see `kserve`",
        ),
    ),
    "openai": ServerKind("an OpenAI-compatible server", "openai", health_path="/v1/models"),
}
"""By the names that the probe gives. The last stands for all others."""
