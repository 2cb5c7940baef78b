"""Prompts of OpenAI's models are counted as OpenAI counts them."""

from __future__ import annotations

import asyncio
import importlib
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.base import Operation
from gateway.prompts.body import MEDIA_TOKENS
from gateway.tokens.counter import INLINE_CHARS, MAX_BODY_BYTES, MEMO_TEXTS, PIECE_CHARS, Count, Encoding, TokenCounter
from gateway.tokens.encodings import ENCODINGS, NoEncoding, encoding_of, open_encoding, usual_files
from gateway.wire import Call
from tests.gateway.tokens.ranks import rank_file
from tests.harness import settled

NAMES = tuple(ENCODINGS)
EXAMPLE = [
    {
        "role": "system",
        "content": "You are a helpful, pattern-following assistant that translates corporate jargon into plain "
        "English.",
    },
    {"role": "system", "name": "example_user", "content": "New synergies will help drive top-line growth."},
    {"role": "system", "name": "example_assistant", "content": "Things working well together will increase revenue."},
    {
        "role": "system",
        "name": "example_user",
        "content": "Let's circle back when we have more bandwidth to touch base on opportunities for increased "
        "leverage.",
    },
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Let's talk later when we're less busy about how to do better.",
    },
    {
        "role": "user",
        "content": "This late pivot means we don't have time to boil the ocean for the client deliverable.",
    },
]
"""OpenAI's cookbook, "How to count tokens with tiktoken", with what its API counted: 129 for GPT-4, 124 for GPT-4o."""


@pytest.fixture(scope="module")
def encodings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Encoding]:
    folder = tmp_path_factory.mktemp("ranks")
    return {name: open_encoding(name, [rank_file(name, folder)]) for name in NAMES}


@pytest.fixture(scope="module")
def others() -> dict[str, Encoding]:
    """Those of another implementation."""
    bpe = pytest.importorskip("bpe_openai")
    found = {name: bpe.get_encoding(name) for name in NAMES}
    for one in found.values():
        one.encode_ordinary("it loads now")
    return found


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as one:
        yield one


class ByWord:
    """Counts the words; `gate` holds it up."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.fails: Callable[[], BaseException] | None = None

    def encode_ordinary(self, text: str) -> list[int]:
        self.texts.append(text)
        self.gate.wait(10.0)
        if self.fails is not None:
            raise self.fails()
        return [0] * len(text.split())


def body(call: object, operation: Operation = Operation.CHAT) -> Call:
    return Call(operation, "m", False, False, call if isinstance(call, bytes) else json.dumps(call).encode())


def chat(*contents: object, **fields: object) -> Call:
    return body({"messages": [{"role": "user", "content": content} for content in contents], **fields})


async def loaded(encoding: Encoding, executor: ThreadPoolExecutor) -> TokenCounter:
    counter = TokenCounter("x", lambda: encoding, executor)
    assert counter.count(chat("x")) is None, "it is not loaded before it is asked for"
    await settled(lambda: "not loaded" in repr(counter) or None, "it is not loaded")
    return counter


async def counted(counter: TokenCounter, call: Call) -> Count | None:
    found = counter.count(call)
    return found if found is None or isinstance(found, Count) else await found


@pytest.mark.parametrize(
    ("name", "text", "ids"),
    [
        ("cl100k_base", "hello world", [15339, 1917]),
        ("cl100k_base", "rer", [38149]),
        ("cl100k_base", "'rer", [2351, 81]),
        ("cl100k_base", "today\n ", [31213, 198, 220]),
        ("cl100k_base", "today\n \n", [31213, 27907]),
        ("cl100k_base", "today\n  \n", [31213, 14211]),
        ("o200k_base", "hello world", [24912, 2375]),
        ("o200k_base", "x" * 0, []),
    ],
)
def test_the_encodings_give_the_ids_that_tiktoken_is_tested_with(
    encodings: dict[str, Encoding], name: str, text: str, ids: list[int]
) -> None:
    assert encodings[name].encode_ordinary(text) == ids


@pytest.mark.parametrize(("name", "expected"), [("cl100k_base", 129), ("o200k_base", 124)])
async def test_openais_own_example_has_as_many_tokens_as_its_api_counts(
    encodings: dict[str, Encoding], executor: ThreadPoolExecutor, name: str, expected: int
) -> None:
    counter = await loaded(encodings[name], executor)
    for _ in range(2):
        assert counter.count(body({"messages": EXAMPLE})) == Count(expected, estimated=False)


@given(
    text=st.text(max_size=300)
    | st.from_regex(r"([a-zA-Z']{1,8}|[0-9]{1,5}|[ \n\r\t]{1,3}|[^\w]){0,40}", fullmatch=True)
)
@pytest.mark.parametrize("name", NAMES)
def test_another_implementation_gives_the_same_ids(
    encodings: dict[str, Encoding], others: dict[str, Encoding], name: str, text: str
) -> None:
    text = text.encode("utf-8", "replace").decode()
    assert encodings[name].encode_ordinary(text) == list(others[name].encode_ordinary(text))


def test_the_patterns_are_those_of_tiktoken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own constructors, without the files that they fetch."""
    openai_public = importlib.import_module("tiktoken_ext.openai_public")

    given_hashes: dict[str, str] = {}

    def nothing(url: str, expected_hash: str) -> dict[bytes, int]:
        given_hashes[url.rpartition("/")[2].removesuffix(".tiktoken")] = expected_hash
        return {}

    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", nothing)
    for name, kind in ENCODINGS.items():
        theirs = getattr(openai_public, name)()
        assert theirs["pat_str"] == kind.pattern
        assert given_hashes[name] == kind.sha256


@pytest.mark.parametrize("name", NAMES)
async def test_a_long_text_has_as_many_tokens_in_pieces_as_whole(
    encodings: dict[str, Encoding], executor: ThreadPoolExecutor, name: str
) -> None:
    counter = await loaded(encodings[name], executor)
    text = "It's the year 2026, isn't it?\n\n  def f(x): return x  # and so on\t" * 1200
    assert len(text) > 4 * PIECE_CHARS
    call = body({"prompt": text}, Operation.COMPLETIONS)
    assert await counted(counter, call) == Count(len(encodings[name].encode_ordinary(text)), estimated=False)


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-4o-2024-08-06", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("text-embedding-3-large", "cl100k_base"),
        ("openai/gpt-4.1", "o200k_base"),
        ("gpt2", None),
        ("llama-3-8b", None),
    ],
)
def test_a_model_of_openai_has_the_encoding_of_its_name(model: str, encoding: str | None) -> None:
    assert encoding_of(model) == encoding


@pytest.mark.parametrize(
    ("fields", "words", "estimated"),
    [
        ({"messages": [{"role": "user", "content": "two words"}]}, 3 + 1 + 2 + 3, False),
        ({"messages": [{"role": "user", "content": "a", "name": "bob"}]}, 3 + 1 + 1 + 2 + 3, False),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a b"}, "c"]}]}, 3 + 1 + 3 + 3, False),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
            3 + 1 + MEDIA_TOKENS + 3,
            True,
        ),
        ({"messages": [{"role": "user", "content": None}], "tools": []}, 3 + 1 + 3, False),
        ({"messages": [], "tools": [{"a": "b c"}]}, 3 + 3, True),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, 3 + 1 + 2 + 3, True),
        ({"messages": [], "response_format": {"type": "json_object"}}, 3 + 2, True),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 3 + 1 + MEDIA_TOKENS + 3, True),
        ({"messages": [{"role": "user", "content": [{"type": 1}]}]}, 3 + 1 + MEDIA_TOKENS + 3, True),
    ],
)
async def test_what_a_chat_counts(
    executor: ThreadPoolExecutor, fields: dict[str, object], words: int, estimated: bool
) -> None:
    counter = await loaded(ByWord(), executor)
    assert counter.count(body(fields)) == Count(words, estimated)


@pytest.mark.parametrize(
    ("fields", "operation", "words"),
    [
        ({"prompt": "a b", "suffix": "c"}, Operation.COMPLETIONS, 3),
        ({"prompt": ["a b", "c"]}, Operation.COMPLETIONS, 3),
        ({"prompt": [1, 2, 3]}, Operation.COMPLETIONS, 3),
        ({"prompt": [[1, 2], [3]]}, Operation.COMPLETIONS, 3),
        ({"prompt": None}, Operation.COMPLETIONS, 0),
        ({"input": ["a b", "c d"]}, Operation.EMBEDDINGS, 4),
    ],
)
async def test_what_a_text_counts(
    executor: ThreadPoolExecutor, fields: dict[str, object], operation: Operation, words: int
) -> None:
    counter = await loaded(ByWord(), executor)
    assert counter.count(body(fields, operation)) == Count(words, estimated=False)


@pytest.mark.parametrize("broken", [b"{", b'{"messages": 1}', b'{"messages": [{"role": "\\ud800"}]}', b"[" * 3000])
async def test_what_cannot_be_read_is_not_counted(executor: ThreadPoolExecutor, broken: bytes) -> None:
    assert (await loaded(ByWord(), executor)).count(body(broken)) is None


async def test_a_body_that_is_too_large_is_not_counted(executor: ThreadPoolExecutor) -> None:
    assert (await loaded(ByWord(), executor)).count(chat("x" * MAX_BODY_BYTES)) is None


async def test_a_conversation_that_goes_on_is_encoded_where_it_is_new(executor: ThreadPoolExecutor) -> None:
    words = ByWord()
    counter = await loaded(words, executor)
    first, second = "long ago " * 20, "and then " * 20
    counter.count(chat(first))
    words.texts.clear()
    assert counter.count(chat(first, second)) == Count(3 + 2 * (3 + 1 + 40), estimated=False)
    assert words.texts == ["user", "user", second]


async def test_only_so_many_texts_are_remembered(executor: ThreadPoolExecutor) -> None:
    counter = await loaded(ByWord(), executor)
    for half in (0, 1):
        texts = [f"{half}{number:063}" for number in range(MEMO_TEXTS // 2 + 10)]
        await counted(counter, body({"input": texts}, Operation.EMBEDDINGS))
    assert f"texts={MEMO_TEXTS} " in repr(counter)


async def test_what_takes_too_long_is_not_waited_for(executor: ThreadPoolExecutor) -> None:
    words = ByWord()
    counter = await loaded(words, executor)
    long = chat("word " * INLINE_CHARS)
    words.gate.clear()
    assert await counted(counter, long) is None
    words.gate.set()
    assert await counted(counter, long) == Count(3 + 3 + 1 + INLINE_CHARS, estimated=False)
    assert "pending=0" in repr(counter)


async def test_after_the_end_nothing_is_counted_that_takes_a_thread(executor: ThreadPoolExecutor) -> None:
    counter = await loaded(ByWord(), executor)
    unloaded = TokenCounter("y", ByWord, executor)
    executor.shutdown()
    assert await counted(counter, chat("word " * INLINE_CHARS)) is None
    assert unloaded.count(chat("x")) is None


async def test_a_crowd_is_not_waited_for(executor: ThreadPoolExecutor) -> None:
    words = ByWord()
    counter = await loaded(words, executor)
    words.gate.clear()
    found = [counted(counter, chat(f"{number} " + "word " * INLINE_CHARS)) for number in range(100)]
    assert await asyncio.gather(*found) == [None] * 100
    words.gate.set()


class PanicException(BaseException):
    """As Rust's panics come over."""


@pytest.mark.parametrize("panic", [PanicException, ValueError])
async def test_a_fault_of_the_library_is_no_fault_of_the_call(
    executor: ThreadPoolExecutor, panic: type[BaseException]
) -> None:
    words = ByWord()
    counter = await loaded(words, executor)
    words.fails = panic
    assert counter.count(chat("x")) is None
    words.fails = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        counter.count(chat("x"))


async def test_an_encoding_that_cannot_be_had_is_told_of_once(
    executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    counter = TokenCounter("o200k_base", lambda: open_encoding("o200k_base", [tmp_path / "none"]), executor)
    for _ in range(3):
        assert counter.count(chat("x")) is None
        await settled(lambda: None if caplog.records else "silence", "nothing is said")
    assert [r.getMessage() for r in caplog.records] == [
        f"the tokens of prompts for o200k_base are estimated: {tmp_path / 'none'}: No such file or directory"
    ]


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"aGVsbG8= 1\n", "is not the file of cl100k_base"), (b"!", "is no list of tokens and ranks")],
)
def test_a_file_that_is_not_openais_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    file = tmp_path / "cl100k_base.tiktoken"
    file.write_bytes(content)
    with pytest.raises(NoEncoding, match=why):
        open_encoding("cl100k_base", [file])


def test_without_the_package_it_says_which_extra_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tiktoken", None)
    monkeypatch.setitem(__import__("sys").modules, "tiktoken.model", None)
    assert encoding_of("gpt-4o") is None
    with pytest.raises(NoEncoding, match=r"headrace\[tiktoken\]"):
        open_encoding("o200k_base", [tmp_path])


def test_files_are_found_where_tiktoken_keeps_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    assert usual_files("cl100k_base") == ()
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    named, cached = usual_files("cl100k_base")
    assert cached == tmp_path / "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
    rank_file("cl100k_base", tmp_path).rename(cached)
    assert open_encoding("cl100k_base", [named, cached]).name == "cl100k_base"
    cached.rename(named)
    assert open_encoding("cl100k_base", [named, cached]).name == "cl100k_base"
