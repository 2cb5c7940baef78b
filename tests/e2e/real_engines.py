"""Where the real engines of the e2e tests are, and what they say of themselves."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.supervised import Served

NEEDED_GB = 11.0
"""vLLM 4.3, `transformers serve` 3.8, llama.cpp 0.6, and room."""


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


def transformers_pool(place: Installation) -> dict[str, Any]:
    flags = ["--continuous-batching", "--device=cpu", "--dtype=float32", "--cb-num-blocks=128"]
    python = str(place.transformers_python)
    engine = {"kind": "transformers", "model": str(place.model), "python": python, "args": flags}
    return {"engine": engine | {"env": {"HF_HUB_OFFLINE": "1"}, "start_timeout_s": 300}}


def engine_url(gateway: Served, pool: str) -> str:
    match = re.search(rf"→ {pool}: \w+ on (\S+)", gateway.text)
    assert match, gateway.text
    return match[1]
