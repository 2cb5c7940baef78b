"""What is marked sensitive reaches no replica that may not have it, by no way; a trap plays the cloud (R11)."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.classifier import texts_of
from gateway.config import Config
from gateway.config.load import parse_config
from gateway.config.problems import ConfigError
from gateway.config.sites import likely_site, site_of
from gateway.errors import InvalidRequest
from gateway.identity import Caller
from gateway.residency import Residency
from tests.gateway.several import OPERATIONS, SECRET, egress_trap, falling_back, several
from tests.harness import (
    CHAT,
    Json,
    Server,
    chat,
    engine_by_hand,
    engine_running,
    nobody,
    serving,
    settled,
    streamed,
    whole,
)

CLOUD: Json = {"site": "cloud"}
SENSITIVE = {"x-headrace-sensitivity": "restricted"}


def detect(texts: list[str]) -> str | None:
    """A classifier, as an operator would write it."""
    return "restricted" if any("Marrow" in text for text in texts) else None


def broken(texts: list[str]) -> str | None:
    raise RuntimeError(SECRET)


def mistaken(texts: list[str]) -> str | None:
    return "no such class"


def relaxed(texts: list[str]) -> str | None:
    return "public"


def slow(texts: list[str]) -> str | None:
    threading.Event().wait(0.5)
    return None


no_function = 3
BY_KEY: Json = {"auth": {"keys": [{"name": "team", "key": "key-for-tests", "sensitivity": "confidential"}]}}
WAYS: dict[str, tuple[Json, dict[str, str]]] = {
    "header": ({}, SENSITIVE),
    "key": (BY_KEY, {"authorization": "Bearer key-for-tests"}),
    "classifier": ({"residency": {"classifier": "tests.gateway.test_r11_residency:detect"}}, {}),
    "default": ({"residency": {"default": "restricted"}}, {}),
}


async def ask_all(server: Server, headers: Mapping[str, str], allowed: tuple[int, ...]) -> None:
    async with server.client() as client:
        for path, body in OPERATIONS:
            answer = await client.post(path, json=body, headers=dict(headers))
            assert answer.status_code in allowed, (path, answer.text)


@pytest.mark.parametrize("way", WAYS)
async def test_r11_no_operation_leaves_for_the_cloud_when_that_is_all_there_is(way: str) -> None:
    more, headers = WAYS[way]
    async with egress_trap() as trap, serving(several(m={"engines": [trap.url], "pool": CLOUD}) | more) as server:
        answer = await server.post(CHAT, chat(SECRET), **headers)
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["code"]) == (403, "permission_error", "residency_violation")
        assert "residency.sites" in error["message"]
        await ask_all(server, headers, (403,))
        assert (trap.connections, bytes(trap.seen)) == (0, b"")
        expected = "confidential" if way == "key" else "restricted"
        assert {record["sensitivity"] for record in await server.records(1 + len(OPERATIONS))} == {expected}


@pytest.mark.parametrize("way", WAYS)
async def test_r11_of_mixed_pools_and_variants_only_those_on_premise_are_asked(way: str) -> None:
    more, headers = WAYS[way]
    async with egress_trap() as trap, engine_running() as home:
        config = several(m={"engines": [home], "pools": ["away"]}) | more
        config["pools"]["away"] = {"urls": [trap.url], **CLOUD}
        config["deployments"]["m"]["variants"]["cloudy"] = {"pools": ["away"], "weight": 1000}
        async with serving(config) as server:
            for _ in range(3):
                await ask_all(server, headers, (200,))
            asked = [request for request in home.requests if request.method == "POST"]
            assert (trap.connections, len(asked)) == (0, 3 * len(OPERATIONS))


@pytest.mark.parametrize("way", WAYS)
async def test_r11_neither_retry_nor_fallback_leads_there(way: str) -> None:
    more, headers = WAYS[way]
    faults: list[Json] = [
        {"error_rate": 1.0},
        {"error_rate": 1.0, "error_status": 503},
        {"context_tokens": 16},
        {"die_after": 0},
    ]
    for fault in faults:
        async with egress_trap() as trap, engine_running(**fault) as home:
            config = several(
                m={"engines": [home], "pools": ["b"], "fallbacks": falling_back("b")},
                b={"engines": [trap.url], "pool": CLOUD},
            )
            async with serving(config | more) as server:
                await ask_all(server, headers, (200, 400, 502, 503))
                assert trap.connections == 0


async def test_r11_with_everything_on_premise_down_the_answer_is_that_it_is_down() -> None:
    with nobody() as dead:
        async with egress_trap() as trap:
            config = several(
                m={"engines": [dead], "pools": ["b"], "fallbacks": {"error": ["b"]}},
                b={"engines": [trap.url], "pool": CLOUD},
            )
            async with serving(config) as server:
                for _ in range(6):
                    answer = await server.post(CHAT, chat(SECRET), **SENSITIVE)
                    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_healthy_backend")
                assert "1 are configured" in answer.json()["error"]["message"]
                assert trap.connections == 0


@pytest.mark.parametrize("body", [chat(SECRET), streamed(SECRET)], ids=["whole", "stream"])
async def test_r11_a_hedge_does_not_lead_there(body: Json) -> None:
    async with egress_trap() as trap, engine_by_hand() as home:
        config = several(m={"engines": [home], "pools": ["away"], "hedge": {"after": 0.02, "max_share": 1.0}})
        config["pools"]["away"] = {"urls": [trap.url], **CLOUD}
        async with serving(config) as server, asyncio.TaskGroup() as group:
            call = group.create_task(server.post(CHAT, body, **SENSITIVE))
            turn = await home.turn()
            await asyncio.sleep(0.1)
            turn.send(whole(b"{}", "400 Bad Request"))
            assert (await call).status_code == 400
            assert trap.connections == 0


async def test_r11_what_asks_a_cloud_for_its_health_says_nothing_of_requests() -> None:
    async with egress_trap() as trap, engine_running() as home:
        config = several(m={"engines": [home], "pools": ["away"]})
        config["pools"]["away"] = {"urls": [trap.url], **CLOUD, "probe": {"every_s": 0.01, "idle_s": 0.01}}
        async with serving(config) as server:
            await ask_all(server, SENSITIVE, (200,))
            for replica in server.gateway.pools["away"].replicas:
                await replica.engine.healthy()
            await settled(lambda: not trap.seen, "never asked")
        requests = [line for line in bytes(trap.seen).split(b"\r\n") if b"HTTP/1.1" in line]
        assert set(requests) == {b"GET /health HTTP/1.1"}
        assert b"Marrow" not in trap.seen
        assert b"x-request-id" not in trap.seen


async def test_r11_what_is_not_sensitive_may_go_there() -> None:
    async with engine_running() as cloud, serving(several(m={"engines": [cloud], "pool": CLOUD})) as server:
        assert (await server.post(CHAT, chat())).status_code == 200
        assert (await server.post(CHAT, chat(), x_headrace_sensitivity="internal")).status_code == 200
        assert [record["sensitivity"] for record in await server.records(2)] == ["internal", "internal"]


async def test_r11_a_tenants_class_holds_whatever_its_keys_say() -> None:
    keys = [
        {"name": "plain", "key": "key-plain", "tenant": "clinic"},
        {"name": "loose", "key": "key-loose", "tenant": "clinic", "sensitivity": "public"},
        {"name": "other", "key": "key-other", "tenant": "shop"},
    ]
    async with engine_running() as cloud:
        config = several(m={"engines": [cloud], "pool": CLOUD})
        config |= {"auth": {"keys": keys}, "residency": {"tenants": {"clinic": "restricted"}}}
        async with serving(config) as server, server.client() as client:
            statuses = []
            for key in keys:
                headers = {"authorization": f"Bearer {key['key']}"}
                statuses.append((await client.post(CHAT, json=chat(), headers=headers)).status_code)
            assert statuses == [403, 403, 200]


async def test_r11_the_header_only_tightens_and_an_unknown_class_is_refused() -> None:
    async with engine_running() as cloud, engine_running() as home:
        config = several(m={"engines": [cloud], "pool": CLOUD}, h={"engines": [home]}) | BY_KEY
        key = {"authorization": "Bearer key-for-tests"}
        async with serving(config) as server, server.client() as client:
            relaxed = await client.post(CHAT, json=chat(), headers=key | {"x-headrace-sensitivity": "public"})
            assert relaxed.status_code == 403
            wrong = await client.post(CHAT, json=chat(), headers=key | {"x-headrace-sensitivity": "secret"})
            error = wrong.json()["error"]
            assert (wrong.status_code, error["code"]) == (400, "invalid_sensitivity")
            assert error["param"] == "x-headrace-sensitivity"
            assert "public, internal, confidential, restricted" in error["message"]
            lines = [*key.items(), ("x-headrace-sensitivity", "restricted"), ("x-headrace-sensitivity", "public")]
            await client.post(CHAT, json=chat() | {"model": "h"}, headers=lines)
            joined = key | {"x-headrace-sensitivity": "restricted, public"}
            await client.post(CHAT, json=chat() | {"model": "h"}, headers=joined)
            records = await server.records(4)
            assert [record.get("sensitivity", "") for record in records] == [
                "confidential",
                "",
                "restricted",
                "restricted",
            ]


async def test_r11_calls_of_different_classes_share_no_cached_answer() -> None:
    async with (
        engine_running() as home,
        serving(several(m={"engines": [home]}) | {"cache": {"enabled": True, "store": "memory"}}) as server,
    ):
        for headers in ({}, SENSITIVE, {}, SENSITIVE):
            await server.post(CHAT, chat(SECRET), **headers)
        assert [record["cache"] for record in await server.records(4)] == ["miss", "miss", "hit", "hit"]


async def test_r11_no_span_of_a_sensitive_request_goes_to_a_collector_in_the_cloud() -> None:
    async with egress_trap() as trap, engine_running() as home:
        tracing = {"otlp_endpoint": trap.url, "site": "cloud"}
        config = several(m={"engines": [home]}) | {"telemetry": {"tracing": tracing}}
        config["telemetry"]["access_log"] = {"format": "off"}
        async with serving(config) as server:
            await ask_all(server, SENSITIVE, (200,))
        assert trap.connections == 0
        async with serving(config) as server:
            await server.post(CHAT, chat())
        assert b"POST /v1/traces" in trap.seen


# The classifier


@pytest.mark.parametrize("name", ["broken", "mistaken", "slow"])
async def test_a_classifier_that_cannot_say_makes_it_the_most_sensitive_class(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    options = {"classifier": f"tests.gateway.test_r11_residency:{name}", "classifier_timeout_s": 0.1}
    async with egress_trap() as trap:
        config = several(m={"engines": [trap.url], "pool": CLOUD}) | {"residency": options}
        async with serving(config) as server:
            assert (await server.post(CHAT, chat(SECRET))).status_code == 403
            assert trap.connections == 0
    assert "Marrow" not in caplog.text


async def test_a_classifier_only_tightens_and_may_find_nothing() -> None:
    async with egress_trap() as trap, engine_running() as home:
        config = several(m={"engines": [trap.url], "pool": CLOUD}, h={"engines": [home]})
        options = {"classifier": "tests.gateway.test_r11_residency:relaxed"}
        async with serving(config | {"residency": options}) as server:
            headers = {"x-headrace-sensitivity": "confidential"}
            assert (await server.post(CHAT, chat(), **headers)).status_code == 403
        options = {"classifier": "tests.gateway.test_r11_residency:detect"}
        async with serving(config | {"residency": options}) as server:
            assert (await server.post(CHAT, chat() | {"model": "h"})).status_code == 200
            assert (await server.records())[0]["sensitivity"] == "internal"
        assert trap.connections == 0


def test_a_classifier_gets_every_text_of_a_body_in_its_order() -> None:
    body = {
        "model": "m",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"image_url": {"url": "data:x"}}]},
            {"role": "tool", "content": "two"},
        ],
        "tools": [{"function": {"description": "three", "parameters": {"enum": ["four", 5, None, True]}}}],
    }
    assert texts_of(json.dumps(body).encode()) == [
        *("m", "user", "text", "one", "data:x", "tool", "two", "three", "four"),
    ]


@pytest.mark.parametrize("body", [{"prompt": [1, 2]}, {"input": [[1], [2]]}, {"tokens": [7]}, {"prompt": 1}])
def test_token_ids_say_nothing_to_a_classifier(body: Json) -> None:
    assert texts_of(json.dumps(body).encode()) is None


def test_texts_and_no_token_ids_may_stand_where_ids_could() -> None:
    assert texts_of(b'{"prompt": ["a", "b"], "tokens": true}') == ["a", "b"]
    with pytest.raises(InvalidRequest):
        texts_of(b"{")


@pytest.mark.parametrize(("name", "error"), [("nothing", AttributeError), ("no_function", TypeError)])
async def test_a_classifier_that_does_not_exist_is_told_at_the_start(name: str, error: type[Exception]) -> None:
    config = several(m={"engines": ["http://127.0.0.1:9"]})
    config["residency"] = {"classifier": f"tests.gateway.test_r11_residency:{name}"}
    with pytest.raises(error):
        async with serving(config):
            pass


# The decision


def residency_of(residency: Json, **pools: Json) -> Residency:
    return Residency(Config.model_validate({"pools": pools, "residency": residency}))


def cleared(residency: Residency, name: str) -> Any:
    return residency.of_key(Caller("k", "t", sensitivity=name)).pools


def test_what_is_said_of_a_class_holds_for_the_more_sensitive_ones() -> None:
    pools: Json = {
        "home": {"labels": {"region": "eu", "tier": "gold"}},
        "far": {"labels": {"region": "us"}},
        "cloud": {"site": "cloud", "labels": {"region": "eu"}},
    }
    residency = residency_of(
        {
            "classes": ["a", "b", "c", "d"],
            "default": "a",
            "sites": {"c": ["on-premise"], "d": ["on-premise", "cloud"]},
            "labels": {"b": {"region": "eu"}, "d": {"tier": "gold"}},
        },
        **pools,
    )
    assert cleared(residency, "a") is None
    assert cleared(residency, "b") == {"home", "cloud"}
    assert cleared(residency, "c") == {"home"}
    assert cleared(residency, "d") == {"home"}
    assert cleared(residency, "unheard of") == {"home"}, "what is not known is not allowed"
    assert residency.strictest.name == "d"


def test_onprem_is_a_way_to_write_on_premise() -> None:
    config = Config.model_validate({"pools": {"p": {"site": "onprem", "urls": ["https://api.openai.com"]}}})
    assert config.pools["p"].site == "on-premise"


@pytest.mark.parametrize(
    ("pool", "site"),
    [
        ({"urls": ["http://10.0.0.1:8000", "http://gpu7"]}, "on-premise"),
        ({"urls": ["http://10.0.0.1:8000", "https://api.openai.com"]}, "cloud"),
        ({"engine": {"kind": "bedrock"}}, "cloud"),
        ({"engine": {"kind": "llamacpp"}}, "on-premise"),
        ({"dns": {"name": "vllm.default.svc.cluster.local"}}, "on-premise"),
        ({"dns": {"name": "vllm.example.com"}}, "cloud"),
        ({"urls": "no list", "engine": None, "dns": 3}, "on-premise"),
        ({"urls": ["http://[broken"]}, "cloud"),
        ({}, "on-premise"),
    ],
)
def test_a_pool_that_does_not_say_where_it_stands_counts_as_cloud_if_it_may_be_one(pool: Json, site: str) -> None:
    assert likely_site(pool) == site


def test_a_pool_of_the_configuration_takes_that_guess_and_may_say_otherwise() -> None:
    text = "pools: {a: {urls: ['https://llm.example.com']}, b: {urls: ['https://llm.example.com'], site: on-premise}}"
    pools = parse_config(text).pools
    assert (pools["a"].site, pools["b"].site) == ("cloud", "on-premise")
    assert site_of("http://") == "cloud"


# What is refused when the configuration loads


def findings(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    return [f"{p.key}: {p.message} ({p.hint})" for p in caught.value.problems if p.severity == "error"]


def test_classes_that_do_not_exist_are_refused_with_a_suggestion() -> None:
    known = "there is: confidential, internal, public, restricted"
    assert findings(
        "auth: {keys: [{name: a, key: k, sensitivity: restrictd}]}\n"
        "residency: {default: nope, sites: {x: [cloud]}, labels: {y: {region: eu}}}\n"
    ) == [
        'auth.keys[0].sensitivity: "restrictd" is none of residency.classes (did you mean "restricted"?)',
        f'residency.default: "nope" is none of residency.classes ({known})',
        f'residency.sites.x: "x" is none of residency.classes ({known})',
        f'residency.labels.y: "y" is none of residency.classes ({known})',
    ]


def test_classes_of_ones_own_need_sites_of_their_own() -> None:
    found = findings("residency: {classes: [open, closed, open], default: open}")
    assert found[0] == (
        "residency: there are classes of your own, and nothing says to which sites they may go "
        "(add `sites: {CLASS: [on-premise]}`)"
    )
    assert found[1:] == [
        'residency.classes[2]: "open" stands twice (each class once)',
    ]


def test_a_collector_that_may_stand_in_a_cloud_is_warned_of() -> None:
    from gateway.config.checks import check

    def warned(site: Json) -> list[str]:
        tracing = {"otlp_endpoint": "https://otlp.example.com", **site}
        config = Config.model_validate({"telemetry": {"tracing": tracing}})
        return [f.message for f in check(config) if f.path[:2] == ("telemetry", "tracing")]

    assert warned({}) == ["the collector counts as on-premise, but its address is not a private one"]
    assert warned({"site": "cloud"}) == warned({"site": "on-premise"}) == []
