"""Where the real engines of the e2e tests are, and what they say of themselves."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.gateway.supervised import Served

NEEDED_GB = 11.0
"""vLLM 4.3, `transformers serve` 3.8, llama.cpp 0.6, and room."""
START_S = 400.0


@dataclass(frozen=True, slots=True)
class Installation:
    """python: an interpreter that has vLLM and `transformers[serving]`; model: a folder that both can load."""

    python: Path
    model: Path
    transformers_python: Path


def installation() -> Installation:
    """HEADRACE_VLLM_PYTHON and HEADRACE_VLLM_MODEL; without them, what `vllm_setup.sh` makes in the cache, once."""
    python, model = os.environ.get("HEADRACE_VLLM_PYTHON"), os.environ.get("HEADRACE_VLLM_MODEL")
    if not python or not model:
        cache = Path(os.environ.get("HEADRACE_CACHE") or "~/.cache/headrace").expanduser() / "e2e-engines"
        subprocess.run([str(Path(__file__).with_name("vllm_setup.sh")), str(cache)], check=True, timeout=900)
        python, model = str(cache / "venv/bin/python"), str(cache / "smollm2")
    return Installation(Path(python), Path(model), Path(os.environ.get("HEADRACE_TRANSFORMERS_PYTHON") or python))


def needs_memory(gigabytes: float) -> None:
    text = Path("/proc/meminfo").read_text()
    match = re.search(r"MemAvailable:\s+(\d+) kB", text)
    assert match
    free = int(match[1]) / 1e6
    if free < gigabytes:
        pytest.skip(f"needs {gigabytes:g} GB of memory, and {free:.1f} GB are free")


def vllm_pool(place: Installation) -> dict[str, Any]:
    return {
        "engine": {
            "kind": "vllm",
            "model": str(place.model),
            "python": str(place.python),
            "env": {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"},
            "args": ["--dtype=float32", "--enforce-eager", "--max-model-len=1024"],
            "start_timeout_s": 300,
        }
    }


def transformers_pool(place: Installation, *more: str) -> dict[str, Any]:
    flags = ["--continuous-batching", "--device=cpu", "--dtype=float32", "--cb-num-blocks=128", *more]
    python = str(place.transformers_python)
    engine = {"kind": "transformers", "model": str(place.model), "python": python, "args": flags}
    return {"engine": engine | {"env": {"HF_HUB_OFFLINE": "1"}, "start_timeout_s": 300}}


def engine_url(gateway: Served, pool: str) -> str:
    match = re.search(rf"→ {pool}: \w+ on (\S+)", gateway.text)
    assert match, gateway.text
    return match[1]


def config(pools: dict[str, Any]) -> dict[str, Any]:
    """Each pool behind a deployment of its own name."""
    deployments = {name: {"variants": {"default": {"pools": [name]}}} for name in pools}
    return {"server": {"port": 0, "workers": 1}, "pools": pools, "deployments": deployments}


async def ready(gateway: Served) -> None:
    await gateway.said(r"gateway on \S+ with")
    async with asyncio.timeout(START_S), httpx.AsyncClient(trust_env=False, timeout=5.0) as http:
        while True:
            assert gateway.process.returncode is None, gateway.text
            try:
                if (await http.get(f"{gateway.url}/health/ready")).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.5)


async def whole_stream(client: openai.AsyncOpenAI, model: str) -> Any:
    """Its usage, after a stream that was as it has to be."""
    stream = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        stream=True,
        max_completion_tokens=12,
        temperature=0,
        stream_options={"include_usage": True},
    )
    text, usage, reasons = "", None, []
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert reasons in (["stop"], ["length"]), model
    assert text, model
    assert usage is not None, model
    return usage
