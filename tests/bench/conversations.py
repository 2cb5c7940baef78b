"""A load of conversations that share system prompts, and what its clients see of it."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx

TIMEOUT_S = 180.0
_TEXT = (
    "the of and to in is that for it as was with be by on not he his but at are this have from or had an they which "
    "one you were all her she there would their we him been has when who will no more if out so up said what its about "
    "than into them can only other time new some could these two may first then do any like my now over such our man "
    "even most made after also did many off before must well back through years where much your way down should water "
    "because long each just state people those too mr little good world make very year still see own work men day get "
    "here old life both between being under three never know same last another while us might great go come since"
)
_WORDS = _TEXT.split()
"""Common words, most of which are one token of any tokenizer."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a load.

    rate:          conversations that begin per second, as a Poisson process.
    groups:        of users; each has a system prompt, and the k-th has 1/k of the first one's conversations.
    system_words, ask_words: least and most.
    turns:         questions of a conversation, least and most; each is sent with all that was said before.
    think_s:       mean of the exponential pause before each question but the first.
    output_tokens: least and most that an answer may have.
    """

    conversations: int
    rate: float
    groups: int = 6
    system_words: tuple[int, int] = (300, 560)
    ask_words: tuple[int, int] = (15, 60)
    turns: tuple[int, int] = (2, 4)
    think_s: float = 3.0
    output_tokens: tuple[int, int] = (8, 16)


@dataclass(frozen=True, slots=True)
class Turn:
    """think_s: the pause before it is sent."""

    ask: str
    think_s: float
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """begins_s: seconds after the load began."""

    begins_s: float
    system: str
    turns: list[Turn]


@dataclass(slots=True)
class Answer:
    """What a client saw. ttft_s: from sending to the first content; error: empty if all went well."""

    ttft_s: float = 0.0
    e2e_s: float = 0.0
    text: str = ""
    error: str = ""


def conversations(shape: Shape, seed: int, mark: str = "") -> list[Conversation]:
    """The same for the same seed. mark: what all system prompts begin with, so that they share nothing with others."""
    rng = random.Random(seed)
    systems = [mark + _text(rng, shape.system_words) for _ in range(shape.groups)]
    weights = [1 / (1 + k) for k in range(shape.groups)]
    at_s = 0.0
    found = []
    for _ in range(shape.conversations):
        at_s += rng.expovariate(shape.rate)
        count = rng.randint(*shape.turns)
        pauses = [0.0, *(rng.expovariate(1 / shape.think_s) for _ in range(count - 1))]
        turns = [Turn(_text(rng, shape.ask_words), pause, rng.randint(*shape.output_tokens)) for pause in pauses]
        found.append(Conversation(at_s, rng.choices(systems, weights)[0], turns))
    return found


def _text(rng: random.Random, words: tuple[int, int]) -> str:
    return " ".join(rng.choices(_WORDS, k=rng.randint(*words)))


async def talk(url: str, model: str, load: list[Conversation]) -> list[Answer]:
    """Have all of these conversations at `url`, an OpenAI endpoint without `/v1`."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, trust_env=False, limits=limits) as http:
        answers: list[list[Answer]] = await asyncio.gather(*(_one(http, model, each) for each in load))
    return [answer for each in answers for answer in each]


async def _one(http: httpx.AsyncClient, model: str, conversation: Conversation) -> list[Answer]:
    await asyncio.sleep(conversation.begins_s)
    messages = [{"role": "system", "content": conversation.system}]
    answers: list[Answer] = []
    for turn in conversation.turns:
        await asyncio.sleep(turn.think_s)
        messages.append({"role": "user", "content": turn.ask})
        answers.append(await ask(http, model, messages, turn.max_tokens))
        if answers[-1].error:
            break
        messages.append({"role": "assistant", "content": answers[-1].text or "..."})
    return answers


async def ask(http: httpx.AsyncClient, model: str, messages: list[dict[str, str]], max_tokens: int) -> Answer:
    body = {"model": model, "messages": messages, "stream": True, "max_tokens": max_tokens, "temperature": 0}
    answer, began_s = Answer(), time.monotonic()
    try:
        async with http.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                answer.error = f"{response.status_code}: {(await response.aread()).decode(errors='replace')[:200]}"
            else:
                async for text in _contents(response):
                    answer.ttft_s = answer.ttft_s or time.monotonic() - began_s
                    answer.text += text
    except httpx.HTTPError as error:
        answer.error = repr(error)
    answer.e2e_s = time.monotonic() - began_s
    if not answer.text and not answer.error:
        answer.error = "no content"
    return answer


async def _contents(response: httpx.Response) -> AsyncIterator[str]:
    async for line in response.aiter_lines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:]).get("choices", ()):
                if text := choice.get("delta", {}).get("content"):
                    yield text
