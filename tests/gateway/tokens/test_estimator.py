"""What a call will use, before it is admitted."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engines.base import Operation
from engines.http import Endpoint, HttpEngine
from gateway.catalog import Catalog, Deployment, build_pools
from gateway.config import Config
from gateway.config.checks import check
from gateway.limits.cost import Cost
from gateway.prompts import Lengths, PromptThread, open_reader
from gateway.prompts.reader import INLINE_BYTES
from gateway.replicas import Replica
from gateway.tokens.asked import MOST
from gateway.tokens.counter import INLINE_CHARS
from gateway.tokens.estimator import FREE, Estimator
from gateway.wire import Call
from tests.gateway.tokens.ranks import rank_file
from tests.harness import settled

Json = dict[str, Any]
TINY = Path(__file__).parents[1] / "prompts" / "data" / "tiny"
TEXT = "word " * 400
"""2,000 bytes, and 8 around them: 502 tokens where nothing was learned."""


class Desk:
    """An estimator over a configuration, with readers as the gateway has them."""

    def __init__(self, config: Config, thread: PromptThread, *, readers: bool = True) -> None:
        self.lengths = Lengths()

        def replica(pool: str, name: str, url: str) -> Replica:
            return Replica(name, pool, config.pools[pool].site, "openai", HttpEngine(Endpoint(name, url)))

        catalog = Catalog(
            config,
            build_pools(config, replica),
            random.Random(1),
            lambda deployment, name, options: (
                open_reader(thread, self.lengths, name, options, config.pools) if readers else None
            ),
        )
        self.deployment: Deployment = catalog.deployments[0]
        self.estimator = Estimator(config, catalog.deployments)

    async def cost(self, call: Call) -> Cost:
        found = self.estimator.cost(self.deployment, call, {})
        return found if isinstance(found, Cost) else await found


async def desk_of(config: Config, thread: PromptThread, *, readers: bool = True) -> Desk:
    """It reads files."""
    return await asyncio.to_thread(lambda: Desk(config, thread, readers=readers))


@pytest.fixture
def thread() -> Iterator[PromptThread]:
    opened = PromptThread(5.0)
    yield opened
    opened.close()


def config(*variants: Json, prices: Json | None = None, **pool: Any) -> Config:
    named = {f"v{number}": {"pools": ["p"], **variant} for number, variant in enumerate(variants or ({},))}
    return Config.model_validate(
        {
            "pools": {"p": {"urls": ["http://a:1"], **pool}},
            "deployments": {"m": {"variants": named}},
            "prices": prices or {},
        }
    )


def call(operation: Operation = Operation.CHAT, **fields: Any) -> Call:
    if operation is Operation.CHAT:
        fields = {"messages": [{"role": "user", "content": TEXT}], **fields}
    return Call(operation, "m", False, False, json.dumps({"model": "m", **fields}).encode())


async def test_a_prompt_that_nobody_can_count_is_estimated_from_its_text(thread: PromptThread) -> None:
    cost = await (await desk_of(config(), thread)).cost(call(max_tokens=10))
    assert cost == Cost(502, 10, 0, estimated=True)


async def test_without_a_reader_it_is_estimated_from_the_body(thread: PromptThread) -> None:
    given = call()
    assert await (await desk_of(config(), thread, readers=False)).cost(given) == Cost(len(given.body) // 4, 200)


async def test_a_prompt_of_token_ids_is_counted(thread: PromptThread) -> None:
    given = call(Operation.COMPLETIONS, prompt=[1, 2, 3], max_tokens=7)
    assert await (await desk_of(config(), thread)).cost(given) == Cost(3, 7, 0, estimated=False)


async def test_a_variant_with_a_tokenizer_counts_by_it(thread: PromptThread) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    await asyncio.wrap_future(thread.load(TINY))
    encoder = tokenizers.Tokenizer.from_file(str(TINY / "tokenizer.json"))
    desk = await desk_of(config({"tokenizer": str(TINY)}), thread)
    given = call(Operation.COMPLETIONS, prompt="how many tokens has this?", max_tokens=3)
    expected = len(encoder.encode("how many tokens has this?").ids)
    assert await desk.cost(given) == Cost(expected, 3, 0, estimated=False)


async def test_embeddings_have_no_answer_and_tokenizing_is_free(thread: PromptThread) -> None:
    desk = await desk_of(config(), thread)
    assert await desk.cost(call(Operation.EMBEDDINGS, input=[1, 2])) == Cost(2, 0, 0, estimated=False)
    assert await desk.cost(call(Operation.TOKENIZE, prompt=TEXT)) is FREE
    assert await desk.cost(call(Operation.DETOKENIZE, tokens=[1])) is FREE


async def test_an_answer_counts_as_long_as_the_caller_allows_times_how_many(thread: PromptThread) -> None:
    desk = await desk_of(config(), thread)
    assert (await desk.cost(call(max_tokens=70, n=3))).output_tokens == 210
    assert (await desk.cost(call(max_tokens=10**40, n=900))).output_tokens == MOST


async def test_an_answer_without_a_limit_counts_as_long_as_few_are(thread: PromptThread) -> None:
    desk = await desk_of(config(), thread)
    assert (await desk.cost(call())).output_tokens == 600, "the mean, and twice the deviation"
    reader = desk.deployment.variants[0].reader
    assert reader is not None
    for _ in range(500):
        desk.lengths.learn_output(50, cut=False)
    assert 50 <= (await desk.cost(call())).output_tokens <= 60
    rng = random.Random(7)
    answers = [round(rng.expovariate(1 / 300)) for _ in range(5000)]
    for tokens in answers:
        desk.lengths.learn_output(tokens, cut=False)
    most = (await desk.cost(call())).output_tokens
    assert 0.85 < sum(tokens <= most for tokens in answers) / len(answers) < 0.99


async def test_an_answer_is_never_longer_than_the_cap_or_the_context(thread: PromptThread) -> None:
    desk = await desk_of(config({"max_context_tokens": 800}), thread)
    assert (await desk.cost(call())).output_tokens == 298
    assert (await desk.cost(call(max_tokens=5000))).output_tokens == 298
    assert (await desk.cost(msgspec.structs.replace(call(), output_cap=40))).output_tokens == 40
    assert (await (await desk_of(config({"max_context_tokens": 100}), thread)).cost(call())).output_tokens == 1
    either = await desk_of(config({"max_context_tokens": 100}, {}), thread)
    assert (await either.cost(call())).output_tokens == 600, "a variant of which nothing is known may take it"


async def test_money_is_that_of_the_dearest_variant(thread: PromptThread) -> None:
    prices = {"cheap": {"input": 1, "output": 2}, "dear": {"input": 10, "output": 20}}
    desk = await desk_of(
        config({"model": "cheap", "weight": 9}, {"model": "dear"}, {"model": "own"}, prices=prices), thread
    )
    given = call(Operation.COMPLETIONS, prompt=[1, 2, 3], max_tokens=7)
    assert (await desk.cost(given)).nano_usd == 3 * 10_000 + 7 * 20_000


async def test_the_prompt_is_read_once_for_the_limits_and_for_routing(thread: PromptThread) -> None:
    desk = await desk_of(config(), thread)
    given = call()
    await desk.cost(given)
    variant = desk.deployment.variants[0]
    assert variant.reader is not None
    assert given.reading is not None
    assert variant.reader.read(given, {}, variant.block_sizes) is given.reading.facts
    assert variant.reader.read(given, {}, (32,)) is given.reading.facts, "the latest stays"


async def test_a_long_prompt_is_read_in_the_thread_and_once(thread: PromptThread) -> None:
    desk = await desk_of(config(), thread)
    given = call(messages=[{"role": "user", "content": "x" * INLINE_BYTES}])
    assert (await desk.cost(given)).prompt_tokens > INLINE_BYTES / 5
    assert given.reading is not None
    assert isinstance(desk.estimator.cost(desk.deployment, given, {}), Cost), "the second time it is known at once"


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rank_file("o200k_base", tmp_path_factory.mktemp("ranks"))


async def counting(desk: Desk) -> None:
    await desk.cost(call())
    await settled(lambda: "not loaded" in repr(desk.estimator._counters) or None, "it is not loaded")


@pytest.mark.parametrize("how", ["setting", "environment"])
async def test_a_model_of_openai_is_counted_by_its_own_encoding(
    thread: PromptThread, ranks: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    if how == "environment":
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(ranks.parent))
        made = config({"model": "gpt-4o"})
    else:
        made = config({"model": "mine", "tokenizer": str(ranks)}, engine={"kind": "azure"})
    desk = await desk_of(made, thread)
    assert (await desk.cost(call())).estimated, "it is not loaded yet"
    await counting(desk)
    assert await desk.cost(call(max_tokens=5)) == Cost(401 + 7, 5, desk_nano(made, 408, 5), estimated=False)
    long = call(messages=[{"role": "user", "content": "sea " * INLINE_CHARS}])
    assert await desk.cost(long) == Cost(INLINE_CHARS + 8, 600, desk_nano(made, INLINE_CHARS + 8, 600), estimated=False)
    desk.estimator.close()


def desk_nano(made: Config, prompt: int, output: int) -> int:
    """GPT-4o: 2.5 and 10 USD a million."""
    is_known = made.deployments["m"].variants["v0"].model == "gpt-4o"
    return prompt * 2500 + output * 10_000 if is_known else 0


async def test_a_client_that_hangs_up_meanwhile_leaves_nothing_behind(thread: PromptThread, ranks: Path) -> None:
    desk = await desk_of(config({"tokenizer": str(ranks)}), thread)
    await counting(desk)
    cost = asyncio.ensure_future(desk.cost(call(messages=[{"role": "user", "content": "x y" * INLINE_BYTES}])))  # noqa: TID251
    await asyncio.sleep(0)
    cost.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cost
    desk.estimator.close()


def test_what_cannot_be_counted_is_said_once(
    thread: PromptThread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    with caplog.at_level(logging.INFO):
        Desk(config({"model": "gpt-4o"}, {"model": "gpt-4"}, {"model": "llama"}), thread)
    assert [r.getMessage() for r in caplog.records if r.name.startswith("gateway.tokens")] == [
        "the tokens of prompts for ['m/v0', 'm/v1'] are estimated: set `tokenizer` to a file, or TIKTOKEN_CACHE_DIR"
    ]


def test_a_model_of_that_name_behind_another_engine_is_not_taken_for_openais(thread: PromptThread) -> None:
    desk = Desk(config({"model": "gpt-4o"}, engine={"kind": "vllm"}), thread)
    assert repr(desk.estimator._counters) == "<Counters []>"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gone/o200k_base.tiktoken", 'there is no file "gone/o200k_base.tiktoken"'),
        ("gpt5.tiktoken", 'no encoding is called "gpt5"'),
    ],
)
def test_a_file_that_is_none_is_told_of_before_the_start(name: str, says: str) -> None:
    found = [one for one in check(config({"tokenizer": name})) if one.path[-1] == "tokenizer"]
    assert [one.message for one in found] == [says]


def test_without_the_package_the_check_says_which_extra_to_install(
    ranks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = [one for one in check(config({"tokenizer": str(ranks)})) if one.path[-1] == "tokenizer"]
    assert [one.hint for one in found] == ['pip install "headrace[tiktoken]"']
