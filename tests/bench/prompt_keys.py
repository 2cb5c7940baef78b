"""What the keys of a prompt cost: `python -m tests.bench.prompt_keys [--tokenizer FOLDER]`.

Without FOLDER the tiny tokenizer of the tests stands in for a model's; it cuts text into more tokens than a real one.
Times are medians over repetitions, in microseconds: `loop` is what the event loop is kept from other work for, `wall`
how long the request waits.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path

import uvloop

from engines.base import Operation
from gateway.prompts import Lengths, PromptFacts, PromptReader, PromptThread
from gateway.wire import Call

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests/gateway/prompts/data/tiny"
TEMPLATE = ROOT / "tests/gateway/prompts/data/templates/chatml.jinja"
REPEAT = 15
TURN_BYTES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, default=None)
    parser.add_argument("--limit-s", type=float, default=10.0, help="the thread's limit, generous so that costs show")
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(measure(given.tokenizer, given.limit_s)), indent=1))


async def measure(folder: Path | None, limit_s: float) -> dict[str, object]:
    text = _text()
    found: dict[str, object] = {}
    for tokens in (1_000, 8_000, 32_000):
        calls = [_conversation(text, tokens * 4, turn) for turn in range(REPEAT + 1)]
        found[f"{tokens} tokens"] = {
            "body_bytes": len(calls[0].body),
            "bytes": await _bytes(calls),
            "tokens": await _tokens(calls, folder, limit_s),
        }
    return found


async def _bytes(calls: list[Call]) -> dict[str, float]:
    """Without a tokenizer: prompts never seen, and a conversation that goes on."""
    thread = PromptThread()
    new = [_timed(PromptReader(thread, Lengths()), call) for call in calls[1:]]
    reader = PromptReader(thread, Lengths())
    reader.read(calls[0], {})
    further = [_timed(reader, call) for call in calls[1:]]
    thread.close()
    return {"loop_us_new": _median(new), "loop_us_next_turn": _median(further)}


async def _tokens(calls: list[Call], folder: Path | None, limit_s: float) -> dict[str, float]:
    """With a tokenizer: `new` has its memory emptied before each prompt."""
    new_wall, new_tokens = [], 0
    further_wall, further_loop = [], []
    thread = PromptThread(limit_s)
    try:
        for call in calls[1:4]:
            fresh = PromptThread(limit_s)
            reader = await _reader(fresh, folder)
            started_s = time.perf_counter()
            facts = await _facts(reader, call)
            new_wall.append(time.perf_counter() - started_s)
            new_tokens = facts.prompt_tokens
            fresh.close()
        reader = await _reader(thread, folder)
        await _facts(reader, calls[0])
        for call in calls[1:]:
            started_s, before_s = time.perf_counter(), time.thread_time()
            await _facts(reader, call)
            further_loop.append(time.thread_time() - before_s)
            further_wall.append(time.perf_counter() - started_s)
    finally:
        thread.close()
    return {
        "prompt_tokens": new_tokens,
        "wall_us_new": _median(new_wall),
        "wall_us_next_turn": _median(further_wall),
        "loop_us_next_turn": _median(further_loop),
    }


async def _reader(thread: PromptThread, folder: Path | None) -> PromptReader:
    loading = thread.load(folder or TINY, None if folder else TEMPLATE)
    await asyncio.wrap_future(loading)
    return PromptReader(thread, Lengths(), tokenizer=loading)


async def _facts(reader: PromptReader, call: Call) -> PromptFacts:
    facts = reader.read(call, {}, (16, 128))
    return facts if isinstance(facts, PromptFacts) else await facts


def _conversation(text: str, size_bytes: int, turn: int) -> Call:
    """A conversation of about that size and `turn` more questions and answers."""
    pieces = [text[at : at + TURN_BYTES] for at in range(0, size_bytes, TURN_BYTES)]
    pieces[-1] = pieces[-1][: size_bytes % TURN_BYTES or TURN_BYTES]
    pieces += [f"{at}: {text[at : at + 300]}" for at in range(2 * turn)]
    messages = [{"role": "user" if at % 2 == 0 else "assistant", "content": piece} for at, piece in enumerate(pieces)]
    return Call(Operation.CHAT, "m", True, False, json.dumps({"model": "m", "messages": messages}).encode())


def _text() -> str:
    texts = "\n".join(file.read_text() for file in sorted(ROOT.glob("docs/**/*.md")))
    while len(texts) < 200_000:
        texts += texts
    return texts


def _timed(reader: PromptReader, call: Call) -> float:
    started_s = time.perf_counter()
    reader.read(call, {})
    return time.perf_counter() - started_s


def _median(times_s: list[float]) -> float:
    return round(statistics.median(times_s) * 1e6, 1)


if __name__ == "__main__":
    main()
