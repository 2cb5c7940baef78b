"""`POST /admin/explain` and `headrace explain`: where a request would go, and why not elsewhere."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from gateway.app import Gateway
from gateway.cli import app
from gateway.cli.explain import explain_cold
from gateway.cli.explain_output import show
from gateway.config import Config
from gateway.explanation import Explanation, ReplicaView, VariantReport
from gateway.replicas import Ramp, Replica
from tests.harness import (
    CHAT,
    Json,
    Server,
    chat,
    config_of,
    engine_running,
    events_in,
    nobody,
    serving,
    settled,
    streamed,
)

ADMIN = "/admin/explain"
TOKENIZER = Path(__file__).parent / "prompts/data/tiny"
KEYS: list[Json] = [
    {"name": "ops", "key": "sk-ops", "admin": True, "tenant": "house"},
    {"name": "team", "key": "sk-team"},
]
LONG = chat("What is told here is long enough for several blocks. " * 60)
TWO = ["http://127.0.0.1:9", "http://127.0.0.1:19"]


async def told(server: Server, body: object = LONG, query: str = "", **headers: str) -> Explanation:
    answer = await server.post(ADMIN + query, body, **headers)
    assert answer.status_code == 200, answer.text
    return msgspec.json.decode(answer.content, type=Explanation)


def only(found: Explanation) -> VariantReport:
    (variant,) = found.variants
    return variant


def by_name(found: Explanation) -> dict[str, ReplicaView]:
    return {one.name: one for variant in found.variants for one in variant.replicas}


def replicas(gateway: Gateway) -> tuple[Replica, ...]:
    return gateway.pools["p"].replicas


def codes(one: ReplicaView) -> tuple[list[str], list[str]]:
    return [note.code for note in one.vetoes], [note.code for note in one.notes]


def shown(found: Explanation) -> str:
    out = io.StringIO()
    show(found, Console(file=out, width=220))
    return out.getvalue()


def state_of(server: Server) -> list[object]:
    """Whatever a decision leaves behind."""
    kept: list[object] = []
    for one in server.gateway.replicas:
        kept += [repr(one), repr(one.load), repr(one.slot), repr(one.breaker), repr(one.load.speed)]
    return kept


def command(*arguments: str, stdin: str | None = None, **env: str) -> Result:
    blank: dict[str, str | None] = {"HEADRACE_URL": None, "HEADRACE_KEY": None, "HEADRACE_CONFIG": None}
    return CliRunner().invoke(app, ["explain", *arguments], env={**blank, **env}, input=stdin)


# What is told


async def test_every_candidate_is_told_with_every_term_and_the_one_that_gets_the_request_is_marked() -> None:
    async with engine_running() as one, engine_running() as two, serving(config_of(one, two)) as server:
        sent_to = (await server.post(CHAT, LONG)).headers["x-headrace-replica"]
        found = await told(server)
        assert (found.worker, found.deployment, found.policy) == (0, "m", "marginal_latency")
        assert (found.operation, found.stream, found.sensitivity) == ("chat/completions", False, "internal")
        views = by_name(found)
        assert set(views) == {"p-0", "p-1"}
        for view in views.values():
            assert {"backlog_s", "prefill_s", "cost"} <= set(view.terms)
            assert view.predicted_ttft_s > 0.0
            assert codes(view) == ([], [])
        assert views[sent_to].cached_tokens > 0
        assert views[sent_to].cached_known == "predicted"
        assert sum(view.chance for view in views.values()) == pytest.approx(1.0)
        (marked,) = [view.name for view in views.values() if view.chosen]
        assert (await server.post(CHAT, LONG)).headers["x-headrace-replica"] == marked
        text = shown(found)
        assert f"→  {marked}" in text
        assert "by the books of worker 0" in text


async def test_how_the_request_was_read_is_told() -> None:
    queue = {"classes": {"ops": 1}}
    async with engine_running() as engine, serving(config_of(engine, keys=KEYS, queue=queue)) as server:
        body = {**LONG, "cache_salt": "a", "stream": True}
        headers = {"authorization": "Bearer sk-ops", "x-session-id": "alice", "x-headrace-priority": "4"}
        found = await told(server, body, **headers, **{"x-headrace-sensitivity": "confidential"})
        assert (found.key, found.tenant, found.sensitivity, found.stream) == ("ops", "house", "confidential", True)
        prompt, waits = only(found).prompt, only(found).queue
        assert (prompt.session, prompt.cache_salt, prompt.counted, prompt.blocks_of) == ("alice", True, False, "bytes")
        assert prompt.prefix_blocks * 256 <= len(LONG["messages"][0]["content"]) + 100
        assert prompt.prompt_tokens > 500
        assert (waits.outcome, waits.priority, waits.ahead, waits.hold_over_s) == ("sent", 4, 0, 2.0)
        text = shown(found)
        assert "session: alice; with a cache_salt" in text
        assert "key 'ops', tenant 'house', class 'confidential'" in text


async def test_the_operation_is_named_or_read_from_the_body() -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        for body, operation in (
            ({"model": "m", "prompt": "a"}, "completions"),
            ({"model": "m", "input": "a"}, "embeddings"),
            (chat(), "chat/completions"),
        ):
            assert (await told(server, body)).operation == operation
        assert (await told(server, chat(), "?operation=completions")).operation == "completions"
        assert (await server.post(f"{ADMIN}?operation=fly", chat())).status_code == 400


# What is not changed


@pytest.mark.parametrize("policy", ["marginal_latency", "round_robin", "random", "session", "power_of_two"])
async def test_explaining_changes_nothing_that_routing_goes_by(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine_running() as one, engine_running() as two, serving(config_of(one, two, policy=policy)) as server:
        await server.post(CHAT, LONG)
        gateway = server.gateway
        deployment = gateway.pipeline.catalog.deployments[0]
        before, index = state_of(server), repr(gateway._knowledge.index)
        monkeypatch.setattr(deployment.policy, "choose", None)  # what takes turns or draws is not asked
        for _ in range(3):
            await told(server)
        assert state_of(server) == before
        assert repr(gateway._knowledge.index) == index
        assert one.stats.requests + two.stats.requests == 1


async def test_whose_turn_it_is_is_told_and_stays() -> None:
    async with (
        engine_running() as one,
        engine_running() as two,
        serving(config_of(one, two, policy="round_robin")) as server,
    ):
        for expected in ("p-0", "p-1", "p-0"):
            for _ in range(2):
                views = by_name(await told(server))
                assert [name for name, view in views.items() if view.chosen] == [expected]
            assert (await server.post(CHAT, chat())).headers["x-headrace-replica"] == expected


async def test_where_chance_decides_every_one_that_may_win_is_marked() -> None:
    async with (
        engine_running() as one,
        engine_running() as two,
        serving(config_of(one, two, policy="random")) as server,
    ):
        views = by_name(await told(server)).values()
        assert all(view.chosen and 0.2 < view.chance < 0.8 for view in views)


# Vetoes


async def test_a_replica_that_may_not_be_asked_is_told_with_every_reason() -> None:
    config = config_of(*(f"http://127.0.0.1:{port}" for port in range(9, 16)), pool={"max_in_flight": 1})
    async with serving(config) as server:
        open_, resting, full, probing, half, busy, well = replicas(server.gateway)
        now_s = server.gateway._clock.monotonic()
        for one, at_s in ((open_, now_s), (probing, now_s - 100), (half, now_s - 100)):
            for _ in range(3):
                one.breaker.failed(at_s, probe=False)
        open_.last_error = "it died with sk-1234567890abcdef"
        resting.rests_until_s = now_s + 30.0
        probing.breaker.sent()
        busy.busy_until_s = server.gateway.pipeline.dispatcher._chooser._busy_until_s = now_s + 60.0
        with full.lease(now_s):
            found = await told(server)
        views = by_name(found)
        assert [codes(views[f"p-{i}"]) for i in range(7)] == [
            (["breaker"], []),
            (["resting"], []),
            (["max_in_flight"], []),
            (["breaker"], []),
            ([], ["half_open"]),
            ([], ["busy"]),
            ([], []),
        ]
        assert views["p-0"].vetoes[0].text.startswith("its breaker is open for another 0.")
        assert "sk-1234567890abcdef" not in views["p-0"].vetoes[0].text
        assert "left alone for another 29." in views["p-1"].vetoes[0].text or "30.0" in views["p-1"].vetoes[0].text
        assert views["p-2"].vetoes[0].text == "has 1 in flight; max_in_flight is 1"
        assert "finding out" in views["p-3"].vetoes[0].text
        assert all(not views[name].terms for name in ("p-0", "p-1", "p-2", "p-3", "p-5"))
        assert well.name == "p-6"
        assert "p-2 is not asked: has 1 in flight" in shown(found)


async def test_the_residency_class_and_weight_zero_keep_replicas_away() -> None:
    """R11."""
    config = config_of(TWO[0], pool={"site": "on-premise"})
    config["pools"]["c"] = {"urls": [TWO[1]], "site": "cloud"}
    variants = {"v": {"pools": ["p", "c"]}, "w": {"pools": ["p"], "weight": 0}}
    config["deployments"]["m"]["variants"] = variants
    config["residency"] = {"default": "confidential", "sites": {"confidential": ["on-premise"]}}
    async with serving(config) as server:
        found = await told(server)
        one, other = found.variants
        assert (one.share, other.share) == (1.0, 0.0)
        assert [codes(view) for view in one.replicas] == [([], []), (["residency"], [])]
        assert one.replicas[1].vetoes[0].text == "pool 'c' may get nothing of class 'confidential'"
        assert [codes(view)[0] for view in other.replicas] == [["weight"]]
        assert other.queue.outcome == "refused"


async def test_a_variant_that_lacks_what_the_request_needs_is_told() -> None:
    config = config_of(TWO[0])
    config["deployments"]["m"]["variants"] = {
        "v": {"pools": ["p"], "capabilities": []},
        "w": {"pools": ["p"], "capabilities": ["tools"]},
    }
    async with serving(config) as server:
        found = await told(server, chat(tools=[{"type": "function", "function": {"name": "f"}}]))
        assert [variant.share for variant in found.variants] == [0.0, 1.0]
        assert [codes(variant.replicas[0])[0] for variant in found.variants] == [["capabilities"], []]


async def test_replicas_that_warm_drain_or_start_slowly_are_told() -> None:
    async with serving(config_of(*TWO, "http://127.0.0.1:29", "http://127.0.0.1:39")) as server:
        pool, now_s = server.gateway.pools["p"], server.gateway._clock.monotonic()
        warm, draining, slow, _ = pool.replicas
        slow.ramp = Ramp(now_s, 1000.0)
        pool.warm(warm)
        with draining.lease(now_s):
            pool.drain(draining)
            views = by_name(await told(server))
            pool.drained(draining)
        assert codes(views["p-0"]) == (["warming"], [])
        assert codes(views["p-1"]) == (["draining"], [])
        assert codes(views["p-2"]) == ([], ["slow_start"])
        assert views["p-2"].chance < 0.3
        assert views["p-3"].chosen
        pool.replicas = (*pool.replicas, warm, draining)
        pool.warming = ()


async def test_a_pool_that_sleeps_and_one_without_replicas_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_STATE", str(tmp_path))
    with nobody() as url:
        zero = {"wake": {"command": ["sleep", "30"]}, "wait_s": 20}
        async with serving(config_of(url, pool={"scale_to_zero": zero})) as server:
            (replica,) = replicas(server.gateway)
            for _ in range(3):
                replica.breaker.failed(server.gateway._clock.monotonic(), probe=False)
            found = await told(server)
            assert codes(by_name(found)["p-0"]) == (["asleep"], [])
            assert only(found).queue.outcome == "refused"
            pool = server.gateway.pools["p"]
            kept, pool.replicas = pool.replicas, ()
            assert [note.code for note in only(await told(server)).notes] == ["empty"]
            pool.replicas = kept


async def test_that_a_deployment_spills_is_told() -> None:
    config = config_of(TWO[0], spill={"ttft_s": 2.0})
    config["pools"]["c"] = {"urls": [TWO[1]], "site": "cloud"}
    config["deployments"]["m"]["variants"]["v"]["pools"].append("c")
    async with serving(config) as server:
        found = await told(server)
        assert [note.code for note in found.notes] == ["spill"]
        assert "it spills" in shown(found)


def secretive(texts: list[str]) -> str:
    """A classifier."""
    return "restricted"


async def test_the_classifier_has_its_say() -> None:
    config = config_of(TWO[0])
    config["residency"] = {"classifier": f"{__name__}:secretive"}
    async with serving(config) as server:
        assert (await told(server)).sensitivity == "restricted"


# The queue


def busy(replica: Replica, now_s: float) -> Any:
    """So many prompts ahead that the next one waits; the speed is known."""
    for _ in range(20):
        replica.load.speed.learn(1.0, 10_000, 0, opening=True)
    return replica.lease(now_s, 100_000, 0, 10.0)


async def test_prompts_ahead_and_a_full_kv_cache_make_it_wait() -> None:
    async with serving(config_of(TWO[0], queue={"hold_over_s": 1.5})) as server:
        (replica,) = replicas(server.gateway)
        with busy(replica, server.gateway._clock.monotonic()):
            found = await told(server)
            assert codes(by_name(found)["p-0"]) == ([], ["prompts_ahead"])
            assert only(found).queue.outcome == "waits"
            assert "queue.hold_over_s, 1.5 s" in only(found).queue.reason
            assert "it would wait in class 0: the replica that is best for it" in shown(found)
            replica.load.kv_capacity_tokens = 1000
            (view,) = by_name(await told(server)).values()
            assert codes(view) == ([], ["kv_cache_full"])
            assert view.kv_usage is not None
            assert view.kv_usage > 1.0


async def test_requests_that_wait_already_are_told() -> None:
    async with engine_running() as engine, serving(config_of(engine, pool={"max_in_flight": 1})) as server:
        engine.hold()
        room = server.gateway.rooms[0]
        async with server.asking(streamed()) as first:
            await engine.arrived()
            async with server.asking(streamed()) as second:
                await settled(lambda: None if len(room) else "nobody", "nobody waits", 5.0)
                waits = only(await told(server)).queue
                assert (waits.outcome, waits.ahead) == ("waits", 1)
                engine.release()
                assert events_in((await first.answer()).body)
                assert events_in((await second.answer()).body)


async def test_while_tenants_compete_the_limit_is_lower() -> None:
    async with engine_running() as engine, serving(config_of(engine, keys=KEYS)) as server:
        for key in ("sk-team", "sk-ops"):
            assert (await server.post(CHAT, chat(), authorization=f"Bearer {key}")).status_code == 200
        (replica,) = replicas(server.gateway)
        with busy(replica, server.gateway._clock.monotonic()):
            (view,) = by_name(await told(server, authorization="Bearer sk-ops")).values()
            assert "while tenants compete" in view.notes[0].text


async def test_places_that_are_kept_for_others_are_told() -> None:
    config = config_of(TWO[0], keys=KEYS, pool={"max_in_flight": 64})
    async with serving(config) as server:
        room, (replica,) = server.gateway.rooms[0], replicas(server.gateway)
        assert room.lets_pass("one")
        assert not room.lets_pass("other")
        leases = [replica.lease(0.0) for _ in range(61)]
        assert only(await told(server, authorization="Bearer sk-ops")).queue.outcome == "sent"
        leases.append(replica.lease(0.0))
        waits = only(await told(server, authorization="Bearer sk-ops")).queue
        assert (waits.outcome, waits.reason) == ("waits", "the last places are kept for tenants that had less")
        for lease in leases:
            lease.give_back()


# Who may ask


async def test_it_takes_a_key_for_administration_and_a_call_that_would_be_taken() -> None:
    async with engine_running() as engine, serving(config_of(engine, keys=KEYS)) as server:
        assert (await server.post(ADMIN, chat())).status_code == 401
        refused = await server.post(ADMIN, chat(), authorization="Bearer sk-team")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_admin")
        unknown = await server.post(ADMIN, {"model": "x"}, authorization="Bearer sk-ops")
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
        broken = await server.post(ADMIN, b"{", authorization="Bearer sk-ops")
        assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_json")


# The command


@pytest.fixture
def request_file(tmp_path: Path) -> str:
    file = tmp_path / "request.json"
    file.write_text(json.dumps(LONG))
    return str(file)


async def test_the_command_shows_what_the_gateway_tells(request_file: str) -> None:
    async with engine_running() as engine, serving(config_of(engine, keys=KEYS)) as server:
        flags = ("--live", "--url", server.url, "--header", "x-session-id=bob", "--operation", "chat")
        result = await asyncio.to_thread(command, request_file, *flags, "--json", HEADRACE_KEY="sk-ops")
        assert result.exit_code == 0, result.stderr
        found = msgspec.json.decode(result.stdout, type=Explanation)
        assert (found.worker, only(found).prompt.session) == (0, "bob")
        result = await asyncio.to_thread(command, request_file, *flags, "--key", "sk-ops")
        assert "→  p-0" in result.stdout
        wrong = await asyncio.to_thread(command, request_file, *flags, "--key", "sk-team")
        assert wrong.exit_code == 1
        assert wrong.stderr.startswith(f"{server.url}{ADMIN}: 403 Key 'team' may not see this")
        deep = await asyncio.to_thread(command, request_file, "--live", "--url", f"{server.url}/deep")
        assert "404 There is nothing" in deep.stderr


def test_a_gateway_that_is_away_is_told(request_file: str) -> None:
    with nobody() as url:
        result = command(request_file, "--live", "--url", url)
    assert (result.exit_code, result.stderr) == (1, f"{url}{ADMIN}: Connection refused\n")
    assert command(request_file, "--live", "--url", "gateway:8080").exit_code == 2


@pytest.mark.parametrize("answer", [b"[]", b""])
async def test_what_is_no_gateway_is_told(request_file: str, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer))
        else:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        result = await asyncio.to_thread(command, request_file, "--live", "--url", url, "--timeout", "0.2")
        assert result.exit_code == 1
        assert ("no Headrace of this version" if answer else "no answer within 0.2 s") in result.stderr
    finally:
        server.close()


def test_without_live_it_is_told_from_the_configuration_alone(tmp_path: Path, request_file: str) -> None:
    config = config_of(*TWO, keys=KEYS)
    config["pools"]["own"] = {"engine": {"kind": "fake"}, "replicas": 2}
    config["deployments"]["m"]["variants"]["v"]["pools"].append("own")
    file = tmp_path / "headrace.yaml"
    file.write_text(json.dumps(config))
    result = command(request_file, "--config", str(file), "--key", "sk-team")
    assert result.exit_code == 0, result.output
    assert "from the configuration alone" in result.stdout
    assert "key 'team'" in result.stdout
    found = msgspec.json.decode(
        command("-", "-c", str(file), "--json", stdin=json.dumps(LONG)).stdout, type=Explanation
    )
    assert found.worker is None
    assert list(by_name(found)) == ["p-0", "p-1", "own-0", "own-1"]
    refused = command("-", "-c", str(file), stdin=json.dumps({"model": "x"}))
    assert (refused.exit_code, refused.stderr[:25]) == (1, "it would be refused: 404 ")
    assert "it would be refused: 401" in command(request_file, "-c", str(file), "--key", "no").stderr


def test_without_live_prompts_are_counted_by_the_tokenizer_if_it_is_there(tmp_path: Path) -> None:
    config = config_of(TWO[0])
    variant = config["deployments"]["m"]["variants"]["v"]
    body = json.dumps({"model": "m", "prompt": "hello there " * 50}).encode()
    for folder, counted in ((TOKENIZER, True), (tmp_path / "none", False)):
        variant["tokenizer"] = str(folder)
        prompt = only(explain_cold(Config.model_validate(config), body, {}, "")).prompt
        assert (prompt.counted, prompt.blocks_of) == (counted, "tokens" if counted else "bytes")


def test_wrong_arguments_are_told(tmp_path: Path, request_file: str) -> None:
    assert command(request_file, "--operation", "fly").exit_code == 2
    assert command(request_file, "--header", "x").exit_code == 2
    gone = command(str(tmp_path / "none.json"))
    assert (gone.exit_code, "No such file" in gone.stderr) == (1, True)
    assert command(request_file, "--config", str(tmp_path / "none.yaml")).exit_code == 1
