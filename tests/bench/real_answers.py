"""What a real engine says to the questions of a stream, asked once and kept in a file that can be resumed."""

from __future__ import annotations

import asyncio
import csv
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec

from tests.harness import Json

ORDER = 3
"""Seed of the order in which questions are asked of the engine: a file that is not full has a sample of them."""
AT_ONCE = 4
PATIENCE_S = 300.0


class Kind(msgspec.Struct, frozen=True):
    """How the engine is asked. `shots`: examples, as earlier turns."""

    system: str
    max_tokens: int
    shots: tuple[tuple[str, str], ...] = ()

    def body(self, question: str) -> Json:
        turns = [("system", self.system)]
        for asked, said in self.shots:
            turns += [("user", asked), ("assistant", said)]
        messages = [{"role": role, "content": content} for role, content in (*turns, ("user", question))]
        return {"model": "m", "messages": messages, "temperature": 0, "max_tokens": self.max_tokens}


KINDS = {
    "list": Kind(
        "You sort the questions of a bank's customers. Reply with the one topic that fits best, word for word, out of "
        "this list: card delivery, card payment, lost or stolen card, card not working, cash withdrawal, transfer, top "
        "up, exchange rate, fees, refund, PIN, passcode, identity check, personal details, account, virtual card, "
        "direct debit, contactless, countries, other.",
        8,
        (
            ("where can I pay without putting my card into the machine", "contactless"),
            ("why is the app so slow today", "other"),
            ("someone took my wallet with the card in it", "lost or stolen card"),
        ),
    ),
    "topic": Kind(
        "You sort the questions of a bank's customers. Reply with what the question is about, in two or three "
        "lowercase words.",
        8,
        (
            ("My baby's name has to go on our joint account", "add account holder"),
            ("why is the app so slow today", "slow app"),
            ("Do you have an office in Leeds?", "branch location"),
            ("I was told that my loan was refused, how come?", "loan refused"),
        ),
    ),
    "sentence": Kind("You answer customers of a bank. Answer in one short sentence.", 48),
}
"""A closed list of answers, free answers of a few words, and a sentence: the last cannot be compared by their texts."""


class Said(msgspec.Struct, frozen=True):
    question: str
    answer: str
    finish: str
    seconds: float
    tokens: int


def questions(stream: Path, most: int) -> list[str]:
    """Each once, in the order in which the engine is asked."""
    with stream.open(newline="", encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    random.Random(ORDER).shuffle(texts)
    return list(dict.fromkeys(texts))[:most]


def read_answers(path: Path) -> dict[str, Said]:
    if not path.exists():
        return {}
    lines = path.read_bytes().splitlines()
    return {said.question: said for said in (msgspec.json.decode(line, type=Said) for line in lines)}


async def collect(url: str, kind: Kind, asked: Sequence[str], path: Path) -> dict[str, Said]:
    """Ask for what is not in the file, and write it there."""
    known = read_answers(path)
    missing = iter([text for text in asked if text not in known])
    done = len(asked) - sum(text not in known for text in asked)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, trust_env=False) as client:

        async def ask_on() -> None:
            nonlocal done
            for text in missing:
                known[text] = said = await ask(client, kind, text)
                with path.open("ab") as file:
                    file.write(msgspec.json.encode(said) + b"\n")
                done += 1
                if done % 50 == 0:
                    progress(f"{done} of {len(asked)} questions answered")

        await asyncio.gather(*(ask_on() for _ in range(AT_ONCE)))
    return {text: known[text] for text in asked}


async def ask(client: httpx.AsyncClient, kind: Kind, text: str) -> Said:
    since_s = time.monotonic()
    found = (await client.post("/v1/chat/completions", json=kind.body(text))).raise_for_status().json()
    choice, took_s = found["choices"][0], time.monotonic() - since_s
    tokens = found["usage"]["completion_tokens"]
    return Said(text, choice["message"]["content"], choice["finish_reason"], round(took_s, 3), tokens)


@asynccontextmanager
async def engine_at(which: str) -> AsyncIterator[str]:
    """The URL of an engine: of one that runs, or of a model, by file or name, on one thread for as long as needed."""
    if which.startswith("http"):
        yield which
        return
    command = ("-m", "engines.llamacpp_server", "--model", which, "--threads", "1", "--slots", str(AT_ONCE))
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        async for line in process.stdout:
            if b" serves " in line:
                yield line.decode().split()[-1]
                break
        else:
            raise SystemExit(f"{which} does not start: python {' '.join(command)}")
    finally:
        process.terminate()
        await process.wait()


def progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def completion(said: Said) -> bytes:
    """As the engine sent it, but for what nobody looks at."""
    choice = {"index": 0, "message": {"role": "assistant", "content": said.answer}, "finish_reason": said.finish}
    usage = {"prompt_tokens": 100, "completion_tokens": said.tokens, "total_tokens": 100 + said.tokens}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(body).encode()
