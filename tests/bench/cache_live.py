"""A labelled stream through a whole gateway: what it serves from its cache, and how much of that is wrong.

    python -m tests.bench.cache_live STREAM.csv [--max-wrong-hit-rate 0.02] [--requests 13083] [--seed 1]

The engine answers each question by its label, as a word; so two answers are equal by their texts, or not, and every
label is made by the gateway itself, off the way of the requests. STREAM.csv: columns `text` and `category`.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import random
from pathlib import Path

from cache.evaluate.interval import clopper_pearson
from gateway.app import Gateway
from tests.engines.server import Peer, engine_server
from tests.harness import Server, config_of, serving


def engine_of(labels: dict[str, str]):  # type: ignore[no-untyped-def]
    async def script(peer: Peer) -> None:
        while request := await peer.request():
            body = json.loads(request.partition(b"\r\n\r\n")[2])
            label = labels[body["messages"][-1]["content"]]
            answer = {
                "id": "x",
                "object": "chat.completion",
                "created": 1,
                "model": "m",
                "choices": [{"index": 0, "message": {"role": "assistant", "content": label}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
            }
            data = json.dumps(answer).encode()
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            await peer.send(head % len(data) + data)

    return script


async def run(asked: argparse.Namespace) -> None:
    with Path(asked.stream).open(newline="", encoding="utf-8") as file:
        rows = [(row["text"], row["category"]) for row in csv.DictReader(file)]
    random.Random(asked.seed).shuffle(rows)
    rows = rows[: asked.requests]
    labels = dict(rows)
    async with engine_server(engine_of(labels)) as url:
        cache = {
            "enabled": True,
            "store": "memory",
            "ttl_s": 86400,
            "max_bytes": 1 << 30,
            "semantic": {
                "enabled": True,
                "max_wrong_hit_rate": asked.max_wrong_hit_rate,
                "embedder": {"kind": asked.embedder},
            },
        }
        async with serving(config_of(url, cache=cache)) as server:
            await embedder_of(server)
            await play(server, rows, labels)


async def embedder_of(server: Server) -> None:
    """Wait until it is there."""
    gateway: Gateway = server.gateway
    assert gateway._caching is not None
    while gateway._caching._semantic.embedder is None:  # type: ignore[union-attr]
        await asyncio.sleep(0.05)


async def play(server: Server, rows: list[tuple[str, str]], labels: dict[str, str]) -> None:
    wrong = {"hit": 0, "semantic": 0, "miss": 0}
    count = dict(wrong)
    quarters: list[list[int]] = []
    for place, (text, _) in enumerate(rows):
        answer = await server.post(
            "/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": text}]}
        )
        source = answer.headers["x-headrace-cache"]
        if source == "bypass":
            source = "miss"
        said = answer.json()["choices"][0]["message"]["content"]
        count[source] += 1
        wrong[source] += said != labels[text]
        if place % (len(rows) // 4) == 0:
            quarters.append([0, 0])
        quarters[-1][0] += source == "semantic"
        quarters[-1][1] += 1
    low, high = clopper_pearson(wrong["semantic"], count["semantic"]) if count["semantic"] else (0.0, 1.0)
    assert server.gateway.desk is not None
    report = server.gateway.desk.report()
    print(report.refusals, report.judge.labels, report.judge.shed, report.judge.dropped)
    (cohort,) = report.cohorts
    print(
        json.dumps(
            {
                "requests": len(rows),
                "exact": count["hit"],
                "semantic": count["semantic"],
                "hit_rate": count["semantic"] / len(rows),
                "wrong_per_hit": wrong["semantic"] / max(1, count["semantic"]),
                "interval": [low, high],
                "hits_by_quarter": [hits / of for hits, of in quarters if of],
                "cohort": cohort.model_dump(),
            },
            indent=1,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("stream")
    parser.add_argument("--max-wrong-hit-rate", type=float, default=0.02)
    parser.add_argument("--requests", type=int, default=1 << 30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--embedder", choices=("minilm", "static"), default="minilm")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
