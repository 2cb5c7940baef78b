"""What a tenant is to the queues of all deployments, and whose requests a trusted proxy passes on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from gateway.config import QueueOptions
from gateway.config.limit_options import TenantOptions
from gateway.directory.entries import OrganisationEntry
from gateway.priority import priority_of
from gateway.standing import ALL_ALIKE, MAX_FLOW_BYTES, Standing, Weights, flow_of
from tests.harness import Json, Server, chat, config_of, engine_running, serving, settled

DIRECTORY = {"acme": OrganisationEntry("acme", weight=4.0, priority=3), "new": OrganisationEntry("new", weight=0.5)}


def standing(**tenants: Json) -> Standing:
    named = {name: TenantOptions.model_validate(options) for name, options in tenants.items()}
    return Standing(named, DIRECTORY.get)


@pytest.mark.parametrize(
    ("tenants", "tenant", "expected"),
    [
        ({}, "nobody", (1.0, 0)),
        ({}, "acme", (4.0, 3)),
        ({"acme": {}}, "acme", (4.0, 3)),
        ({"acme": {"weight": 1.0}}, "acme", (1.0, 3)),
        ({"acme": {"priority": 0}}, "acme", (4.0, 0)),
        ({"acme": {"weight": 2, "priority": 1}}, "acme", (2.0, 1)),
    ],
)
def test_what_the_configuration_says_of_a_tenant_goes_before_the_directory(
    tenants: dict[str, Json], tenant: str, expected: tuple[float, int]
) -> None:
    found = standing(**tenants)
    assert (found.weight(tenant), found.priority(tenant)) == expected
    assert (ALL_ALIKE.weight(tenant), ALL_ALIKE.priority(tenant)) == (1.0, 0)


def test_what_a_queue_says_of_a_tenant_goes_before_what_holds_everywhere() -> None:
    weights = Weights({"acme": 0.25}, standing(other={"weight": 8}))
    assert [weights.get(name, 1.0) for name in ("acme", "other", "new", "nobody")] == [0.25, 8.0, 0.5, 1.0]


QUEUE = QueueOptions(classes={"urgent": 1}, objectives={"chat": 0, "nightly": 7})


@pytest.mark.parametrize(
    ("key", "headers", "expected"),
    [
        ("any", {}, 3),
        ("urgent", {}, 1),
        ("any", {b"x-headrace-priority": b"0"}, 3),
        ("any", {b"x-headrace-priority": b"5"}, 5),
        ("any", {b"x-gateway-inference-objective": b"chat"}, 3),
        ("any", {b"x-gateway-inference-objective": b"nightly"}, 7),
    ],
)
def test_a_caller_may_lower_its_tenants_class_and_never_raise_it(
    key: str, headers: dict[bytes, bytes], expected: int
) -> None:
    assert priority_of(key, headers, QUEUE, standing().priority("acme")) == expected


@pytest.mark.parametrize(
    ("headers", "flow"),
    [
        ({}, ""),
        ({b"x-gateway-inference-fairness-id": b"team-7"}, "team-7"),
        ({b"x-gateway-inference-fairness-id": b"\xff\x00'; --"}, "\xff\x00'; --"),
        ({b"x-gateway-inference-fairness-id": b"x" * 5000}, "x" * MAX_FLOW_BYTES),
    ],
)
def test_a_flow_has_any_name_of_bounded_length(headers: Mapping[bytes, bytes], flow: str) -> None:
    assert flow_of(headers) == flow


async def until_waiting(server: Server, count: int) -> None:
    (room,) = server.gateway.rooms
    await settled(lambda: None if len(room) == count else len(room) + 1, f"not {count} wait")


async def order_of(server: Server, engine: Any, asked: Sequence[tuple[str, dict[str, str]]]) -> list[str]:
    """In which order calls are served that all wait: each by its key and headers; their keys' names."""
    async with AsyncExitStack() as stack:
        engine.hold()
        first = await stack.enter_async_context(server.asking(chat("first"), authorization="Bearer key-of-first"))
        await settled(lambda: not engine.stats.requests, "nothing was sent")
        wires = []
        for number, (key, headers) in enumerate(asked):
            body = chat(f"{key} {headers.get('x_gateway_inference_fairness_id', '')}")
            wires.append(
                await stack.enter_async_context(server.asking(body, authorization=f"Bearer key-of-{key}", **headers))
            )
            await until_waiting(server, number + 1)
        engine.release()
        for wire in (first, *wires):
            assert (await wire.answer()).status == 200
    return [json.loads(request.body)["messages"][0]["content"].strip() for request in engine.requests[1:]]


def config(engine: Any, tenants: Json, *names: str, **key: Any) -> Json:
    keys: list[Json] = [{"name": n, "key": f"key-of-{n}", "tenant": n, **key} for n in ("first", *names)]
    made = config_of(engine, pool={"max_in_flight": 1}, keys=keys, queue={"age_s": 100})
    return made | {"tenants": tenants}


async def test_a_tenant_of_a_better_class_goes_first_at_every_deployment() -> None:
    async with (
        engine_running() as engine,
        serving(config(engine, {"batch": {"priority": 5}}, "batch", "app")) as server,
    ):
        asked: list[tuple[str, dict[str, str]]] = [("batch", {}), ("batch", {"x_headrace_priority": "0"}), ("app", {})]
        assert await order_of(server, engine, asked) == ["app", "batch", "batch"]


async def test_a_tenant_with_a_larger_share_has_more_turns_at_every_deployment() -> None:
    async with (
        engine_running() as engine,
        serving(config(engine, {"b": {"weight": 3}}, "a", "b")) as server,
    ):
        assert await order_of(server, engine, [("a", {})] * 3 + [("b", {})] * 3) == ["a", "b", "b", "b", "a", "a"]


@pytest.mark.parametrize(
    ("trusted", "expected"),
    [
        (True, ["proxy heavy", "proxy light", "proxy heavy", "proxy heavy"]),
        (False, ["proxy heavy"] * 3 + ["proxy light"]),
    ],
)
async def test_r09_flows_of_a_trusted_proxy_take_turns_and_others_are_not_believed(
    trusted: bool, expected: list[str]
) -> None:
    async with (
        engine_running() as engine,
        serving(config(engine, {}, "proxy", may_name_flow=trusted)) as server,
    ):
        flows = ["heavy", "heavy", "heavy", "light"]
        asked = [("proxy", {"x_gateway_inference_fairness_id": flow}) for flow in flows]
        assert await order_of(server, engine, asked) == expected
