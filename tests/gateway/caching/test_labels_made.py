"""Labels are made by texts or by a deployment that is asked after everybody else, and cost no more than is allowed."""

from __future__ import annotations

import asyncio
import json

import pytest

from cache.planted import shipped
from gateway.caching import judge as module
from gateway.caching.judge_calls import said
from gateway.caching.judge_calls import whole as in_one_piece
from gateway.residency import Clearance
from tests.gateway.caching.labelling import (
    PRICES,
    call,
    completion,
    fake_judged,
    hand_judged,
    judged,
    labelling,
    wish,
)
from tests.harness import (
    CHAT,
    NO_SCRAPE,
    chat,
    config_of,
    engine_by_hand,
    engine_running,
    nobody,
    serving,
    settled,
    whole,
)

LONG = "It was the gardener who did it, with the spade, in the night."
OTHER = "The gardener did it at night, and he used his spade."


async def test_texts_settle_a_label_at_once_and_ask_nobody() -> None:
    async with (
        engine_running() as engine,
        serving(config_of(engine)) as server,
        labelling(server) as (labeller, labels),
    ):
        labeller.want(wish("Paris", "paris."))
        labeller.want(wish("4", "5"))
        told = [labels.told.get_nowait(), labels.told.get_nowait()]
        assert [one.equal for one in told] == [True, False]
        assert (told[0].cohort, told[0].fresh, told[0].source, told[0].at) == ("t/m", "f" * 32, "miss", 7.0)
        assert labeller.outcomes == {("miss", "rules"): 2}
        assert labels.lags == [0.0, 0.0]
        assert engine.stats.requests == 0


async def test_the_judge_decides_the_rest_and_its_usage_has_a_tenant_of_its_own() -> None:
    async with engine_by_hand() as engine:
        config = config_of(engine.url) | {"prices": PRICES}
        async with serving(config) as server, labelling(server) as (labeller, labels):
            labeller.want(wish(LONG, OTHER))
            turn = await judged(engine, "same")
            assert (await labels.told.get()).equal is True
            assert turn.json["temperature"] == 0
            assert turn.json["max_tokens"] == 4
            assert json.loads(turn.json["messages"][1]["content"].partition("\n")[0])["first"] == OTHER
            assert "authorization" not in turn.headers
            labeller.want(wish(LONG, OTHER))
            await judged(engine, "different")
            assert (await labels.told.get()).equal is False
            assert labeller.asked == {"same": 2, "different": 1}
            assert labeller.outcomes == {("miss", "judge"): 2}
            assert labeller.nano_usd == 3 * (1000 * 1_000 + 2_000)
            first, *_ = await server.records(3)
            assert (first["tenant"], first["key"], first["deployment"]) == ("headrace-cache", "judge", "m")
            assert "asked" in repr(labeller) or "same" in repr(labeller)


async def test_answers_are_the_same_only_if_the_judge_says_so_both_ways_round() -> None:
    async with hand_judged() as (engine, _, labeller, labels):
        labeller.want(wish(LONG, OTHER))
        for verdict in ("yes", "no"):
            turn = await engine.turn()
            told = json.loads(turn.json["messages"][1]["content"].partition("\n")[0])
            assert {told["first"], told["second"]} == {LONG, OTHER}
            assert (told["first"] == OTHER) is (verdict == "yes")
            turn.send(whole(completion(verdict)))
        assert (await labels.told.get()).equal is False
        assert labeller.asked == {"same": 1, "different": 1}


async def test_what_the_judge_says_besides_counts_as_different() -> None:
    async with hand_judged() as (engine, _, labeller, labels):
        labeller.want(wish(LONG, OTHER))
        await judged(engine, "They are the same.")
        assert (await labels.told.get()).equal is False
        assert labeller.outcomes == {("miss", "unclear"): 1}
        assert labeller.asked == {"unclear": 1}


async def test_what_an_engine_refuses_or_garbles_is_no_label() -> None:
    async with hand_judged() as (engine, _, labeller, labels):
        labeller.want(wish(LONG, OTHER))
        turn = await engine.turn()
        turn.send(whole(b'{"error": {"message": "no"}}', "400 Bad Request"))
        await settled(lambda: None if labeller.outcomes else "not left", "it is not told")
        assert labeller.asked == {"failed": 1}
        assert labeller.outcomes == {("miss", "failed"): 1}
        assert labels.told.empty()


async def test_without_a_judge_what_texts_do_not_settle_counts_as_different() -> None:
    async with fake_judged(deployment=None) as (engine, labeller, labels):
        labeller.want(wish(LONG, OTHER))
        labeller.want(wish(LONG, None, again=call()))
        await settled(lambda: None if len(labeller.outcomes) == 2 else labeller, "they are not left")
        assert labeller.outcomes == {("miss", "unclear"): 1, ("audit", "unclear"): 1}
        assert engine.stats.requests == 1
        assert [labels.told.get_nowait().equal for _ in range(2)] == [False, False]


async def test_an_audit_asks_the_engine_the_same_question_in_one_piece() -> None:
    async with hand_judged() as (engine, server, labeller, labels):
        asked = call("q", stream=True, stream_options={"include_usage": True}, seed=7)
        labeller.want(wish("Paris", None, again=asked))
        turn = await engine.turn()
        assert turn.json == {"model": "m", "messages": [{"role": "user", "content": "q"}], "seed": 7}
        turn.send(whole(completion("Lyon")))
        told = await labels.told.get()
        assert (told.equal, told.source, told.fresh) == (False, "audit", "")
        (record,) = await server.records(1)
        assert (record["tenant"], record["key"]) == ("headrace-cache", "audit")


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_an_audit_of_which_only_a_part_comes_found_another_answer(reason: str) -> None:
    async with hand_judged() as (engine, _, labeller, labels):
        labeller.want(wish("Paris", None, again=call()))
        choice = {"index": 0, "message": {"role": "assistant", "content": "Pa"}, "finish_reason": reason}
        (await engine.turn()).send(whole(completion("", choices=[choice])))
        assert (await labels.told.get()).equal is False
        assert labeller.outcomes == {("audit", "unclear"): 1}
        assert labels.lost == []


async def test_an_audit_of_which_nothing_can_be_read_is_lost() -> None:
    async with hand_judged() as (engine, _, labeller, labels):
        labeller.want(wish("Paris", None, again=call()))
        choice = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}
        (await engine.turn()).send(whole(completion("", choices=[choice])))
        await settled(lambda: None if labeller.outcomes else "not left", "it is not told")
        assert labeller.outcomes == {("audit", "failed"): 1}
        assert len(labels.lost) == 1


async def test_an_audit_that_an_engine_does_not_answer_is_lost() -> None:
    async with hand_judged() as (engine, _, labeller, labels):
        audit = wish("Paris", None, again=call())
        labeller.want(audit)
        (await engine.turn()).send(whole(b'{"error": {"message": "no"}}', "400 Bad Request"))
        await settled(lambda: None if labeller.outcomes else "not left", "it is not told")
        assert labeller.outcomes == {("audit", "failed"): 1}
        assert labels.lost == [audit]


async def test_r11_a_confined_answer_is_judged_by_no_pool_that_may_not_see_it() -> None:
    async with fake_judged() as (engine, labeller, labels):
        labeller.want(wish(LONG, OTHER, clearance=Clearance("secret", 1, frozenset({"elsewhere"}))))
        await settled(lambda: None if labeller.outcomes else "not left", "it is not told")
        assert labeller.outcomes == {("miss", "confined"): 1}
        assert labels.lost == []
        assert engine.stats.requests == 0
        assert labels.told.empty()


async def test_labels_wait_while_anybody_else_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_S", 0.02)
    config = config_of("URL", queue={"max_waiting": 5}, pool={"max_in_flight": 1})
    async with engine_by_hand() as engine:
        config["pools"]["p"]["urls"] = [engine.url]
        async with serving(config) as server, labelling(server) as (labeller, labels):
            async with server.asking(chat()), server.asking(chat("again")):
                busy = await engine.turn()
                await settled(lambda: None if any(map(len, server.gateway.rooms)) else "none", "nobody waits")
                labeller.want(wish(LONG, OTHER))
                await settled(lambda: None if labeller.shed >= 2 else labeller, "it was not put off")
                assert engine.waiting == 0
                busy.send(whole(completion("one")))
                (await engine.turn()).send(whole(completion("two")))
            await judged(engine, "same")
            assert (await labels.told.get()).equal


async def test_no_more_is_asked_in_a_minute_than_is_allowed() -> None:
    async with hand_judged(max_per_minute=1) as (engine, _, labeller, labels):
        labeller.want(wish(LONG, OTHER))
        await judged(engine, "same")
        await labels.told.get()
        labeller.want(wish(LONG, OTHER))
        await asyncio.sleep(0.05)
        assert (engine.waiting, labeller.waiting) == (0, 1)


async def test_planted_pairs_measure_the_judge_before_its_first_label() -> None:
    async with hand_judged(planted_share=0.001) as (engine, server, labeller, labels):
        labeller.want(wish(LONG, OTHER))
        for _ in range(2):
            turn = await judged(engine, "different")
        assert (await labels.told.get()).equal is False
        assert json.loads(turn.json["messages"][1]["content"].partition("\n")[0])["second"] == LONG
        assert labels.error.pairs == labels.error.same.of + labels.error.different.of == 1
        planted, own = await server.records(2)
        assert (planted["key"], own["key"]) == ("planted", "judge")


async def test_a_bound_is_stated_with_the_error_of_a_judge_that_was_asked() -> None:
    async with hand_judged(planted_share=0.1) as (_, _, labeller, labels):
        assert labeller.stated(0.01) == 0.01
        for i in range(10):
            labels.error.learn(f"different-{i}", same=False, said=False)
        assert labeller.stated(0.01) == pytest.approx(0.01 / (1 - 0.3085), rel=1e-3)
    async with hand_judged(planted_share=0) as (_, _, labeller, _):
        assert labeller.stated(0.01) == 1.0
    async with hand_judged(deployment=None) as (_, _, labeller, _):
        assert labeller.stated(0.01) == 0.01


async def test_pairs_that_another_worker_asked_are_not_asked_first_again() -> None:
    async with hand_judged(planted_share=0.001) as (engine, _, labeller, labels):
        for pair in shipped().values():
            labels.error.learn(pair.name, same=pair.same, said=pair.same)
        labeller.want(wish(LONG, OTHER))
        await judged(engine, "different")
        assert (await labels.told.get()).equal is False
        assert engine.waiting == 0


async def test_a_judge_that_takes_too_much_for_the_same_is_unfit_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with hand_judged() as (_, _, labeller, labels):
        assert (labeller.unfit, labeller.objection) == (False, "")
        for i in range(25):
            labels.error.learn(f"different-{i}", same=False, said=i < 3)
        assert labeller.unfit
        assert labeller.objection == (
            "the judge m takes 12% of different answers for the same (at least 2.5%, 25 known pairs): "
            "max_wrong_hit_rate is 1.00%"
        )
        assert "serves nothing semantic: the judge m takes 12%" in caplog.text
        for i in range(25, 200):
            labels.error.learn(f"different-{i}", same=False, said=False)
        assert (labeller.unfit, labeller.objection) == (False, "")
        for i in range(10):
            labels.error.learn(f"same-{i}", same=True, said=False)
        assert not labeller.unfit
        assert "takes 100% of equal answers for different" in labeller.objection


async def test_an_engine_that_is_not_there_costs_a_label_and_nothing_else() -> None:
    with nobody() as url:
        async with serving(config_of(url)) as server, labelling(server) as (labeller, _):
            labeller.want(wish(LONG, OTHER))
            await settled(lambda: None if labeller.outcomes else "not left", "it is not told")
            assert labeller.outcomes == {("miss", "failed"): 1}
            assert labeller.asked == {"failed": 1}


def test_a_call_in_one_piece_says_all_else_as_it_was() -> None:
    asked = in_one_piece(call("q", stream=True, temperature=0.5))
    assert json.loads(asked.body) == {
        "model": "m",
        "messages": [{"role": "user", "content": "q"}],
        "temperature": 0.5,
    }
    assert not asked.stream


async def test_judging_delays_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question to the judge is out; others are answered as ever."""
    async with engine_by_hand() as engine, serving(config_of(engine.url)) as server, labelling(server) as (labeller, _):
        labeller.want(wish(LONG, OTHER))
        held = await engine.turn()
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(server.post(CHAT, chat()))
            (await engine.turn()).send(whole(completion("hello")))
        assert asking.result().status_code == 200
        held.send(whole(completion("?")))
        await settled(lambda: None if labeller.outcomes else "not left", "it is not told")


async def test_what_is_too_long_for_the_judge_is_left() -> None:
    async with fake_judged() as (engine, labeller, labels):
        labeller.want(wish(f"{LONG} {'a' * 7_000}", f"{OTHER} {'b' * 7_000}"))
        labeller.want(wish("x" * 70_000, "y" * 70_000))
        await settled(lambda: None if labeller.outcomes.total() == 2 else labeller, "they are not left")
        assert labeller.outcomes == {("miss", "unclear"): 2}
        assert engine.stats.requests == 0
        assert not labels.told.get_nowait().equal


async def test_a_gateway_that_ends_hangs_up_on_the_judge() -> None:
    async with hand_judged() as (engine, server, labeller, _):
        labeller.want(wish(LONG, OTHER))
        turn = await engine.turn()
        await labeller.aclose()
        await turn.gone.wait()
        (record,) = await server.records(1)
        assert (record["tenant"], record["status"]) == ("headrace-cache", 499)


async def test_one_label_that_cannot_be_made_keeps_no_other_waiting(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hand_judged() as (engine, _, labeller, labels):
        broken = wish("Paris", None, again=call())
        monkeypatch.setattr(broken.again, "body", b"{")
        labeller.want(broken)
        await settled(lambda: None if labeller.outcomes else "not left", "it is not told")
        assert labeller.outcomes == {("audit", "failed"): 1}
        labeller.want(wish(LONG, OTHER))
        await judged(engine, "same")
        assert (await labels.told.get()).equal
    assert "could not be made" in caplog.text


@pytest.mark.parametrize(
    "body", [b"{}", b'{"choices": [{"message": {"content": null}}]}', b"<html>", b'{"choices": 1}']
)
def test_an_answer_of_another_form_says_nothing(body: bytes) -> None:
    assert said(body) == ""


async def test_the_judge_of_a_deployment_that_spills_stays_at_home() -> None:
    """A call of the gateway's own is not worth a cloud's money."""
    async with engine_by_hand() as home, engine_running() as cloud:
        config = config_of(home.url, spill={"ttft_s": 0.001}) | {"prices": PRICES}
        config["pools"]["c"] = {"urls": [cloud.url], "site": "cloud", "scrape": NO_SCRAPE}
        config["deployments"]["m"]["variants"]["v"]["pools"] = ["p", "c"]
        async with serving(config) as server, labelling(server) as (labeller, labels):
            labeller.want(wish(LONG, OTHER))
            await judged(home, "same")
            assert (await labels.told.get()).equal
            assert cloud.stats.requests == 0


async def test_a_judge_of_whom_nothing_is_known_is_asked_all_pairs_first() -> None:
    async with fake_judged(planted_share=0.001, max_per_minute=10_000) as (engine, labeller, _):
        for _ in range(400):
            labeller.want(wish(LONG, OTHER))
        await settled(lambda: None if labeller.outcomes.total() == 400 else labeller, "they are not left", 20.0)
        assert 400 + len(shipped()) <= engine.stats.requests <= 410 + len(shipped())
        assert labeller.asked == {"unclear": engine.stats.requests}
        assert (labeller.error.same.wrong, labeller.error.different.wrong) == (labeller.error.same.of, 0)
        assert labeller.error.pairs == len(shipped())
