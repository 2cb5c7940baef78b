"""What the gateway itself has in flight decides; an engine whose metrics are late or missing is as good (R07)."""

from __future__ import annotations

import pytest

from tests.harness import CHAT, Turn, chat, config_of, engine_by_hand, engine_running, serving, settled, whole

OK = whole(b'{"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}')


@pytest.mark.parametrize("kind", ["openai", "vllm", "llamacpp"])
async def test_r07_an_engine_without_metrics_or_health_gets_its_requests(kind: str) -> None:
    """Whatever is asked of it beside requests is never answered."""
    async with engine_by_hand() as engine:
        config = config_of(engine.url, engine={"kind": kind}, pool={"probe": {"every_s": 0.01, "idle_s": 0.01}})
        async with serving(config) as server:
            for _ in range(5):
                async with server.asking(chat()) as wire:
                    turn: Turn = await engine.turn()
                    assert turn.head.startswith("POST /v1/chat/completions ")
                    turn.send(OK)
                    assert (await wire.answer()).status == 200


async def test_r07_traffic_follows_what_is_in_flight_and_not_what_engines_say() -> None:
    async with (
        engine_running() as one,
        engine_running() as two,
        serving(config_of(one, two, policy="least_requests")) as server,
    ):
        one.hold()
        two.hold()
        async with server.asking(chat()) as held:
            await settled(
                lambda: [] if any(r.in_flight for r in server.gateway.replicas) else ["not sent"], "in flight"
            )
            busy = next(r for r in server.gateway.replicas if r.in_flight)
            (two if busy.name.endswith("-0") else one).release()
            for _ in range(6):
                answer = await server.post(CHAT, chat())
                assert answer.headers["x-headrace-replica"] != busy.name
            one.release()
            two.release()
            assert (await held.answer()).status == 200
        assert [r.in_flight for r in server.gateway.replicas] == [0, 0]
