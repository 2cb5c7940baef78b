"""What would be served of labelled pairs before anything is learned, by MiniLM's cosine and the cues of the texts;
and of whole conversations, by the partitions of their calls.

    python -m tests.bench.cache_pairs pairs.jsonl --columns a b same_answer kind --conversations parts/*.jsonl

Conversations are lines {"a": [messages], "b": [messages], "same_answer": true}. The cut is the product's; nothing here
is fitted to the pairs."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from cache.asked import Question, Rules, Scope
from cache.embed.minilm import MiniLmEmbedder
from cache.evaluate.data import Pair, read_pairs
from cache.evaluate.interval import clopper_pearson
from cache.question import read_question
from cache.verify import PRIOR_CUT, features, prior, veto
from gateway.caching.models import MINILM, present

SCOPE = Scope("tenant", "chat", "r1", "public", None, 0, b"0" * 16)
WANTED = 0.57
VETOED = -1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--columns", nargs="+", default=(), help="names of both texts, the label and the kind")
    parser.add_argument("--conversations", type=Path, nargs="*", default=[])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report: dict[str, object] = {"pairs": asyncio.run(_of_pairs(read_pairs(options.pairs, options.columns)))}
    if options.conversations:
        report["conversations"] = asyncio.run(_of_conversations(options.conversations))
    text = json.dumps(report, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text)


async def _cosines(pairs: Sequence[tuple[str, str]]) -> list[float]:
    folder = present(MINILM)
    if folder is None:
        raise SystemExit(f"The weights are missing: headrace models pull {MINILM.name}")
    embedder = MiniLmEmbedder(folder)
    try:
        found = []
        for pair in pairs:
            a, b = await embedder.embed(pair)
            found.append(float((a * b).sum()))
        return found
    finally:
        await embedder.aclose()


async def _of_pairs(pairs: Sequence[Pair]) -> dict[str, object]:
    cosines = await _cosines([(pair.a, pair.b) for pair in pairs])
    cues = [features(pair.a, pair.b) for pair in pairs]
    vetoed = [bool(veto(one)) for one in cues]
    scores = {
        "cosine": cosines,
        "cosine and vetoes": [VETOED if no else cosine for cosine, no in zip(cosines, vetoed, strict=True)],
        "prior": [
            VETOED if no else prior(*one) for one, no in zip(zip(cosines, cues, strict=True), vetoed, strict=True)
        ],
    }
    found: dict[str, object] = {name: _served(pairs, score, _cut_for(pairs, score)) for name, score in scores.items()}
    found["prior at the product's cut"] = _served(pairs, scores["prior"], PRIOR_CUT)
    return found


def _cut_for(pairs: Sequence[Pair], scores: Sequence[float]) -> float:
    """The highest that serves the wanted share of paraphrases."""
    equal = sorted((score for pair, score in zip(pairs, scores, strict=True) if pair.equal), reverse=True)
    return equal[max(0, -int(-WANTED * len(equal) // 1) - 1)]


def _served(pairs: Sequence[Pair], scores: Sequence[float], cut: float) -> dict[str, object]:
    """Shares served from the cut on, with the limits of the traps' at 95 %, and by kind."""
    by_kind = defaultdict[str, list[bool]](list)
    paraphrases, traps = list[bool](), list[bool]()
    for pair, score in zip(pairs, scores, strict=True):
        served = score >= cut
        (paraphrases if pair.equal else traps).append(served)
        by_kind[pair.kind].append(served)
    return {
        "cut": round(cut, 4),
        "paraphrases": round(sum(paraphrases) / len(paraphrases), 4),
        "traps": round(sum(traps) / len(traps), 4),
        "interval": clopper_pearson(sum(traps), len(traps)),
        "by_kind": {kind: round(sum(served) / len(served), 4) for kind, served in sorted(by_kind.items())},
    }


async def _of_conversations(files: Sequence[Path]) -> dict[str, object]:
    """How many of those with one answer, and of the traps, would be served, by tier."""
    counts = {sort: {"all": 0, "exact": 0, "semantic": 0} for sort in ("same", "traps")}
    near: list[tuple[str, Question, Question]] = []
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            a, b = (_question(row[side]) for side in ("a", "b"))
            sort = "same" if row["same_answer"] else "traps"
            counts[sort]["all"] += 1
            counts[sort]["exact"] += bool(a.key) and a.key == b.key
            if a.partition and a.partition == b.partition and a.key != b.key:
                near.append((sort, a, b))
    cosines = await _cosines([(a.text, b.text) for _, a, b in near])
    for (sort, a, b), cosine in zip(near, cosines, strict=True):
        cues = features(a.text, b.text)
        counts[sort]["semantic"] += not veto(cues) and prior(cosine, cues) >= PRIOR_CUT
    return dict(counts)


def _question(messages: object) -> Question:
    body = json.dumps({"model": "m", "messages": messages}).encode()
    return read_question("chat", body, Rules(time_bound_ttl_s=3600.0), SCOPE)


if __name__ == "__main__":
    main()
