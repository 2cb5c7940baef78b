"""ONNX Runtime GenAI behind the gateway: the real runtime with a real model.

HEADRACE_ONNX names the folder that onnx_setup.sh filled.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from engines.commands import free_port
from tests.harness import MODEL, config_of, serving

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("HEADRACE_ONNX", ""))
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(120),
    pytest.mark.skipif("HEADRACE_ONNX" not in os.environ, reason="tests/e2e/onnx_setup.sh DIR makes what this needs"),
]


@asynccontextmanager
async def engine() -> AsyncIterator[str]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(FOLDER / "onnx-venv/bin/python", "-m", "engines.onnx", "--model", FOLDER / "onnx", "--port", str(port)),
        *("--alias", MODEL, "--slots", "2"),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(60), httpx.AsyncClient(trust_env=False) as client:
            while True:
                try:
                    if (await client.get(f"{url}/health")).is_success:
                        break
                except httpx.ConnectError:
                    await asyncio.sleep(0.1)
        yield url
    finally:
        process.terminate()
        await process.wait()


async def running(url: str) -> float:
    async with httpx.AsyncClient(trust_env=False) as client:
        for line in (await client.get(f"{url}/metrics")).text.splitlines():
            if line.startswith("onnx:requests_running "):
                return float(line.split()[1])
    raise AssertionError("no such metric")


async def test_the_official_client_gets_what_it_asks_for_and_a_hang_up_frees_the_engine() -> None:
    async with engine() as url, serving(config_of(url)) as server:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as client:
            ask: Any = client.chat.completions.create
            whole = await ask(model=MODEL, messages=QUESTION, temperature=0, max_tokens=20)
            assert "Paris" in whole.choices[0].message.content
            assert whole.usage.completion_tokens > 3
            form = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
            formed = await ask(model=MODEL, messages=QUESTION, temperature=0, response_format=form)
            assert list(json.loads(formed.choices[0].message.content)) == ["city"]
            with pytest.raises(openai.BadRequestError, match="n: "):
                await ask(model=MODEL, messages=QUESTION, n=3)
            texts = await asyncio.gather(*(streamed(ask) for _ in range(4)))
            assert all("Paris" in text for text in texts)
            stream = await ask(model=MODEL, messages=QUESTION, stream=True, max_tokens=2000)
            await anext(aiter(stream))
            await stream.close()
        async with asyncio.timeout(1):
            while await running(url):
                await asyncio.sleep(0.01)


async def streamed(ask: Any) -> str:
    stream = await ask(model=MODEL, messages=QUESTION, temperature=0, max_tokens=20, stream=True)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
