"""The semantic cache on what a real engine says: a whole gateway, whose labels are made from its answers.

    python -m tests.bench.cache_real STREAM.csv --answers FILE.jsonl --kind list --engine MODEL_OR_URL [--calls 3000]
    python -m tests.bench.cache_real STREAM.csv --answers FILE.jsonl --kind sentence --judge MODEL_OR_URL

The engine is asked each question once, temperature 0, and its answers are kept in a file; from there they are played
to the gateway, in several orders. A hit is right if it equals what the engine says to that very question, by the same
rules by which labels are made; what they do not settle is not right. `ceiling`: the share of questions for which
something that was asked before, and is among the eight nearest, has an equal answer. `hindsight`: the most that one
cut for all questions would have served, chosen when all is known, with no more wrong ones than the limit: a cut on the
cosine of the nearest question, and on how far the answers of the eight nearest agree.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np

from cache.embed.minilm import MiniLmEmbedder
from cache.evaluate.interval import clopper_pearson
from cache.judging import compare
from gateway.caching.models import MINILM, present
from tests.bench.cache_live import embedder_of
from tests.bench.real_answers import (
    KINDS,
    Kind,
    Said,
    collect,
    completion,
    engine_at,
    progress,
    questions,
    read_answers,
)
from tests.engines.server import Peer, engine_server
from tests.harness import CHAT, MODEL, NO_SCRAPE, Json, Server, config_of, serving

NEIGHBOURS = 8
SHARP = 10.0
"""How much more a nearer question counts."""
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


async def run(asked: argparse.Namespace) -> Json:
    kind = KINDS[asked.kind]
    async with AsyncExitStack() as stack:
        if asked.engine:
            url = await stack.enter_async_context(engine_at(asked.engine))
            said = await collect(url, kind, questions(asked.stream, asked.calls), asked.answers)
        else:
            said = dict(list(read_answers(asked.answers).items())[: asked.calls])
        judge = await stack.enter_async_context(engine_at(asked.judge)) if asked.judge else ""
        report: Json = {"kind": asked.kind, "questions": len(said)}
        report |= _of_answers(list(said.values())) | {"orders": []}
        vectors = await _vectors(list(said))
        for order in range(1, asked.orders + 1):
            texts = list(said)
            random.Random(order).shuffle(texts)
            places = np.array([list(said).index(text) for text in texts])
            near = Near([said[text] for text in texts], vectors[places])
            for limit in asked.max_wrong_hit_rate:
                found = {"order": order, "limit": limit, "ceiling": near.ceiling, "hindsight": near.hindsight(limit)}
                if not asked.hindsight:
                    found |= await _through_gateway(kind, said, texts, limit, judge, asked.label_wait_s)
                report["orders"].append(found)
                progress(json.dumps(found))
        return report


def _of_answers(said: Sequence[Said]) -> Json:
    seconds = sorted(one.seconds for one in said)
    whole = sum(one.finish == "stop" for one in said)
    different = len({one.answer.strip().casefold() for one in said})
    return {"whole": whole, "different_texts": different, "engine_p50_s": seconds[len(seconds) // 2]}


async def _vectors(texts: Sequence[str]) -> Any:
    folder = present(MINILM)
    if folder is None:
        raise SystemExit(f"The weights are missing: headrace models pull {MINILM.name}")
    embedder = MiniLmEmbedder(folder)
    try:
        return np.stack([(await embedder.embed([text]))[0] for text in texts])
    finally:
        await embedder.aclose()


class Near:
    """What was asked before each question, and whether its answer was equal."""

    def __init__(self, said: Sequence[Said], vectors: Any) -> None:
        self._nearest: list[tuple[float, bool]] = []
        self._votes: list[tuple[float, bool]] = []
        equals = 0
        for place in range(1, len(said)):
            cosines = vectors[:place] @ vectors[place]
            order = np.argsort(-cosines)[:NEIGHBOURS]
            equal = [compare(said[one].answer, said[place].answer) is True for one in order]
            equals += any(equal)
            self._nearest.append((float(cosines[order[0]]), equal[0]))
            shares = defaultdict[str, float](float)
            for one in order:
                shares[said[one].answer.casefold()] += float(np.exp(SHARP * (cosines[one] - 1)))
            ranked = [*sorted(((share, text) for text, share in shares.items()), reverse=True), (0.0, "")]
            (first, best), (second, _) = ranked[:2]
            agreement = (first - second) / sum(shares.values()) + first / 2
            self._votes.append((agreement, best == said[place].answer.casefold()))
        self.ceiling = round(equals / len(said), 4)

    def hindsight(self, limit: float) -> Json:
        """The most hits whose share of wrong ones is no higher: by the cosine of the nearest, and by how far the
        nearest eight agree."""
        return {"cosine": _most(self._nearest, limit), "agreement": _most(self._votes, limit)}


def _most(scored: Sequence[tuple[float, bool]], limit: float) -> float:
    most = wrong = 0
    for hits, (_, equal) in enumerate(sorted(scored, reverse=True), 1):
        wrong += not equal
        most = hits if wrong <= limit * hits else most
    return round(most / (len(scored) + 1), 4)


async def _through_gateway(
    kind: Kind, said: dict[str, Said], texts: Sequence[str], limit: float, judge: str, label_wait_s: float
) -> Json:
    async with engine_server(_played(said)) as url:
        semantic: Json = {"enabled": True, "max_wrong_hit_rate": limit}
        if judge:
            semantic["judge"] = {"deployment": "judge", "max_per_minute": 100_000}
        cache = {"enabled": True, "store": "memory", "ttl_s": 86400, "max_bytes": 1 << 30, "semantic": semantic}
        config = config_of(url, cache=cache)
        config["deployments"][MODEL]["cache"] = {"time_bound_ttl_s": 86400}  # what this engine says binds no time
        if judge:
            config["pools"]["j"] = {"urls": [judge], "scrape": NO_SCRAPE}
            config["deployments"]["judge"] = {"variants": {"v": {"pools": ["j"]}}, "cache": {"enabled": False}}
        async with serving(config) as server:
            await embedder_of(server)
            return await _play(server, kind, said, texts, label_wait_s)


def _played(said: dict[str, Said]) -> Callable[[Peer], Awaitable[None]]:
    async def script(peer: Peer) -> None:
        while request := await peer.request():
            body = json.loads(request.partition(b"\r\n\r\n")[2])
            data = completion(said[body["messages"][-1]["content"]])
            await peer.send(HEAD % len(data) + data)

    return script


async def _play(server: Server, kind: Kind, said: dict[str, Said], texts: Sequence[str], label_wait_s: float) -> Json:
    counts = {"hit": 0, "semantic": 0, "miss": 0, "bypass": 0}
    wrong = unclear = 0
    quarters = [0, 0, 0, 0]
    async with server.client() as client:
        for place, text in enumerate(texts):
            answer = await client.post(CHAT, json=kind.body(text))
            source = answer.headers["x-headrace-cache"]
            counts[source] += 1
            quarters[4 * place // len(texts)] += source == "semantic"
            if source == "semantic":
                same = compare(answer.json()["choices"][0]["message"]["content"], said[text].answer)
                wrong += same is not True
                unclear += same is None
            await _labelled(server, label_wait_s)
            if place % 500 == 499:
                progress(f"{place + 1} of {len(texts)}: {counts}, {wrong} wrong")
    await _labelled(server, label_wait_s)
    assert server.gateway.desk is not None and server.gateway.desk.labeller is not None
    await server.gateway.desk.labeller.aclose()
    metrics = await server.metrics()
    lags = [metrics.get(f"headrace_cache_label_lag_seconds_{what}", 0.0) for what in ("sum", "count")]
    return _figures(server, counts, wrong, len(texts)) | {
        "label_lag_mean_s": round(lags[0] / max(1.0, lags[1]), 4),
        "wrong_unclear": unclear,
        "hits_by_quarter": [round(4 * hits / len(texts), 4) for hits in quarters],
    }


async def _labelled(server: Server, wait_s: float) -> None:
    """Until no label waits, or for that time."""
    assert server.gateway.desk is not None
    labeller = server.gateway.desk.labeller
    assert labeller is not None
    until_s = asyncio.get_running_loop().time() + wait_s
    while labeller.waiting and asyncio.get_running_loop().time() < until_s:
        await asyncio.sleep(0.002)


def _figures(server: Server, counts: dict[str, int], wrong: int, of: int) -> Json:
    assert server.gateway.desk is not None
    report = server.gateway.desk.report()
    hits = counts["semantic"]
    audited = sum(cohort.audited.of for cohort in report.cohorts)
    return {
        "counts": counts,
        "hit_rate": round(hits / of, 4),
        "wrong": wrong,
        "wrong_per_hit": round(wrong / max(1, hits), 4),
        "interval": [round(limit, 4) for limit in (clopper_pearson(wrong, hits) if hits else (0.0, 1.0))],
        "audited": audited,
        "spared_rate": round((hits - audited) / of, 4),
        "states": [cohort.state for cohort in report.cohorts],
        "labels": report.judge.labels,
        "judge": report.judge.model_dump(include={"asked", "same", "different", "objection", "unfit"}),
        "refusals": report.refusals,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("stream", type=Path, help="CSV with a column `text`")
    parser.add_argument("--answers", type=Path, required=True, help="file of answers; it is added to")
    parser.add_argument("--kind", choices=KINDS, default="list")
    parser.add_argument("--engine", default="", help="model or URL; without it the file has to have the answers")
    parser.add_argument("--judge", default="", help="model or URL of the judge")
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--orders", type=int, default=3)
    parser.add_argument("--max-wrong-hit-rate", type=float, action="append")
    parser.add_argument(
        "--label-wait-s", type=float, default=5.0, help="longest that a question waits for earlier labels"
    )
    parser.add_argument("--hindsight", action="store_true", help="only that, without a gateway")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    asked.max_wrong_hit_rate = asked.max_wrong_hit_rate or [0.02, 0.05]
    text = json.dumps(asyncio.run(run(asked)), indent=1)
    print(text)
    if asked.json:
        asked.json.write_text(text)


if __name__ == "__main__":
    main()
