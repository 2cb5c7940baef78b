"""Spilling on the real gateway, in front of fake engines: who gets what, as which model, and what it costs."""

from __future__ import annotations

from tests.harness import CHAT, Json, chat, engine_by_hand, engine_running, serving, settled, whole

USAGE = b'{"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 7}}'


def config(here: str, away: str, **spill: object) -> Json:
    """A token of a prompt in the cloud costs 1 USD; on-premise there is one place."""
    variants = {
        "own": {"pools": ["gpus"], "model": "m-own"},
        "api": {"pools": ["cloud"], "model": "m-cloud", "weight": 0},
    }
    return {
        "server": {"workers": 1},
        "pools": {"gpus": {"urls": [here], "max_in_flight": 1}, "cloud": {"urls": [away], "site": "cloud"}},
        "prices": {"m-cloud": {"input": 1_000_000}},
        "deployments": {"m": {"variants": variants, "spill": {"ttft_s": 0.2, **spill}}},
    }


async def test_what_would_wait_too_long_goes_to_the_cloud_by_the_name_that_it_knows() -> None:
    async with (
        engine_running(models=("m-own",)) as here,
        engine_running(models=("m-cloud",)) as away,
        serving(config(here.url, away.url)) as server,
    ):
        assert (await server.post(CHAT, chat())).headers["x-headrace-pool"] == "gpus"
        here.hold()
        async with server.asking(chat()) as held:
            await here.arrived(1)
            answer = await server.post(CHAT, chat())
            assert (answer.status_code, answer.headers["x-headrace-pool"]) == (200, "cloud")
            here.release()
            assert (await held.answer()).head.get("x-headrace-pool") == "gpus"
        assert (await server.post(CHAT, chat())).headers["x-headrace-pool"] == "gpus"
        records = await server.records(4)
        assert sorted(one["variant"] for one in records) == ["api", "own", "own", "own"]


async def test_the_cloud_serves_for_a_replica_that_is_gone_and_the_limit_holds() -> None:
    async with engine_by_hand() as away, serving(config("http://127.0.0.1:9", away.url, max_usd_per_hour=40)) as server:
        for spent in (7, 14):
            async with server.asking(chat()) as wire:
                turn = await away.turn()
                turn.send(whole(USAGE))
                assert (await wire.answer()).status == 200
            [ladder] = [one.ladder for one in server.gateway.pipeline.catalog.deployments]
            assert ladder is not None and ladder.purse.spent(0.0) == spent, "what was used, not what was expected"
        assert (await server.post(CHAT, chat("word " * 200))).status_code == 503
        assert ladder is not None and ladder.capped == 1


async def test_a_call_that_its_client_gives_up_is_paid_for_as_expected() -> None:
    """Or a limit in USD would not hold for who hangs up."""
    async with engine_by_hand() as away, serving(config("http://127.0.0.1:9", away.url, max_usd_per_hour=40)) as server:
        [ladder] = [one.ladder for one in server.gateway.pipeline.catalog.deployments]
        assert ladder is not None
        async with server.asking(chat()):
            await away.turn()
            expected = ladder.purse.spent(0.0)
            assert expected > 0
        await settled(lambda: [] if not server.gateway.replicas[1].in_flight else ["in flight"], "it goes on")
        assert ladder.purse.spent(0.0) == expected


async def test_what_may_not_leave_waits_on_premise() -> None:
    """R11"""
    async with (
        engine_running(models=("m-own",)) as here,
        engine_running(models=("m-cloud",)) as away,
        serving(config(here.url, away.url)) as server,
    ):
        here.hold()
        async with server.asking(chat()) as first:
            await here.arrived(1)
            async with server.asking(chat(), x_headrace_sensitivity="confidential") as second:
                assert (await server.post(CHAT, chat())).headers["x-headrace-pool"] == "cloud"
                here.release()
                for wire in (first, second):
                    assert (await wire.answer()).status == 200
        assert away.stats.requests == 1
