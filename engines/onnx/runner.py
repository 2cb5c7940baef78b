"""Generation by ONNX Runtime GenAI: one thread takes turns between the requests, a token each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger("headrace.onnx")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen, by OpenAI's names. temperature 0 takes the likeliest; top_k 0: no limit."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    schema: str | None = None
    """JSON Schema that the text must follow."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text, which may be empty while a character or a stop string is half there. The last has the reason."""

    text: str
    finish_reason: str | None = None


@dataclass(slots=True, eq=False)
class Generation:
    """One request. Set `cancelled` and it ends at its next turn."""

    prompt: Sequence[int]
    sampling: Sampling
    put: Callable[[Piece | Exception], None]
    cancelled: bool = False
    tokens: int = 0
    generator: Any = None
    decoder: Any = None
    held: str = ""
    """Text that may be the beginning of a stop string."""


@dataclass(slots=True)
class Load:
    running: int = 0
    waiting: int = 0
    generated: int = field(default=0)


class Runner:
    """Owns the model. Every call into ONNX Runtime is made by its thread.

    slots: requests that take turns; more wait.
    """

    def __init__(self, og: Any, folder: str, slots: int) -> None:
        self._og = og
        self._slots = slots
        self._model = og.Model(folder)
        self.tokenizer = og.Tokenizer(self._model)
        self._eos = set(self.tokenizer.eos_token_ids)
        self.context_tokens = _context_tokens(folder)
        self._waiting: deque[Generation] = deque()
        self._active: list[Generation] = []
        self._work = threading.Condition()
        self._generated = 0
        threading.Thread(target=self._run, name="onnx", daemon=True).start()

    @property
    def load(self) -> Load:
        return Load(len(self._active), len(self._waiting), self._generated)

    def submit(self, generation: Generation) -> None:
        with self._work:
            self._waiting.append(generation)
            self._work.notify()

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> tuple[Generation, asyncio.Queue[Piece | Exception]]:
        """Begin; the pieces come through the queue, in the running event loop."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Piece | Exception] = asyncio.Queue()

        def put(piece: Piece | Exception) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(queue.put_nowait, piece)

        generation = Generation(prompt, sampling, put)
        self.submit(generation)
        return generation, queue

    def _run(self) -> None:
        while True:
            with self._work:
                while not self._active and not self._waiting:
                    self._work.wait()
                while self._waiting and len(self._active) < self._slots:
                    self._active.append(self._waiting.popleft())
            self._active = [generation for generation in self._active if self._turn(generation)]

    def _turn(self, generation: Generation) -> bool:
        """One token of one request; False: it was its last."""
        if generation.cancelled:
            return False
        try:
            if generation.generator is None:
                self._begin(generation)
            return self._next(generation)
        except Exception as error:  # ONNX Runtime raises RuntimeError subclasses of its own
            logger.exception("a generation failed")
            generation.put(error)
            return False

    def _begin(self, generation: Generation) -> None:
        sampling = generation.sampling
        params = self._og.GeneratorParams(self._model)
        options: dict[str, object] = {
            "max_length": min(self.context_tokens, len(generation.prompt) + sampling.max_tokens),
            "do_sample": sampling.temperature > 0,
            "repetition_penalty": sampling.repetition_penalty,
        }
        if sampling.temperature > 0:
            options |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k or 50}
        if sampling.seed is not None:
            options["random_seed"] = sampling.seed
        params.set_search_options(**options)
        if sampling.schema is not None:
            params.set_guidance("json_schema", sampling.schema)
        generation.generator = self._og.Generator(self._model, params)
        generation.generator.append_tokens(list(generation.prompt))
        generation.decoder = self.tokenizer.create_stream()

    def _next(self, generation: Generation) -> bool:
        generator = generation.generator
        generator.generate_next_token()
        token = int(generator.get_next_tokens()[0])
        if token in self._eos:
            generation.put(Piece(generation.held, "stop"))
            return False
        generation.tokens += 1
        self._generated += 1
        text, stopped = _cut(generation.held + generation.decoder.decode(token), generation.sampling.stop)
        if stopped:
            generation.put(Piece(text, "stop"))
            return False
        if generator.is_done() or generation.tokens >= generation.sampling.max_tokens:
            generation.put(Piece(text, "length"))
            return False
        keep = _overlap(text, generation.sampling.stop)
        generation.held = text[len(text) - keep :]
        generation.put(Piece(text[: len(text) - keep]))
        return True


def _cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop string, and whether there is one."""
    found = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    return (text[: min(found)], True) if found else (text, False)


def _overlap(text: str, stops: Sequence[str]) -> int:
    """The length of the longest end of `text` that begins a stop string."""
    longest = 0
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:length]):
                longest = length
                break
    return longest


def _context_tokens(folder: str) -> int:
    with open(f"{folder}/genai_config.json", encoding="utf-8") as file:  # noqa: PTH123 - a str from the command line
        return int(json.load(file)["model"]["context_length"])
