"""What one tenant does changes no answer of another, whatever it is; and nobody alone has an answer shared (A21)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.gateway.caching.scribe import PLAIN, Scribe, ask, asked, key_of, keys_of, scribe_running
from tests.harness import CHAT, Json, Server, chat, config_of, request_bytes, serving

EXAMPLES = 40
OPS = {"name": "ops", "key": "key-for-ops", "tenant": "ops", "admin": True}
KEYS = [*keys_of(victim="v", evil="e", evil2="e", other="o", third="t"), OPS]
OURS = 4
"""Questions of the victim whose answers are kept."""


@asynccontextmanager
async def shop(**cache: object) -> AsyncIterator[tuple[Scribe, Server]]:
    """cache: of the deployment."""
    async with scribe_running() as scribe:
        config = config_of(scribe.url, keys=KEYS, cache={"enabled": True, "store": "memory"})
        config["deployments"]["m"]["cache"] = cache
        async with serving(config) as server:
            yield scribe, server


def question(number: int) -> str:
    return f"question {number}"


class Attack:
    """Of a tenant that knows what another asks, and the ids of its entries."""

    def __init__(self, client: httpx.AsyncClient, server: Server, ids: list[str]) -> None:
        self._client = client
        self._server = server
        self._ids = ids

    async def do(self, what: str, number: int, key: str) -> None:
        ours = number % OURS
        match what:
            case "ask":
                got = await ask(self._client, chat(question(ours)), **key_of(key))
                assert got.entry_id not in self._ids
            case "ask anew":
                await ask(self._client, chat(question(ours)), **key_of(key), cache_control="no-cache")
            case "keep short":
                await ask(self._client, chat(question(ours)), **key_of(key), x_headrace_cache_ttl="1")
            case "not keep":
                await ask(self._client, chat(question(ours), stream=True), **key_of(key), x_headrace_cache_ttl="0")
            case "pretend":
                body = chat(question(ours), user="v", metadata={"tenant": "v"}, store=True)
                await ask(self._client, body, **key_of(key), x_headrace_tenant="v")
            case "twice":
                twice = b'{"messages":[{"role":"user","content":"x"}],' + _body(ours)[1:]
                answer = await self._client.post(CHAT, content=twice, headers=_named(key))
                assert answer.status_code in (200, 400)
            case "hang up":
                await self._hang_up(chat(question(ours), stream=True), key)
            case "complain":
                await self._refused(f"/cache/{self._ids[ours]}/feedback", {"wrong": True}, key, 404)
            case "purge":
                body = {"id": self._ids[ours]} if number % 2 else {"everything": True}
                await self._refused("/admin/cache/purge", body, key, 403)
            case _:
                answer = await self._client.get(f"/admin/cache/entries/{self._ids[ours]}", headers=_named(key))
                assert answer.status_code == 403

    async def _refused(self, path: str, body: Json, key: str, status: int) -> None:
        answer = await self._client.post(path, json=body, headers=_named(key))
        assert answer.status_code == status, answer.text

    async def _hang_up(self, body: Json, key: str) -> None:
        async with self._server.connected() as wire:
            await wire.send(request_bytes("POST", CHAT, body, **key_of(key)))


WAYS = ["ask", "ask anew", "keep short", "not keep", "pretend", "twice", "hang up", "complain", "purge", "inspect"]
ATTACKS = st.lists(
    st.lists(
        st.tuples(st.sampled_from(WAYS), st.integers(0, 7), st.sampled_from(("evil", "evil2"))), min_size=1, max_size=4
    ),
    min_size=2,
    max_size=6,
)
"""One after the other, some at once."""


def _body(number: int) -> bytes:
    return httpx.Request("POST", "http://x", json=chat(question(number))).content


def _named(key: str) -> dict[str, str]:
    return key_of(key) | {"content-type": "application/json"}


async def attacked(server: Server, client: httpx.AsyncClient, plan: list[list[tuple[str, int, str]]]) -> None:
    """
    Raises:
        AssertionError: an answer of the victim is another one afterwards, or gone.
    """
    first = [await ask(client, chat(question(number)), **key_of("victim")) for number in range(OURS)]
    kept = [await ask(client, chat(question(number)), **key_of("victim")) for number in range(OURS)]
    assert [one.source for one in kept] == ["hit"] * OURS
    attack = Attack(client, server, [one.entry_id for one in kept])
    for batch in plan:
        await asyncio.gather(*(attack.do(*step) for step in batch))
        again = [await ask(client, chat(question(number)), **key_of("victim")) for number in range(OURS)]
        assert again == kept
        assert [one.mark for one in again] == [one.mark for one in first]


@pytest.mark.parametrize("share", ["tenant", "all"])
async def test_a21_whatever_one_tenant_does_the_answers_of_another_stay_as_they_are(share: str) -> None:
    loop = asyncio.get_running_loop()
    async with shop(share=share) as (_, server), server.client() as client:

        @settings(max_examples=EXAMPLES, phases=[Phase.generate], database=None, deadline=None)
        @given(ATTACKS)
        def holds(plan: list[list[tuple[str, int, str]]]) -> None:
            asyncio.run_coroutine_threadsafe(attacked(server, client, plan), loop).result()

        await asyncio.to_thread(holds)


@pytest.mark.parametrize("confirmations", [1, 3])
async def test_a21_however_often_one_tenant_asks_its_answer_is_not_shared(confirmations: int) -> None:
    async with shop(share="all", confirmations=confirmations) as (scribe, server):
        for time in range(12):
            key = ("evil", "evil2")[time % 2]
            body = chat(PLAIN, stream=time % 3 == 0, user=f"user {time}")
            got = await ask(server, body, **key_of(key), cache_control="no-cache")
            assert got.source == "miss"
        assert scribe.calls == 12
        assert (await asked(server, PLAIN, "other")).source == "miss"
        assert (await asked(server, PLAIN, "evil")).source == "hit"


async def test_a21_tenants_that_were_told_different_things_confirm_none_of_them() -> None:
    async with shop(share="all", confirmations=1) as (scribe, server):
        for key in ("evil", "other", "third", "victim"):
            assert (await asked(server, "something", key)).source == "miss"
        assert scribe.calls == 4


async def test_a21_an_answer_that_is_shared_is_not_replaced_by_one_tenant_alone() -> None:
    async with shop(share="all", confirmations=1) as (scribe, server):
        for key in ("other", "third"):
            assert (await asked(server, PLAIN, key)).source == "miss"
        shared = await asked(server, PLAIN, "victim")
        assert shared.source == "hit"
        assert scribe.said[shared.mark] == shared.text
        for _ in range(6):
            assert (await asked(server, PLAIN, "evil", cache_control="no-cache")).source == "miss"
        assert await asked(server, PLAIN, "victim") == shared


async def test_a21_one_tenant_alone_takes_a_shared_answer_from_itself_but_not_from_others() -> None:
    async with shop(share="all", confirmations=1) as (_, server):
        for key in ("other", "third"):
            await asked(server, PLAIN, key)
        shared = await asked(server, PLAIN, "victim")
        assert shared == await asked(server, PLAIN, "evil")
        for time in range(6):
            headers = key_of(("evil", "evil2")[time % 2])
            path = f"/cache/{shared.entry_id}/feedback"
            await server.post(path, {"wrong": True}, **headers, content_type="application/json")
        assert (await asked(server, PLAIN, "evil")).source == "miss"
        assert await asked(server, PLAIN, "victim") == shared


async def test_a21_a_complaint_takes_what_is_its_tenants_own_and_leaves_the_same_of_others() -> None:
    async with shop() as (_, server):
        kept = {}
        for key in ("victim", "evil"):
            await asked(server, PLAIN, key)
            kept[key] = await asked(server, PLAIN, key)
        path = f"/cache/{kept['evil'].entry_id}/feedback"
        answer = await server.post(path, {"wrong": True}, **key_of("evil2"), content_type="application/json")
        assert answer.json()["quarantined"] == 1
        assert (await asked(server, PLAIN, "evil")).source == "miss"
        assert await asked(server, PLAIN, "victim") == kept["victim"]


async def test_a21_a_purge_of_one_tenant_by_the_admin_leaves_the_others() -> None:
    async with shop() as (_, server):
        for key in ("victim", "evil"):
            await asked(server, PLAIN, key)
        purged = await server.post(
            "/admin/cache/purge", {"tenant": "e"}, **key_of("ops"), content_type="application/json"
        )
        assert purged.json()["entries"] == 1
        assert [(await asked(server, PLAIN, key)).source for key in ("victim", "evil")] == ["hit", "miss"]
