"""From a client's request to the database, through the real server (A07, A15)."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from engines.fake import FakeEngine
from gateway.usage.recompute import recompute
from gateway.usage.record import pricing_of
from gateway.usage.report import By, Query, report
from tests.gateway.usage.office import office
from tests.harness import CHAT, Json, Server, chat, config_of, engine_running, serving, settled, streamed

KEY = {"name": "ci", "key": "sk-ci", "tenant": "acme", "team": "ops"}
PRICES = {"m": {"input": 3, "output": 15, "cached_input": 0.3}}


def config(engine: FakeEngine, tmp_path: Path, **more: Any) -> Json:
    folder = {"usage_spool": str(tmp_path / "usage"), "url": f"sqlite:///{tmp_path}/unused"}
    return config_of(engine, keys=[KEY], **more) | {"database": folder, "prices": PRICES}


async def ask(server: Server, body: Json, **headers: str) -> int:
    return (await server.post(CHAT, body, authorization="Bearer sk-ci", **headers)).status_code


async def test_a07_every_call_is_in_the_database_with_its_exact_cost(database_url: str, tmp_path: Path) -> None:
    async with engine_running() as engine, serving(config(engine, tmp_path)) as server:
        async with office(database_url, tmp_path / "usage") as there:
            assert await ask(server, chat(), x_request_id="mine") == 200
            assert await ask(server, streamed()) == 200
            assert await ask(server, streamed() | {"model": "none"}) == 404
            assert await ask(server, chat(fake={"status": 400})) == 400
            whole, stream, refused = await there.rows(3)
            assert whole.request_id == "mine" and (whole.stream, stream.stream) == (False, True)
            for row in (whole, stream):
                assert (row.tenant, row.team, row.key_name, row.deployment) == ("acme", "ops", "ci", "m")
                assert (row.variant, row.pool, row.engine_model, row.outcome) == ("v", "p", "m", "ok")
                assert row.prompt_tokens > 0 and row.completion_tokens > 0
                micro = 3 * (row.prompt_tokens - row.cached_tokens) + 15 * row.completion_tokens
                assert Decimal(row.usd) == (micro + Decimal("0.3") * row.cached_tokens) / 1_000_000
            assert (refused.status, refused.outcome, refused.usd) == (400, "refused", "0")
            version = (await asyncio.to_thread(pricing_of, server.gateway.config)).version
            again = await there.ask(recompute, Query(), version)
            assert (again.calls, again.difference_usd, again.not_kept.calls, again.other_versions) == (3, "0", 0, {})
            (line,) = (await there.ask(report, Query(by=(By.TEAM, By.DEPLOYMENT)))).lines
            assert (line.tenant, line.team, line.deployment, line.calls, line.usd) == ("acme", "ops", "m", 3, again.usd)
        metrics = await server.metrics()
        assert metrics['headrace_usage_records_total{usage="spooled"}'] == 3
        assert metrics['headrace_usage_records_total{usage="dropped"}'] == 0


async def test_a15_what_was_asked_while_nobody_took_in_is_there_afterwards(database_url: str, tmp_path: Path) -> None:
    """Also what the gateway wrote before it ended."""
    async with engine_running() as engine:
        for _ in range(2):
            async with serving(config(engine, tmp_path)) as server:
                for _ in range(3):
                    assert await ask(server, chat()) == 200
        async with office(database_url, tmp_path / "usage") as there:
            assert len({row.id for row in await there.rows(6)}) == 6
            await settled(lambda: list((tmp_path / "usage").glob("*.usage")), "segments are left", 5.0)


async def test_a_cached_answer_is_told_and_costs_nothing(tmp_path: Path) -> None:
    async with (
        engine_running() as engine,
        serving(config(engine, tmp_path, cache={"enabled": True})) as server,
        office(f"sqlite:///{tmp_path}/db", tmp_path / "usage") as there,
    ):
        for _ in range(2):
            assert await ask(server, chat()) == 200
        first, again = await there.rows(2)
        assert (first.cache, again.cache, again.usd) == ("miss", "hit", "0")
        assert Decimal(first.usd) > 0 and again.prompt_tokens == first.prompt_tokens


async def test_without_a_database_nothing_is_spooled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_STATE", str(tmp_path))
    async with engine_running() as engine, serving(config_of(engine)) as server:
        assert (await server.post(CHAT, chat())).status_code == 200
        assert not list(tmp_path.iterdir())
        assert not any("usage_records" in name for name in await server.metrics())
