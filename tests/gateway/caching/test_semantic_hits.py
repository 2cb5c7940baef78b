"""Questions that are worded differently, through a whole gateway: real vectors, an engine that answers by topic."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest

from cache.planted import planted_record, shipped
from gateway.app import Gateway
from gateway.caching.models import STATIC
from gateway.clock import wall_time_s
from tests.engines.server import Peer, engine_server
from tests.harness import CHAT, Json, Server, config_of, serving, settled
from tests.weights import weights_folder

TOPICS = ("password", "invoice", "delivery", "camera", "visa", "garden", "piano", "engine", "tax", "pizza")
WHOSE = ("sister's", "brother's", "friend's", "boss's", "neighbour's", "daughter's", "uncle's", "teacher's")
HOW = ("old", "new", "blue", "other", "favourite", "first", "lovely", "little", "green", "second")
WORDINGS = (
    "How can I change my {}?",
    "I would like to change my {}, how is that done?",
    "Please tell me how one changes a {}",
    "What is the way to change the {}?",
    "My {} has to be changed, what do I do?",
    "Is there any way that I can change my {}?",
    "Changing the {}: what are the steps?",
    "Could you explain how to change a {}?",
)


def topic_of(text: str) -> str:
    return next(topic for topic in TOPICS if topic in text)


async def by_topic(peer: Peer) -> None:
    """An engine that says the topic of a question."""
    while request := await peer.request():
        body = json.loads(request.partition(b"\r\n\r\n")[2])
        said = topic_of(body["messages"][-1]["content"])
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}
        answer = {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [choice],
            "usage": usage,
        }
        data = json.dumps(answer).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(data)
        await peer.send(head + data)


@pytest.fixture(scope="module")
def weights() -> Path:
    return weights_folder(STATIC)


def semantic(url: str, weights: Path, **options: Any) -> Json:
    embedder = {"kind": "static", "path": str(weights)}
    bound = {"max_wrong_hit_rate": 0.2, "confidence": 0.8} | options
    cache = {"enabled": True, "store": "memory", "semantic": {"enabled": True, "embedder": embedder} | bound}
    return config_of(url, cache=cache)


async def ready(gateway: Gateway) -> None:
    """Its embedder is there."""
    assert gateway._caching is not None
    assert gateway._caching._semantic is not None
    async with asyncio.timeout(20.0):
        while gateway._caching._semantic.embedder is None:
            await asyncio.sleep(0.01)


async def ask(server: Server, text: str, name: str = "") -> httpx.Response:
    headers = {"authorization": f"Bearer sk-{name}"} if name else {}
    return await server.post(CHAT, {"model": "m", "messages": [{"role": "user", "content": text}]}, **headers)


def questions(count: int) -> list[str]:
    rng = random.Random(1)
    found = []
    for _ in range(count):
        who = f"{rng.choice(WHOSE)} {rng.choice(HOW)} {rng.choice(TOPICS)}"
        found.append(rng.choice(WORDINGS).format(who))
    return found


async def test_what_is_certain_enough_is_served_and_says_how_certain(weights: Path) -> None:
    found: Counter[str] = Counter()
    wrong = 0
    async with engine_server(by_topic) as url, serving(semantic(url, weights)) as server:
        await ready(server.gateway)
        for text in questions(700):
            answer = await ask(server, text)
            source = answer.headers["x-headrace-cache"]
            found[source] += 1
            if source == "semantic":
                wrong += answer.json()["choices"][0]["message"]["content"] != topic_of(text)
                last = answer
        assert found["semantic"] > 10, found
        assert wrong <= 0.2 * found["semantic"] + 3
        assert 0.0 < float(last.headers["x-headrace-cache-similarity"]) <= 1.0
        assert float(last.headers["x-headrace-cache-bound"]) <= 0.2
        assert server.gateway.desk is not None
        (cohort,) = server.gateway.desk.report().cohorts
        assert (cohort.state, cohort.hits) == ("certified", found["semantic"])
        metrics = await server.metrics()
        assert metrics['headrace_cache_requests_total{result="semantic"}'] == found["semantic"]


async def test_nothing_is_served_on_the_word_of_a_judge_that_errs_too_often(weights: Path) -> None:
    config = partial(semantic, judge={"deployment": "m"})
    async with engine_server(by_topic) as url, serving(config(url, weights)) as server:
        await ready(server.gateway)
        desk = server.gateway.desk
        assert desk is not None and desk.labeller is not None
        texts = iter(questions(700))
        for text in texts:
            if (await ask(server, text)).headers["x-headrace-cache"] == "semantic":
                break
        for name in "abcdef":
            desk.labeller.error.learn(name, same=False, said=True)
        sources = Counter([(await ask(server, text)).headers["x-headrace-cache"] for text in islice(texts, 60)])
        assert sources["semantic"] == 0
        report = desk.report()
        assert report.refusals["semantic: judge"] > 0
        assert (report.judge.unfit, report.cohorts[0].state) == (True, "certified")
        assert "takes 100% of different answers for the same" in report.judge.objection
        assert (await server.metrics())["headrace_cache_judge_unfit"] == 1


async def test_what_is_known_of_a_judge_outlives_a_restart(weights: Path, tmp_path: Path) -> None:
    async with engine_server(by_topic) as url:
        config = semantic(url, weights, judge={"deployment": "m"})
        config["cache"] |= {"store": "sqlite", "path": str(tmp_path / "cache.sqlite")}
        async with serving(config) as server:
            caching = server.gateway._caching
            assert caching is not None
            for pair in shipped().values():
                caching._tell(planted_record("m", pair, True, wall_time_s()))
            await caching._journal.settled()
            assert server.gateway.desk is not None
            await settled(lambda: not server.gateway.desk.report().judge.unfit, "it is not known yet")  # type: ignore[union-attr]
        async with serving(config) as server:
            assert server.gateway.desk is not None
            judge = server.gateway.desk.report().judge
            assert judge.different.wrong == judge.different.of == 32
            assert (judge.same.wrong, judge.same.of, judge.unfit) == (0, 30, True)


async def test_a_feedback_withdraws_what_was_served_at_once(weights: Path) -> None:
    async with engine_server(by_topic) as url, serving(semantic(url, weights)) as server:
        await ready(server.gateway)
        first = await ask(server, "How can I change my piano?")
        assert first.headers["x-headrace-cache"] == "miss"
        await asyncio.sleep(0.1)  # its vector is made after the answer
        hit = await ask(server, "How can I change my piano?")
        entry_id = hit.headers["x-headrace-cache-id"]
        told = await server.post(f"/cache/{entry_id}/feedback", {"wrong": True}, content_type="application/json")
        assert (told.status_code, told.json()["quarantined"]) == (200, 1)
        again = await ask(server, "How can I change my piano?")
        assert again.headers["x-headrace-cache"] == "miss"


async def test_what_tenants_share_is_learned_of_whoever_asks_and_no_answer_of_one_is_given_to_another(
    weights: Path,
) -> None:
    """A21: labels of everybody's answers come from the misses of all; their own answers stay with them."""
    keys: list[Json] = [{"name": name, "key": f"sk-{name}", "tenant": name} for name in ("a/b", "a", "c")]
    async with engine_server(by_topic) as url:
        config = config_of(url, keys=keys) | {"cache": semantic(url, weights)["cache"]}
        config["deployments"]["m"]["cache"] = {"share": "all", "confirmations": 1}
        async with serving(config) as server:
            await ready(server.gateway)
            for text in dict.fromkeys(questions(60)):
                for name in ("a/b", "a", "c"):
                    await ask(server, text, name)
            desk = server.gateway.desk
            assert desk is not None
            cohorts = {(cohort.tenant, cohort.deployment): cohort for cohort in desk.report().cohorts}
            assert set(cohorts) == {("*", "m"), ("a/b", "m"), ("a", "m")}, "c is given what all share"
            assert cohorts["*", "m"].labels > 20
            owners = {slot.entry.tenant: slot.entry.cohort for slot in desk.library._slots.values()}
            assert owners["a/b"] == "a%2Fb/m"
