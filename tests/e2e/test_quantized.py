"""`transformers serve` with weights in 4 and 8 bit, by bitsandbytes, behind the gateway that starts it."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path

import openai
import pytest

from tests.e2e.real_engines import (
    Installation,
    config,
    installation,
    needs_memory,
    ready,
    transformers_pool,
    whole_stream,
)
from tests.gateway.supervised import served

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

NEEDED_GB = 4.5
MODEL = "quantized"


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_of_few_bits_answer_whole_and_streamed(tmp_path: Path, bits: int) -> None:
    needs_memory(NEEDED_GB)
    place = installation()
    needs_bitsandbytes(place)
    asyncio.run(_asked(tmp_path, place, f"--quantization=bnb-{bits}bit"))


def needs_bitsandbytes(place: Installation) -> None:
    look = [str(place.transformers_python), "-c", "import bitsandbytes"]
    if subprocess.run(look, capture_output=True, check=False, timeout=120).returncode:
        pytest.skip(f"no bitsandbytes in the environment of {place.transformers_python}")


async def _asked(folder: Path, place: Installation, flag: str) -> None:
    tree = config({MODEL: transformers_pool(place, flag)})
    async with served(folder, tree, "--log-format", "pretty") as gateway:
        await ready(gateway)
        url = f"{gateway.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=120.0) as client:
            answer = await client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": "What is the capital of France?"}],
                max_completion_tokens=12,
                temperature=0,
            )
            assert "Paris" in (answer.choices[0].message.content or "")
            assert answer.usage is not None
            assert answer.usage.completion_tokens > 0
            assert (await whole_stream(client, MODEL)).completion_tokens == answer.usage.completion_tokens
        assert "libbitsandbytes" in _mapped(gateway.text), "the weights are not those of bitsandbytes"


def _mapped(said: str) -> str:
    """The files that the engine has mapped, by what the gateway said of its start."""
    pid = re.search(r"engine \S+: ready in .*, process (\d+)", said)
    assert pid, said
    return Path(f"/proc/{pid[1]}/maps").read_text()
