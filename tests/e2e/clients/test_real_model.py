"""The `openai` package, `headrace serve` and a real model in the embedded llama.cpp: nothing of it is a stand-in."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator

import httpx
import openai
import pytest
from anyio.from_thread import start_blocking_portal
from pydantic import BaseModel

from tests.clients.talk import said
from tests.gateway.supervised import served
from tests.harness import Watch, metrics_in

MODEL = "smollm2-135m-instruct"
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


class Person(BaseModel):
    name: str
    age: int


class Tokens(openai.BaseModel):
    tokens: list[int]
    count: int


class Text(openai.BaseModel):
    prompt: str


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One `headrace serve` for all tests, watched by a loop of its own. It may fetch the model first."""
    config = {
        "server": {"port": 0, "workers": 2},
        "pools": {"local": {"engine": {"kind": "llamacpp", "model": MODEL, "slots": 2}}},
        "deployments": {MODEL: {"variants": {"q4": {"pools": ["local"]}}}},
    }
    folder = tmp_path_factory.mktemp("real")
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(served(folder, config)) as gateway,
    ):
        portal.call(gateway.ready)
        yield gateway.url


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as one:
        yield one


async def test_a_real_sentence_is_completed_sensibly(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(
        model=MODEL, prompt="The capital of France is", temperature=0, max_tokens=8
    )
    assert "Paris" in answer.choices[0].text
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8


async def test_a_real_chat_is_answered(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model=MODEL, messages=said("Hello!"), max_tokens=12)
    assert answer.choices[0].message.content
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 10


async def test_a_real_stream_says_what_the_whole_answer_says(client: openai.AsyncOpenAI) -> None:
    create = client.chat.completions.create
    question = said("What is the capital of France?")
    whole = await create(model=MODEL, messages=question, temperature=0, max_tokens=16)
    stream = await create(model=MODEL, messages=question, temperature=0, max_tokens=16, stream=True)
    chunks = [chunk async for chunk in stream]
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 3
    assert all(chunk.usage is None for chunk in chunks), "nobody asked for it"


async def test_usage_is_told_to_those_who_ask(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=MODEL, messages=said("Hi"), max_tokens=4, stream=True, stream_options={"include_usage": True}
    )
    last = [chunk async for chunk in stream][-1]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 4


async def test_a_real_model_is_held_to_a_schema(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.parse(
        model=MODEL, messages=said("Make up a person."), response_format=Person, temperature=0, max_tokens=64
    )
    assert answer.choices[0].message.parsed is not None
    assert answer.choices[0].message.parsed.name


async def test_real_embeddings_know_what_is_alike(client: openai.AsyncOpenAI) -> None:
    texts = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Quarterly revenue grew by 4 %."]
    answer = await client.embeddings.create(model=MODEL, input=texts)
    cat, kitten, money = (one.embedding for one in answer.data)
    assert len(cat) == 576
    assert _cosine(cat, kitten) > _cosine(cat, money)


async def test_logprobs_of_a_real_model_are_logarithms(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=MODEL, messages=said("Hi"), max_tokens=3, logprobs=True, top_logprobs=2
    )
    assert answer.choices[0].logprobs is not None
    tokens = answer.choices[0].logprobs.content or []
    assert len(tokens) == 3
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)


async def test_text_becomes_tokens_and_text_again(client: openai.AsyncOpenAI) -> None:
    ask = {"model": MODEL, "prompt": "Hello world"}
    made = await client.post("/tokenize", body=ask, cast_to=Tokens)
    assert (made.tokens, made.count) == ([19556, 905], 2)
    back = {"model": MODEL, "tokens": made.tokens}
    assert (await client.post("/detokenize", body=back, cast_to=Text)).prompt == "Hello world"


async def test_a_prompt_beyond_the_context_has_the_code_that_programs_look_for(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model=MODEL, messages=said("word " * 20_000), max_tokens=4)
    assert caught.value.code == "context_length_exceeded"


async def test_a01_a_closed_stream_frees_a_slot_of_the_real_engine(client: openai.AsyncOpenAI, url: str) -> None:
    create = client.chat.completions.create
    for _ in range(6):
        stream = await create(model=MODEL, messages=said("Tell a long story."), max_tokens=4000, stream=True)
        await anext(aiter(stream))
        await stream.close()
    with Watch() as watch:
        await create(model=MODEL, messages=said("Hi"), max_tokens=2)
    assert watch.elapsed_s < 10, "two slots would be busy for minutes"
    async with asyncio.timeout(5), httpx.AsyncClient(base_url=url, trust_env=False) as http:
        # A worker that a busy machine lets wait counts with its last numbers.
        while any(_in_flight((await http.get("/metrics")).text)):
            await asyncio.sleep(0.1)


async def test_more_clients_than_slots_all_get_their_answer(client: openai.AsyncOpenAI) -> None:
    create = client.chat.completions.create
    answers = await asyncio.gather(*(create(model=MODEL, messages=said(f"Say {n}."), max_tokens=4) for n in range(6)))
    assert all(answer.choices[0].message.content for answer in answers)


def _in_flight(exposition: str) -> list[float]:
    return [value for name, value in metrics_in(exposition).items() if name.startswith("headrace_replica_in_flight")]


def _cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))
