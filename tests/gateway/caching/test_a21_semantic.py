"""A21 where questions are worded differently: two tenants who ask about the same things, each in its own words, are
given what was said to themselves, and what one of them complains of costs the other nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from gateway.caching.models import STATIC
from tests.gateway.caching.scribe import ask, key_of, keys_of, scribe_running
from tests.gateway.caching.test_semantic_hits import questions, ready, semantic, topic_of
from tests.harness import chat, serving
from tests.weights import weights_folder

CALLS = 900
LEAST = 20


@pytest.fixture(scope="module")
def weights() -> Path:
    return weights_folder(STATIC)


async def test_a21_no_other_wording_finds_what_was_said_to_another_tenant(weights: Path) -> None:
    made_for: dict[str, str] = {}
    found: Counter[str] = Counter()
    async with scribe_running(says=lambda question, _: topic_of(question)) as scribe:
        config = semantic(scribe.url, weights)
        config["auth"]["keys"] = keys_of(a="x", b="y")
        async with serving(config) as server, server.client() as client:
            await ready(server.gateway)
            for place, text in enumerate(questions(CALLS)):
                tenant = "ab"[place % 2]
                got = await ask(client, chat(text), **key_of(tenant))
                if got.source == "miss":
                    made_for[got.mark] = tenant
                else:
                    assert made_for[got.mark] == tenant, f"{text} got what was said to the other tenant"
                found[f"{got.source} {tenant}"] += 1
                if got.source == "semantic" and tenant == "a" and found["semantic a"] % 4 == 0:
                    path, key = f"/cache/{got.entry_id}/feedback", key_of("a")
                    answer = await client.post(path, json={"wrong": True}, headers=key)
                    assert answer.status_code == 200
            assert server.gateway.desk is not None
            cohorts = {one.tenant: one for one in server.gateway.desk.report().cohorts}
    assert found["semantic b"] >= LEAST, found
    assert cohorts["y"].state == "certified"
