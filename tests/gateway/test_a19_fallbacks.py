"""Fallbacks between deployments: by reason, within one budget, and never in a circle (A19)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.config.load import parse_config
from gateway.config.problems import ConfigError
from tests.gateway.several import several
from tests.harness import (
    CHAT,
    Json,
    chat,
    engine_by_hand,
    engine_running,
    nobody,
    serving,
    streamed,
    text_in,
    whole,
)

OK = whole(b'{"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}')
FILTERED = b'{"error": {"message": "The response was filtered", "code": "content_filter", "param": "prompt"}}'


@pytest.mark.parametrize("body", [chat(), streamed()], ids=["whole", "stream"])
async def test_a19_a_deployment_without_a_replica_that_answers_is_stood_in_for(body: Json) -> None:
    with nobody() as dead:
        async with (
            engine_running(models=("big",)) as other,
            serving(
                several(
                    m={"engines": [dead], "fallbacks": {"error": ["b"]}},
                    b={"engines": [other], "model": "big"},
                )
            ) as server,
        ):
            for _ in range(5):
                answer = await server.post(CHAT, body)
                assert answer.status_code == 200
                assert answer.headers["x-headrace-fallback"] == "b"
                assert answer.headers["x-headrace-variant"] == "b-v"
            assert json.loads(other.requests[0].body)["model"] == "big"
            record = (await server.records(5))[0]
            assert (record["deployment"], record["fallback"], record["fallback_reason"]) == ("m", "b", "error")
            found = await server.metrics()
            assert found['headrace_fallbacks_total{deployment="m",fallback="b",reason="error"}'] == 5


async def test_a19_a_deployment_that_cannot_serve_the_call_is_passed_over() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    with nobody() as dead:
        async with engine_running() as plain, engine_running() as able:
            config = several(
                m={"engines": [dead], "fallbacks": {"error": ["b", "c"]}}, b={"engines": [plain]}, c={"engines": [able]}
            )
            (variant,) = config["deployments"]["b"]["variants"].values()
            variant["capabilities"] = []
            async with serving(config) as server:
                answer = await server.post(CHAT, chat(tools=tools))
                assert (answer.status_code, answer.headers["x-headrace-fallback"]) == (200, "c")
                answer = await server.post(CHAT, chat())
                assert (answer.status_code, answer.headers["x-headrace-fallback"]) == (200, "b")
            assert (plain.stats.requests, able.stats.requests) == (1, 1)


async def test_a_class_that_there_is_not_is_refused_also_where_nobody_waits() -> None:
    """A retry may wait for a place though the first attempt does not: its class is known from the beginning."""
    async with (
        engine_running() as one,
        serving(several(m={"engines": [one], "fallbacks": {"overloaded": ["b"]}}, b={"engines": [one]})) as server,
    ):
        answer = await server.post(CHAT, chat(), x_headrace_priority="top")
        assert (answer.status_code, one.stats.requests) == (400, 0)
        assert (await server.post(CHAT, chat(), x_headrace_priority="9")).status_code == 200


async def test_an_answer_without_a_fallback_has_no_word_of_it() -> None:
    async with (
        engine_running() as one,
        serving(several(m={"engines": [one], "fallbacks": {"error": ["b"]}}, b={"engines": [one]})) as server,
    ):
        assert "x-headrace-fallback" not in (await server.post(CHAT, chat())).headers
        assert "fallback" not in (await server.records())[0]


async def test_a19_what_does_not_fit_goes_to_the_longer_context_even_on_the_same_engine() -> None:
    async with (
        engine_running(context_tokens=16) as short,
        engine_running() as long,
        serving(
            several(m={"engines": [short], "fallbacks": {"context_length": ["b"]}}, b={"engines": [long]})
        ) as server,
    ):
        answer = await server.post(CHAT, streamed("word " * 100, fake={"text": "fits"}))
        assert (answer.status_code, text_in(answer.content)) == (200, "fits")
        assert (await server.records())[0]["fallback_reason"] == "context_length"


async def test_a19_a_refusal_by_the_content_filter_is_a_reason_of_its_own() -> None:
    async with engine_by_hand() as strict, engine_running() as other:
        config = several(m={"engines": [strict], "fallbacks": {"policy": ["b"]}}, b={"engines": [other]})
        async with serving(config) as server, asyncio.TaskGroup() as group:
            call = group.create_task(server.post(CHAT, chat()))
            (await strict.turn()).send(whole(FILTERED, "400 Bad Request"))
            answer = await call
            assert (answer.status_code, answer.headers["x-headrace-fallback"]) == (200, "b")
            assert (await server.records())[0]["fallback_reason"] == "policy"


@pytest.mark.parametrize("status", [429, 503])
async def test_a19_when_all_are_full_another_deployment_may_have_room(status: int) -> None:
    async with (
        engine_running(error_rate=1.0, error_status=status) as full,
        engine_running() as other,
        serving(several(m={"engines": [full], "fallbacks": {"overloaded": ["b"]}}, b={"engines": [other]})) as server,
    ):
        answer = await server.post(CHAT, chat())
        assert (answer.status_code, answer.headers["x-headrace-fallback"]) == (200, "b")
        assert (await server.records())[0]["fallback_reason"] == "overloaded"


@pytest.mark.parametrize(
    ("fallbacks", "fault", "status"),
    [
        ({"error": ["b"]}, {"error_rate": 1.0, "error_status": 400}, 400),
        ({"error": ["b"]}, {"error_rate": 1.0, "error_status": 503}, 503),
        ({"overloaded": ["b"], "policy": ["b"]}, {"error_rate": 1.0, "error_status": 500}, 502),
        ({"error": ["b"], "overloaded": ["b"]}, {"context_tokens": 16}, 400),
    ],
    ids=repr,
)
async def test_a19_a_reason_without_fallbacks_is_answered_as_it_is(fallbacks: Json, fault: Json, status: int) -> None:
    async with (
        engine_running(**fault) as one,
        engine_running() as other,
        serving(several(m={"engines": [one], "fallbacks": fallbacks}, b={"engines": [other]})) as server,
    ):
        assert (await server.post(CHAT, chat("word " * 100))).status_code == status
        assert other.stats.requests == 0


@pytest.mark.parametrize(("attempts", "asked"), [(2, (1, 1, 0)), (3, (2, 1, 0)), (4, (3, 1, 0)), (5, (3, 1, 1))])
async def test_a19_attempts_are_shared_by_the_whole_chain_and_one_is_kept_for_it(
    attempts: int, asked: tuple[int, ...]
) -> None:
    broken: Any = {"error_rate": 1.0}
    async with (
        engine_running(**broken) as a1,
        engine_running(**broken) as a2,
        engine_running(**broken) as a3,
        engine_running(**broken) as b,
        engine_running(**broken) as c,
    ):
        config = several(
            m={"engines": [a1, a2, a3], "fallbacks": {"error": ["b", "c"]}, "attempts": attempts},
            b={"engines": [b]},
            c={"engines": [c]},
        )
        async with serving(config) as server:
            answer = await server.post(CHAT, chat())
            assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")
            at_m = sum(engine.stats.requests for engine in (a1, a2, a3))
            assert (at_m, b.stats.requests, c.stats.requests) == asked
            assert (await server.records())[0]["attempts"] == sum(asked) <= attempts


async def test_a19_the_time_is_that_of_the_deployment_asked_for() -> None:
    async with engine_by_hand() as slow, engine_by_hand() as other:
        config = several(
            m={"engines": [slow], "fallbacks": {"error": ["b"]}, "timeouts": {"total_s": 0.6, "ttft_s": 0.2}},
            b={"engines": [other]},
        )
        async with serving(config) as server:
            answer = await server.post(CHAT, chat())
            assert (answer.status_code, answer.json()["error"]["code"]) == (504, "ttft_timeout")
            assert (slow.waiting, other.waiting) == (1, 1)
            assert (await server.records())[0]["duration_ms"] < 900


async def test_a19_a_fallback_has_fallbacks_of_its_own_and_then_those_that_are_left() -> None:
    with nobody() as dead:
        async with engine_running() as fine:
            config = several(
                m={"engines": [dead], "fallbacks": {"error": ["b", "d"]}, "attempts": 4},
                b={"engines": [dead], "fallbacks": {"error": ["c"]}},
                c={"engines": [dead]},
                d={"engines": [fine]},
            )
            async with serving(config) as server:
                answer = await server.post(CHAT, chat())
                assert (answer.status_code, answer.headers["x-headrace-fallback"]) == (200, "d")
                assert answer.headers["x-headrace-attempts"] == "4"


async def test_a_fallback_that_finds_fault_with_the_request_has_the_last_word() -> None:
    with nobody() as dead:
        async with (
            engine_running(error_rate=1.0, error_status=422) as picky,
            engine_running() as other,
            serving(
                several(
                    m={"engines": [dead], "fallbacks": {"error": ["b", "c"]}},
                    b={"engines": [picky]},
                    c={"engines": [other]},
                )
            ) as server,
        ):
            assert (await server.post(CHAT, chat())).status_code == 400
            assert other.stats.requests == 0


async def test_the_failure_that_is_told_is_that_of_the_deployment_asked_for() -> None:
    with nobody() as dead:
        async with (
            engine_running(error_rate=1.0) as broken,
            serving(several(m={"engines": [broken], "fallbacks": {"error": ["b"]}}, b={"engines": [dead]})) as server,
        ):
            answer = await server.post(CHAT, chat())
            assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")


async def test_a_key_for_one_deployment_is_served_by_its_fallbacks_but_may_not_ask_for_them() -> None:
    with nobody() as dead:
        async with engine_running() as other:
            config = several(m={"engines": [dead], "fallbacks": {"error": ["b"]}}, b={"engines": [other]})
            config["auth"] = {"keys": [{"name": "team", "key": "key-for-tests", "deployments": ["m"]}]}
            async with serving(config) as server:
                key = {"authorization": "Bearer key-for-tests"}
                assert (await server.post(CHAT, chat(), **key)).status_code == 200
                assert (await server.post(CHAT, chat() | {"model": "b"}, **key)).status_code == 403


async def test_what_a_fallback_said_is_not_kept_in_the_cache() -> None:
    async with engine_running(error_rate=1.0, fault_count=1) as flaky, engine_running() as other:
        config = several(m={"engines": [flaky], "fallbacks": {"error": ["b"]}}, b={"engines": [other]})
        async with serving(config | {"cache": {"enabled": True, "store": "memory"}}) as server:
            assert "x-headrace-fallback" in (await server.post(CHAT, chat())).headers
            assert "x-headrace-fallback" not in (await server.post(CHAT, chat())).headers
            assert (await server.post(CHAT, chat())).headers["x-headrace-cache"] == "hit"


# What is refused when the configuration loads

POOLS = "pools: {p: {urls: ['http://h:1']}}\ndeployments:\n"


def problems(*deployments: str) -> list[str]:
    text = POOLS + "".join(f"  {line}\n" for line in deployments)
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    return [f"{p.key}: {p.message} ({p.hint})" for p in caught.value.problems if p.severity == "error"]


def deployment(name: str, fallbacks: str, more: str = "") -> str:
    return f"{name}: {{variants: {{v: {{pools: [p]}}}}, fallbacks: {{{fallbacks}}}{more}}}"


def test_a19_a_circle_of_fallbacks_is_refused_with_its_path() -> None:
    found = problems(
        deployment("a", "error: [b]"),
        deployment("b", "context_length: [c]"),
        deployment("c", "policy: [b]"),
        deployment("d", "overloaded: [d]"),
    )
    assert found == [
        "deployments.c.fallbacks.policy[0]: fallbacks lead in a circle: b → c → b (take one of them out)",
        "deployments.d.fallbacks.overloaded[0]: fallbacks lead in a circle: d → d (take one of them out)",
    ]


def test_two_ways_to_one_fallback_are_no_circle() -> None:
    lines = (deployment("a", "error: [b, c]"), deployment("b", "error: [d]"), deployment("c", "error: [d]"))
    text = POOLS + "".join(f"  {line}\n" for line in (*lines, deployment("d", "")))
    assert parse_config(text).deployments["a"].fallbacks.error == ["b", "c"]


def test_a_fallback_is_a_deployment_and_there_is_an_attempt_for_it() -> None:
    found = problems(
        deployment("chat", "error: [chta]", ", attempts: 1"),
        deployment("other", "error: [x]", ", aliases: [y]"),
        deployment("third", "policy: [y]"),
    )
    assert found == [
        'deployments.chat.fallbacks.error[0]: "chta" is no deployment (did you mean "chat"?)',
        "deployments.chat.attempts: with attempts 1 there is none left for a fallback (it takes 2 or more)",
        'deployments.other.fallbacks.error[0]: "x" is no deployment (there is: chat, other, third)',
        'deployments.third.fallbacks.policy[0]: "y" is an alias (write "other")',
    ]
