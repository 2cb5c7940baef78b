"""Where replicas are found: a name, a file, the EndpointSlices of a Kubernetes service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from engines.fake import FakeEngine
from gateway.clock import RealClock
from gateway.config import Config
from gateway.config.pool_options import DnsOptions, KubernetesOptions
from gateway.discovery import Discovery, DiscoveryError, discovery_of
from gateway.discovery.dns import DnsDiscovery
from gateway.discovery.file import FileDiscovery, urls_in
from gateway.discovery.kubernetes import EndpointSlice, KubernetesDiscovery, urls_of
from tests.gateway.kubernetes_api import TOKEN, KubernetesApi, endpoint, gone_event, kubernetes_api, slice_of
from tests.harness import CHAT, PATIENCE_S, Json, Server, chat, config_of, engine_running, serving, settled, streamed


class Seen:
    """What a source says."""

    def __init__(self) -> None:
        self.sets: list[list[str]] = []
        self._changed = asyncio.Event()

    def __call__(self, urls: Sequence[str]) -> None:
        if not self.sets or self.sets[-1] != list(urls):
            self.sets.append(list(urls))
            self._changed.set()

    async def until(self, *urls: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not self.sets or self.sets[-1] != list(urls):
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def watching(discovery: Discovery) -> AsyncIterator[tuple[Seen, asyncio.Task[None]]]:
    seen = Seen()
    task = asyncio.create_task(discovery.watch(seen))
    try:
        yield seen, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def failing(task: asyncio.Task[None]) -> str:
    """Why the source gave up."""
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(DiscoveryError) as raised:
            await task
    return str(raised.value)


# Names


async def test_every_address_of_a_name_is_a_replica() -> None:
    discovery = DnsDiscovery(DnsOptions(name="127.0.0.1", port=8000), RealClock())
    assert discovery.source == "dns 127.0.0.1"
    async with watching(discovery) as (seen, _):
        await seen.until("http://127.0.0.1:8000")


async def test_a_name_is_resolved_again_and_again() -> None:
    discovery = DnsDiscovery(DnsOptions(name="localhost", port=8000, scheme="https", every_s=0.01), RealClock())
    found: list[Sequence[str]] = []
    thrice = asyncio.Event()

    def take(urls: Sequence[str]) -> None:
        found.append(urls)
        if len(found) >= 3:
            thrice.set()

    task = asyncio.create_task(discovery.watch(take))
    async with asyncio.timeout(PATIENCE_S):
        await thrice.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert all("https://127.0.0.1:8000" in urls for urls in found)


async def test_an_address_of_the_newer_family_stands_in_brackets() -> None:
    async with watching(discovery_in({"dns": {"name": "::1", "port": 8}})) as (seen, _):
        await seen.until("http://[::1]:8")


def discovery_in(pool: Json) -> Discovery:
    if "dns" in pool and pool["dns"]["name"] == "::1":
        return DnsDiscovery(DnsOptions.model_construct(name="::1", port=8), RealClock())
    found = discovery_of(Config.model_validate({"pools": {"p": pool}}).pools["p"], RealClock())
    assert found is not None
    return found


async def test_a_name_that_is_not_there_is_an_error_that_names_it() -> None:
    async with watching(discovery_in({"dns": {"name": "nowhere.invalid", "port": 8}})) as (_, task):
        assert "the name 'nowhere.invalid' cannot be resolved" in await failing(task)


async def test_a_source_that_fails_is_logged_once_and_shown_and_the_known_replicas_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = tmp_path / "replicas.yaml"
    async with engine_running() as engine:
        file.write_text(f"- {engine.url}\n")
        config = config_of(pool={"file": str(file)})
        del config["pools"]["p"]["urls"]
        async with serving(config) as server:
            keeper = server.gateway.keepers[0]
            file.write_text("{")
            await settled(lambda: None if keeper.error else keeper, "no error", PATIENCE_S)
            assert "not YAML" in keeper.error
            assert (await server.post(CHAT, chat())).status_code == 200
            await asyncio.sleep(1.2)  # it has been tried again by then
            assert caplog.text.count("the 1 known replicas stay") == 1
            file.write_text(f"- {engine.url}/v1\n# the same\n")
            await settled(lambda: keeper.error, "still an error", PATIENCE_S)
            assert "can be asked again" in caplog.text
            assert [r.url for r in server.gateway.pools["p"].replicas] == [engine.url]


async def test_a_source_that_breaks_is_tried_again_like_one_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    async with engine_running() as engine, serving(config_of(engine)) as server:
        keeper = server.gateway.keepers[0]
        tried = asyncio.Event()

        class Broken:
            source = "broken"

            async def watch(self, found: Any) -> None:
                if caplog.text:
                    tried.set()
                raise RuntimeError("a bug")

        task = asyncio.create_task(keeper._discover(Broken()))
        async with asyncio.timeout(PATIENCE_S):
            await tried.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert keeper.error == "RuntimeError: a bug"
        assert "broken failed" in caplog.text


# Files


@pytest.mark.parametrize(
    "text",
    [
        "- http://a:1/v1\n- https://b:2/base\n",
        '["http://a:1", "https://b:2/base/v1/", "http://a:1/"]',
        "- targets: ['a:1']\n  labels: {zone: x}\n- targets: ['https://b:2/base']\n",
    ],
)
def test_a_file_lists_urls_or_prometheus_groups(text: str) -> None:
    assert urls_in(text) == ["http://a:1", "https://b:2/base"]


def test_an_empty_file_has_no_replicas() -> None:
    assert urls_in("") == urls_in("[]") == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not YAML"),
        ("urls: [http://a:1]", "neither a list of URLs nor of groups"),
        ("- {labels: {}}", "neither a list of URLs nor of groups"),
        ("- 'http://a b'", "'http://a b' is no URL"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_the_reason(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        urls_in(text)


async def test_a_file_is_read_when_it_changes_also_when_it_is_replaced(tmp_path: Path) -> None:
    file, other = tmp_path / "a.yaml", tmp_path / "b.yaml"
    file.write_text("- http://a:1\n")
    other.write_text("- http://b:1\n")
    discovery = FileDiscovery(str(file), RealClock(), every_s=0.01)
    assert discovery.source == f"file {file}"
    async with watching(discovery) as (seen, _):
        await seen.until("http://a:1")
        other.replace(file)
        await seen.until("http://b:1")
        assert len(seen.sets) == 2


async def test_a_file_that_is_away_or_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    async with watching(FileDiscovery(str(tmp_path / "none"), RealClock())) as (_, task):
        assert await failing(task) == f"{tmp_path / 'none'}: No such file or directory"
    async with watching(FileDiscovery(str(tmp_path), RealClock())) as (_, task):
        assert await failing(task) == f"{tmp_path}: Is a directory"


# EndpointSlices


def options(api: KubernetesApi, tmp_path: Path, **more: Any) -> KubernetesOptions:
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    return KubernetesOptions(service="vllm", api_url=api.url, token_file=str(token), ca_file=None, **more)


async def watched(api: KubernetesApi) -> None:
    await settled(lambda: None if api.watches else "none", "no watch is open", PATIENCE_S)


async def test_slices_are_listed_then_watched_and_each_change_is_told(tmp_path: Path) -> None:
    async with kubernetes_api() as api:
        await api.put(slice_of("s1", [endpoint("10.0.0.1", ready=True), endpoint("10.0.0.2", ready=False)], 8000))
        discovery = KubernetesDiscovery(options(api, tmp_path, namespace="llm"), pause_s=0.01)
        assert discovery.source == "kubernetes llm/vllm"
        async with watching(discovery) as (seen, _):
            await seen.until("http://10.0.0.1:8000")
            await watched(api)
            await api.put(slice_of("s1", [endpoint("10.0.0.1", ready=True), endpoint("10.0.0.2", ready=True)], 8000))
            await seen.until("http://10.0.0.1:8000", "http://10.0.0.2:8000")
            await api.put(slice_of("s2", [endpoint("10.0.0.3")], 8001))
            await seen.until("http://10.0.0.1:8000", "http://10.0.0.2:8000", "http://10.0.0.3:8001")
            await api.delete("s1")
            await seen.until("http://10.0.0.3:8001")
        assert api.lists == 1
        assert set(api.paths) == {"/apis/discovery.k8s.io/v1/namespaces/llm/endpointslices"}
        assert all(query["labelSelector"] == ["kubernetes.io/service-name=vllm"] for query in api.queries)
        assert api.queries[1]["resourceVersion"] == ["1"]
        assert api.queries[1]["allowWatchBookmarks"] == ["true"]


async def test_a_watch_that_ends_goes_on_where_it_was_bookmarks_included(tmp_path: Path) -> None:
    async with kubernetes_api() as api:
        await api.put(slice_of("s1", [endpoint("10.0.0.1")], 80))
        async with watching(KubernetesDiscovery(options(api, tmp_path), pause_s=0.01)) as (seen, _):
            await seen.until("http://10.0.0.1:80")
            await watched(api)
            await api.bookmark()
            await api.bookmark()
            await api.put(slice_of("s1", [endpoint("10.0.0.2")], 80))
            await seen.until("http://10.0.0.2:80")
            await api.cut()
            await settled(lambda: None if len(api.queries) >= 3 else api.queries, "no second watch", PATIENCE_S)
            assert api.queries[2]["resourceVersion"] == ["4"]
            await api.put(slice_of("s1", [endpoint("10.0.0.3")], 80))
            await seen.until("http://10.0.0.3:80")
        assert api.lists == 1


async def test_a_watch_that_is_silent_for_too_long_is_begun_anew(tmp_path: Path) -> None:
    async with kubernetes_api() as api:
        discovery = KubernetesDiscovery(options(api, tmp_path), silence_s=0.05, pause_s=0.01)
        async with watching(discovery) as (seen, _):
            await settled(lambda: None if len(api.queries) >= 4 else api.queries, "no new watch", PATIENCE_S)
            await api.put(slice_of("s1", [endpoint("10.0.0.1")], 80))
            await seen.until("http://10.0.0.1:80")
        assert api.lists == 1


@pytest.mark.parametrize("how", ["as an answer", "in the watch"])
async def test_a_version_that_is_gone_makes_it_list_again(tmp_path: Path, how: str) -> None:
    async with kubernetes_api() as api:
        await api.put(slice_of("s1", [endpoint("10.0.0.1")], 80))
        async with watching(KubernetesDiscovery(options(api, tmp_path), pause_s=0.01)) as (seen, task):
            await seen.until("http://10.0.0.1:80")
            await watched(api)
            if how == "in the watch":
                await api.say(gone_event())
            else:
                api.forgotten = 2
                await api.cut()
            await settled(lambda: None if api.lists >= 2 else api.lists, "not listed again", PATIENCE_S)
            api.forgotten = 0
            await api.put(slice_of("s1", [endpoint("10.0.0.2")], 80))
            await seen.until("http://10.0.0.2:80")
            assert not task.done()


async def test_a_refusal_says_what_the_account_lacks(tmp_path: Path) -> None:
    async with kubernetes_api() as api:
        api.refuses = 403
        async with watching(KubernetesDiscovery(options(api, tmp_path))) as (_, task):
            why = await failing(task)
        assert why.startswith(f"{api.url} answered 403: no; ")
        assert "list and watch on endpointslices" in why
        assert TOKEN not in why


async def test_an_error_in_the_watch_and_one_of_the_watch_itself_are_told(tmp_path: Path) -> None:
    async with kubernetes_api() as api:
        async with watching(KubernetesDiscovery(options(api, tmp_path), pause_s=0.01)) as (_, task):
            await watched(api)
            await api.say({"type": "ERROR", "object": {"code": 500, "message": "etcd"}})
            assert "answered 500: etcd" in await failing(task)
        async with watching(KubernetesDiscovery(options(api, tmp_path), pause_s=0.01)) as (_, task):
            await watched(api)
            api.refuses = 500
            await api.cut()
            assert "answered 500: no" in await failing(task)


async def test_an_api_server_that_is_away_breaks_off_or_talks_nonsense_is_told(tmp_path: Path) -> None:
    async with kubernetes_api() as api:
        async with watching(KubernetesDiscovery(options(api, tmp_path))) as (_, task):
            await watched(api)
            await api.reset()
            assert api.url in await failing(task)
        async with watching(KubernetesDiscovery(options(api, tmp_path))) as (_, task):
            await watched(api)
            await api.say({"kind": "nonsense"})
            assert "not what the API server should say" in await failing(task)
        choices = options(api, tmp_path).model_copy(update={"token_file": str(tmp_path / "none")})
        async with watching(KubernetesDiscovery(choices)) as (_, task):
            assert await failing(task) == f"{tmp_path / 'none'}: No such file or directory"
        choices = choices.model_copy(update={"ca_file": str(tmp_path / "ca"), "api_url": "https://127.0.0.1:1"})
        async with watching(KubernetesDiscovery(choices)) as (_, task):
            assert "No such file or directory" in await failing(task)
        choices = options(api, tmp_path).model_copy(update={"token_file": None})
        async with watching(KubernetesDiscovery(choices)) as (_, task):
            assert "answered 401" in await failing(task)
    async with watching(KubernetesDiscovery(choices)) as (_, task):
        assert choices.api_url in await failing(task)


def slices(*trees: Json) -> list[EndpointSlice]:
    return msgspec.convert(list(trees), list[EndpointSlice])


def test_only_ready_endpoints_are_used_and_unknown_readiness_is_readiness() -> None:
    found = slices(
        slice_of(
            "s",
            [
                endpoint("10.0.0.1", ready=True),
                endpoint("10.0.0.2", ready=None),
                endpoint("10.0.0.3", ready=False, serving=True, terminating=True),
                endpoint("10.0.0.4", ready=False, serving=False),
                endpoint("10.0.0.5", ready=True, serving=True, terminating=True),
            ],
            80,
        )
    )
    assert urls_of(found, None, "http") == ["http://10.0.0.1:80", "http://10.0.0.2:80"]


def test_where_none_is_ready_those_that_leave_and_still_serve_are_used() -> None:
    found = slices(
        slice_of(
            "s",
            [
                endpoint("10.0.0.1", ready=False, serving=True, terminating=True),
                endpoint("10.0.0.2", ready=False, serving=False, terminating=True),
                endpoint("10.0.0.3", ready=False),
            ],
            80,
        )
    )
    assert urls_of(found, None, "https") == ["https://10.0.0.1:80"]


def test_a_pod_with_addresses_of_both_families_is_one_replica() -> None:
    found = slices(
        slice_of("s6", [endpoint("fd00::1", "u1"), endpoint("fd00::2", "u2")], 80, "IPv6"),
        slice_of("s4", [endpoint("10.0.0.1", "u1")], 80),
    )
    assert urls_of(found, None, "http") == ["http://10.0.0.1:80", "http://[fd00::2]:80"]


def test_a_port_is_chosen_by_name_or_number() -> None:
    found = slices(slice_of("s", [endpoint("10.0.0.1")], 80, port_name="api"))
    assert urls_of(found, "api", "http") == urls_of(found, "80", "http") == ["http://10.0.0.1:80"]
    assert urls_of(found, None, "http") == ["http://10.0.0.1:9"]
    assert urls_of(found, "other", "http") == []
    empty = slices({"endpoints": None, "ports": None}, {"endpoints": [{"addresses": []}], "ports": [{"port": 1}]})
    assert urls_of(empty, None, "http") == []


async def test_a_service_scales_up_and_down_and_no_stream_is_lost(tmp_path: Path) -> None:
    def at(engine: FakeEngine, **conditions: Any) -> tuple[Json, int]:
        address = urlsplit(engine.url)
        return endpoint(address.hostname or "", **conditions), address.port or 0

    async with (
        kubernetes_api() as api,
        engine_running(output_tokens=30, itl_s=0.05) as old,
        engine_running() as new,
    ):
        here, port = at(old, ready=True)
        await api.put(slice_of("old", [here], port))
        token = tmp_path / "token"
        token.write_text(TOKEN)
        service = {"service": "vllm", "api_url": api.url, "token_file": str(token), "ca_file": None}
        config = config_of(pool={"kubernetes": service})
        del config["pools"]["p"]["urls"]
        async with serving(config) as server, server.asking(streamed()) as wire:
            await wire.read_head()
            there, new_port = at(new, ready=True)
            await api.put(slice_of("new", [there], new_port))
            await api.put(slice_of("old", [at(old, ready=False, serving=True, terminating=True)[0]], port))
            await leads_to(server, new)
            assert (await server.post(CHAT, chat())).status_code == 200
            assert new.stats.requests == 1
            assert (await wire.read_body()).endswith(b"data: [DONE]\n\n")


async def leads_to(server: Server, engine: FakeEngine) -> None:
    pool = server.gateway.pools["p"]
    await settled(lambda: None if [r.url for r in pool.replicas] == [engine.url] else pool, "elsewhere", PATIENCE_S)


def test_a_pool_with_urls_has_nothing_to_discover() -> None:
    pool = Config.model_validate({"pools": {"p": {"urls": ["http://a:1"]}}}).pools["p"]
    assert discovery_of(pool, RealClock()) is None
