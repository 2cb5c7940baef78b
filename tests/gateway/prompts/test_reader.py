"""What routing is told of a prompt, by bytes and by tokens, and that it is never held up."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from array import array
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from engines.base import Operation
from gateway.prompts import Lengths, PromptFacts, PromptReader, PromptThread, chain, first_seed
from gateway.prompts.body import MEDIA_TOKENS, id_bytes
from gateway.prompts.reader import INLINE_BYTES, INLINE_CHARS, INLINE_OBJECTS, MAX_TOKENIZED_BYTES
from gateway.prompts.thread import MAX_PENDING
from gateway.wire import Call
from tests.gateway.prompts.bodies import call, chat
from tests.gateway.prompts.test_body import HOSTILE

DATA = Path(__file__).parent / "data"
CHATML = DATA / "templates/chatml.jinja"
PATIENT_S = 20.0
LONG = "A long question, asked in many words. " * 40


@pytest.fixture
def thread() -> Iterator[PromptThread]:
    opened = PromptThread(PATIENT_S)
    yield opened
    opened.close()


@pytest.fixture
async def tokens(thread: PromptThread) -> AsyncIterator[PromptReader]:
    yield await with_tokens(thread)


async def with_tokens(thread: PromptThread, adapter: str = "") -> PromptReader:
    loading = thread.load(DATA / "tiny", CHATML)
    await asyncio.wrap_future(loading)
    return PromptReader(thread, Lengths(), tokenizer=loading, adapter=adapter, name="chat/main")


def by_bytes(thread: PromptThread, adapter: str = "") -> PromptReader:
    return PromptReader(thread, Lengths(), adapter=adapter)


async def facts_of(reader: PromptReader, request: Call, *sizes: int) -> PromptFacts:
    facts = reader.read(request, {}, sizes or (16,))
    return facts if isinstance(facts, PromptFacts) else await facts


def at_once(reader: PromptReader, request: Call, sizes: tuple[int, ...] = (16,)) -> PromptFacts:
    facts = reader.read(request, {}, sizes)
    assert isinstance(facts, PromptFacts)
    return facts


def shared(one: PromptFacts, other: PromptFacts) -> int:
    """Leading keys that are equal; no other is."""
    equal = sum(a == b for a, b in zip(one.keys, other.keys, strict=False))
    assert one.keys[:equal] == other.keys[:equal]
    return equal


class Gate:
    """Holds the thread up until it is opened."""

    def __init__(self, thread: PromptThread) -> None:
        self._open = threading.Event()
        self._closed = threading.Event()
        thread.submit(self._wait)
        self._closed.wait(PATIENT_S)

    def _wait(self) -> PromptFacts:
        self._closed.set()
        self._open.wait(PATIENT_S)
        return PromptFacts(0)

    def open(self) -> None:
        self._open.set()


def test_without_a_tokenizer_a_prompt_is_read_at_once_by_its_bytes(thread: PromptThread) -> None:
    facts = at_once(by_bytes(thread, "sql"), chat("x" * 1000, cache_salt="s", user="u", max_tokens=9))
    assert len(facts.keys) == 1000 // 256
    assert (facts.prompt_tokens, facts.estimated, facts.exact) == (facts.text_bytes // 4, True, False)
    assert (facts.block_tokens, facts.adapter, facts.salt) == (64, "sql", b"s")
    assert (facts.session, facts.max_output_tokens) == ("u", 9)


async def test_with_a_tokenizer_the_keys_are_of_its_token_ids(tokens: PromptReader) -> None:
    facts = await facts_of(tokens, chat("What is the capital of France?"), 4, 8)
    golden = json.loads((DATA / "golden.json").read_text())["chatml"]["one question"]["ids"]
    ids = [int(one) for one in golden.split()]
    assert (facts.prompt_tokens, facts.estimated, facts.exact) == (len(ids), False, True)
    assert facts.block_tokens == 4
    for size in (4, 8, 5):
        assert list(facts.keys_for(size)) == chain(id_bytes(ids), size * 4, first_seed("", b""))
    assert facts.keys == facts.keys_for(4)


async def test_a_conversation_keeps_its_keys_as_it_goes_on(thread: PromptThread, tokens: PromptReader) -> None:
    for reader in (by_bytes(thread), tokens):
        turns = [LONG, "Yes. " * 200, LONG, "No. " * 200, "And now?"]
        before = await facts_of(reader, chat(*turns[:3]))
        after = await facts_of(reader, chat(*turns))
        assert 3 < len(before.keys) < len(after.keys)
        assert shared(before, after) >= len(before.keys) - 1  # the generation prompt is not in the later one


async def test_prompts_share_keys_up_to_where_they_differ(thread: PromptThread, tokens: PromptReader) -> None:
    for reader in (by_bytes(thread), tokens):
        one, other = [await facts_of(reader, chat(LONG + tail)) for tail in ("this" + LONG, "that" + LONG)]
        assert 0 < shared(one, other) < len(one.keys)


async def test_salt_and_adapter_change_every_key(thread: PromptThread, tokens: PromptReader) -> None:
    for plain, adapted in ((by_bytes(thread), by_bytes(thread, "a")), (tokens, await with_tokens(thread, "a"))):
        same = await facts_of(plain, chat(LONG))
        assert set(same.keys).isdisjoint((await facts_of(plain, chat(LONG, cache_salt="s"))).keys)
        assert set(same.keys).isdisjoint((await facts_of(adapted, chat(LONG))).keys)


async def test_sampling_changes_no_key(thread: PromptThread, tokens: PromptReader) -> None:
    for reader in (by_bytes(thread), tokens):
        plain = await facts_of(reader, chat(LONG))
        sampled = await facts_of(reader, chat(LONG, temperature=1.5, seed=3, max_tokens=1, stop=["x"], stream=True))
        assert plain.keys == sampled.keys


async def test_the_second_reading_of_a_prompt_has_the_same_keys(tokens: PromptReader) -> None:
    first, second = [await facts_of(tokens, chat(LONG * 20)) for _ in range(2)]
    assert first.keys == second.keys
    assert len(first.keys) > 64


async def test_token_ids_of_the_caller_need_no_tokenizer(thread: PromptThread, tokens: PromptReader) -> None:
    ids = list(range(40))
    for reader in (by_bytes(thread), tokens):
        facts = await facts_of(reader, call({"prompt": ids}, Operation.COMPLETIONS))
        assert (facts.prompt_tokens, facts.estimated, facts.exact) == (40, False, True)
        assert facts.keys == chain(array("I", ids).tobytes(), 64, first_seed("", b""))


async def test_block_sizes_that_make_no_sense_are_not_used(tokens: PromptReader) -> None:
    usual = await facts_of(tokens, chat(LONG))
    for sizes in ((), (0,), (16, -1)):
        assert at_once(tokens, chat(LONG), sizes).keys == usual.keys
    assert usual.keys_for(0) == ()


async def test_further_prompts_of_a_request_are_estimated(thread: PromptThread, tokens: PromptReader) -> None:
    ids = await facts_of(by_bytes(thread), call({"prompt": [[1, 2], [3]]}, Operation.COMPLETIONS))
    assert (ids.prompt_tokens, ids.estimated) == (3, True)
    texts = await facts_of(tokens, call({"input": ["hi", "x" * 400]}, Operation.EMBEDDINGS))
    assert texts.prompt_tokens == 100 + len(texts._ids) // 4


async def test_a_prompt_with_an_image_is_keyed_by_its_bytes(thread: PromptThread, tokens: PromptReader) -> None:
    parts = [{"type": "text", "text": LONG}, {"type": "image_url", "image_url": {"url": "http://x/y.png"}}]
    request = call({"messages": [{"role": "user", "content": parts}]})
    facts = await facts_of(tokens, request)
    assert facts == at_once(by_bytes(thread), request)
    assert (facts.exact, facts.text_bytes, facts.keys_for(16)) == (False, 0, ())
    assert facts.prompt_tokens > MEDIA_TOKENS


async def test_what_the_template_refuses_is_keyed_by_its_bytes(thread: PromptThread, tokens: PromptReader) -> None:
    request = chat(LONG, chat_template="{{ 1 }}")
    assert await facts_of(tokens, request) == at_once(by_bytes(thread), request)


async def test_a_prompt_that_takes_too_long_is_keyed_by_its_bytes() -> None:
    thread = PromptThread(0.01)
    reader = await with_tokens(thread)
    gate = Gate(thread)
    late = reader.read(chat(LONG), {})
    assert not isinstance(late, PromptFacts)
    assert await late == at_once(by_bytes(thread), chat(LONG))
    assert thread.pending == 0
    gate.open()
    thread.close()


def test_while_the_thread_hangs_nobody_waits_for_it() -> None:
    thread = PromptThread(0.0)
    gate = Gate(thread)
    assert thread.submit(lambda: PromptFacts(0)) is None
    gate.open()
    thread.close()


async def test_what_nobody_waits_for_any_more_is_not_read() -> None:
    thread = PromptThread(0.0)
    reader = await with_tokens(thread)
    deadline_passed = reader._in_thread(None, chat(LONG), {}, (16,), 0.0)
    assert deadline_passed.keys == ()
    assert deadline_passed.prompt_tokens == len(chat(LONG).body) // 4
    thread.close()


async def test_with_many_waiting_the_next_prompt_does_not_wait(thread: PromptThread, tokens: PromptReader) -> None:
    gate = Gate(thread)
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(facts_of(tokens, chat(LONG))) for _ in range(MAX_PENDING)]
        await asyncio.sleep(0)
        assert thread.pending == MAX_PENDING
        assert not (await facts_of(tokens, chat(LONG))).exact
        gate.open()
    assert all(task.result().exact for task in waiting)
    assert repr(thread) == "<PromptThread pending=0 tokenizers=1>"


async def test_a_caller_that_goes_away_leaves_nothing_behind(thread: PromptThread, tokens: PromptReader) -> None:
    gate = Gate(thread)
    task = asyncio.create_task(facts_of(tokens, chat(LONG)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert thread.pending == 0
    gate.open()


async def test_after_closing_prompts_are_keyed_by_their_bytes(thread: PromptThread, tokens: PromptReader) -> None:
    thread.close()
    assert not (await facts_of(tokens, chat(LONG))).exact


async def test_what_is_new_and_long_is_tokenized_in_the_thread_and_what_little_follows_at_once(
    tokens: PromptReader,
) -> None:
    long = "word " * INLINE_CHARS
    waiting = tokens.read(chat(long), {})
    assert not isinstance(waiting, PromptFacts)
    first = await waiting
    turns = [{"role": "user", "content": long}, {"role": "assistant", "content": "yes"}]
    again = at_once(tokens, call({"messages": [*turns, {"role": "user", "content": "and?"}]}))
    assert again.exact
    assert shared(first, again) >= len(first.keys) - 1


async def test_many_small_messages_are_rendered_in_the_thread(tokens: PromptReader) -> None:
    many = call({"messages": [{"role": "user", "content": ""}] * (INLINE_OBJECTS + 1)})
    waiting = tokens.read(many, {})
    assert not isinstance(waiting, PromptFacts)
    assert (await waiting).exact


async def test_while_the_thread_is_at_work_no_tokenizer_is_used_beside_it(
    thread: PromptThread, tokens: PromptReader
) -> None:
    gate = Gate(thread)
    waiting = tokens.read(chat("hello"), {})
    assert not isinstance(waiting, PromptFacts)
    gate.open()
    assert (await waiting).exact


async def test_a_large_body_is_read_in_the_thread(thread: PromptThread) -> None:
    reader = by_bytes(thread)
    request = chat("x" * INLINE_BYTES)
    waiting = reader.read(request, {})
    assert not isinstance(waiting, PromptFacts)
    facts = await waiting
    assert len(facts.keys) == INLINE_BYTES // 256
    thread.close()
    again = msgspec.structs.replace(request, reading=None)
    assert (await facts_of(reader, again)).keys == ()


async def test_a_body_too_large_to_render_is_keyed_by_its_bytes(tokens: PromptReader) -> None:
    assert not (await facts_of(tokens, chat("x" * MAX_TOKENIZED_BYTES))).exact


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_body_has_no_keys_or_some_but_raises_nothing(tokens: PromptReader, name: str) -> None:
    for operation in Operation:
        facts = await facts_of(tokens, call(HOSTILE[name], operation))
        assert facts.prompt_tokens >= 0


async def test_a_fault_in_the_thread_costs_the_keys_only(
    thread: PromptThread, tokens: PromptReader, caplog: pytest.LogCaptureFixture
) -> None:
    fault: Callable[..., object] = lambda *_: 1 / 0  # noqa: E731
    thread.memo.chain = fault  # type: ignore[method-assign, assignment]
    facts = await facts_of(tokens, chat(LONG))
    assert facts.keys
    assert not facts.exact
    assert "chat/main: a prompt could not be read" in caplog.text


async def test_a_tokenizer_that_cannot_be_loaded_is_told_of_once(
    thread: PromptThread, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loading = thread.load(tmp_path)
    assert thread.load(tmp_path) is loading
    with pytest.raises(Exception, match=r"tokenizer\.json"):
        await asyncio.wrap_future(loading)
    with caplog.at_level(logging.WARNING):
        reader = PromptReader(thread, Lengths(), tokenizer=loading, name="chat/main")
    assert f"chat/main: its prompts are keyed by their bytes: there is no {tmp_path}/tokenizer.json" in caplog.text
    assert "setting `tokenizer`" in caplog.text
    assert at_once(reader, chat(LONG)).keys


async def test_a_load_that_never_began_is_no_fault(thread: PromptThread, caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(thread)
    reader = PromptReader(thread, Lengths(), tokenizer=thread.load(DATA / "tiny"))
    thread.close()
    gate.open()
    assert at_once(reader, chat(LONG)).keys
    assert caplog.text == ""


def test_what_engines_count_is_learned(thread: PromptThread) -> None:
    reader = by_bytes(thread)
    for _ in range(300):
        facts = at_once(reader, chat(LONG))
        reader.learn(facts, prompt_tokens=facts.text_bytes // 2, output_tokens=50)
    reader.learn(facts, prompt_tokens=None, output_tokens=None)
    facts = at_once(reader, chat(LONG, max_tokens=2000))
    assert facts.prompt_tokens == pytest.approx(facts.text_bytes / 2, rel=0.02)
    assert facts.block_tokens == pytest.approx(128, rel=0.02)
    assert reader.output_tokens(facts) == pytest.approx(50, rel=0.1)
    assert repr(reader).startswith("<PromptReader '' tokenizer=None <Lengths bytes_per_token=2.")
