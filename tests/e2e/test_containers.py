"""The containers, without a container engine: linted, built by their own steps, run as compose.yaml says, and asked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.container import Container, Image, Network, health_command, started
from tests.e2e.image import PACKAGES, ROOT, build, install_packages, install_tools

KEY = "sk-compose-test"
ENV = {"HEADRACE_KEY": KEY, "GRAFANA_PASSWORD": "a", "VALKEY_PASSWORD": "b"}
DASHBOARD = ROOT / "deploy/grafana/dashboards/headrace.json"
NEEDS_TROUBLE = {"headrace_stream_aborts_total", "headrace_estimated_usage_total", "headrace_access_log_dropped_total"}
"""Metrics that have no series as long as nothing goes wrong."""
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def tools() -> Path:
    """The folder of the linters and of Valkey; Debian's packages are installed too."""
    missing = install_packages()
    if missing:
        pytest.skip(f"as root this would install {', '.join(sorted({PACKAGES[name] for name in missing}))}")
    return install_tools()


def compose(tools: Path, *arguments: str, env: Mapping[str, str] = ENV) -> subprocess.CompletedProcess[str]:
    command = [str(tools / "bin/docker-compose"), "--project-directory", str(ROOT), *arguments]
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **env}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def services(tools: Path) -> dict[str, Any]:
    """As compose understands them."""
    done = compose(tools, "--env-file", "/dev/null", "config", "--format", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


@pytest.fixture(scope="module")
def images(tools: Path, services: dict[str, Any]) -> dict[str, Image]:
    if os.geteuid() != 0:
        pytest.skip("only root may make the namespaces that stand in for containers")
    headrace = build(services["gateway"]["build"]["args"])
    valkey = Image({"/opt/valkey": tools / "valkey"}, env={"PATH": "/opt/valkey:/usr/bin:/bin"})
    prometheus = Image(entrypoint=("/bin/prometheus",), workdir="/tmp")
    return {"prometheus": prometheus, "valkey": valkey, **dict.fromkeys(("gateway", "model", "engine"), headrace)}


@dataclass
class Project:
    """The running services, by name, and a client whose sockets are in their network."""

    network: Network
    containers: dict[str, Container]

    def ask(self, do: Callable[[httpx.Client], httpx.Response]) -> httpx.Response:
        def ask() -> httpx.Response:
            with httpx.Client(trust_env=False, timeout=60) as client:
                return do(client)

        return self.network.inside(ask)

    def chat(self, key: str = KEY, **more: Any) -> httpx.Response:
        body = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16, **more}
        headers = {"authorization": f"Bearer {key}"}
        return self.ask(lambda http: http.post(f"{GATEWAY}/v1/chat/completions", json=body, headers=headers))

    def query(self, expression: str) -> httpx.Response:
        return self.ask(lambda http: http.post(f"{PROMETHEUS}/api/v1/query", data={"query": expression}))


GATEWAY = "http://127.0.0.1:8080"
PROMETHEUS = "http://127.0.0.1:9090"


def eventually(true: Callable[[], bool], what: Callable[[], str], limit_s: float = 90.0) -> None:
    end_s = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end_s, what()
        time.sleep(0.2)


def until_healthy(container: Container, service: Mapping[str, Any], image: Image) -> None:
    check = health_command(service, image)

    def healthy() -> bool:
        assert container.process.poll() is None, container.log.read_text()
        return container.run(check).returncode == 0

    eventually(healthy, container.log.read_text)


@pytest.fixture(scope="module")
def project(
    services: dict[str, Any], images: dict[str, Image], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    """All services that can run here, started in the order of `depends_on`, each when what it waits for is healthy."""
    folder = tmp_path_factory.mktemp("project")
    with ExitStack() as stack:
        network = stack.enter_context(closing(Network(folder, list(services))))
        with started("model", services["model"], images["model"], folder, None) as fetching:
            assert fetching.wait(300) == 0, fetching.log.read_text()
        containers = {}
        for name in ("valkey", "engine", "prometheus", "gateway"):
            service, image = services[name], images[name]
            container = stack.enter_context(started(name, service, image, folder, network))
            containers[name] = container
            until_healthy(container, service, image)
        yield Project(network, containers)


def test_the_dockerfile_pleases_its_linter(tools: Path) -> None:
    done = subprocess.run([tools / "bin/hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_compose_takes_its_file_and_asks_for_what_is_not_set(tools: Path) -> None:
    assert compose(tools, "--env-file", "/dev/null", "config", "--quiet").stderr == ""
    refused = compose(tools, "--env-file", "/dev/null", "config", "--quiet", env={})
    assert refused.returncode != 0
    assert "copy .env.example to .env, and set it there" in refused.stderr


def test_prometheus_takes_its_rules_and_they_do_what_their_tests_say(tools: Path) -> None:
    for arguments in (["check", "config", "prometheus.yml"], ["test", "rules", "rules.test.yml"]):
        command = ["promtool", *arguments]
        folder = ROOT / "deploy/prometheus"
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_has_the_engine_but_no_torch_and_no_pip(project: Project) -> None:
    listed = project.containers["gateway"].run(
        ["python", "-c", "from importlib.metadata import distributions as d; print(*{i.name.lower() for i in d()})"]
    )
    names = set(listed.stdout.split())
    assert {"headrace", "xllamacpp"} <= names
    assert not names & {"torch", "pip", "setuptools", "pytest"}


def test_a_chat_is_answered_by_the_real_model_for_those_who_have_the_key(project: Project) -> None:
    answer = project.chat()
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]
    streamed = project.chat(stream=True)
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert project.chat(key="sk-wrong").status_code == 401


def test_every_service_has_little_power(project: Project) -> None:
    for name, container in project.containers.items():
        assert container.status("Uid").split()[0] != "0", name
        assert (container.status("CapEff"), container.status("NoNewPrivs")) == ("0" * 16, "1"), name
        assert container.status("NSpid").split()[-1] == "1", name
        touched = container.run(["touch", "/here", "/usr/here", "/etc/here", "/tmp/here"])
        assert touched.stderr.count("Read-only file system") == 3, touched.stderr
    assert "Read-only" in project.containers["engine"].run(["touch", "/var/cache/headrace/here"]).stderr


def test_the_gateway_is_a_process_1_that_takes_leave_of_orphans(project: Project) -> None:
    gateway = project.containers["gateway"]
    gateway.run(["sh", "-c", "sh -c 'sleep 0.1 & exec true'; sleep 0.3"])
    states = ["sh", "-c", "for p in /proc/[0-9]*/stat; do sed 's/.*) //' $p | cut -c1; done"]
    eventually(lambda: "Z" not in gateway.run(states).stdout, lambda: "there is a zombie", 30)


def test_prometheus_scrapes_everything_and_evaluates_every_rule(project: Project) -> None:
    def targets() -> dict[str, str]:
        found = project.ask(lambda http: http.get(f"{PROMETHEUS}/api/v1/targets")).json()["data"]["activeTargets"]
        return {target["labels"]["job"]: target["health"] for target in found}

    def rules() -> list[dict[str, Any]]:
        groups = project.ask(lambda http: http.get(f"{PROMETHEUS}/api/v1/rules")).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    everything = {"headrace": "up", "engine": "up", "prometheus": "up"}
    eventually(lambda: targets() == everything, lambda: str(targets()))
    eventually(lambda: {rule["health"] for rule in rules()} == {"ok"}, lambda: str(rules()))
    # One target is asked before another, so that an alert may be pending for a moment.
    assert not [rule["name"] for rule in rules() if rule.get("state") == "firing"]


def queries() -> list[tuple[str, str]]:
    """Title and expression of everything on the dashboard, with Grafana's variables filled in."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", ())]
    return [(title, expr.replace("$__rate_interval", "1m").replace("$deployment", ".*")) for title, expr in found]


def test_every_panel_of_the_dashboard_has_data_after_a_little_traffic(project: Project) -> None:
    waiting = dict.fromkeys((expr for _, expr in queries()), "not asked yet")

    def shown() -> bool:
        project.chat()
        project.chat(stream=True)
        project.chat(model="none")
        for expression in list(waiting):
            answer = project.query(expression)
            assert answer.status_code == 200, f"{expression}: {answer.text}"
            result = answer.json()["data"]["result"]
            trouble = any(name in expression for name in NEEDS_TROUBLE)
            if trouble or any(sample["value"][1] != "NaN" for sample in result):
                del waiting[expression]
        return not waiting

    eventually(shown, lambda: f"no data: {list(waiting)}")


def test_valkey_keeps_what_it_is_given_for_those_who_have_the_password(project: Project) -> None:
    valkey = project.containers["valkey"]
    assert valkey.run(["valkey-cli", "set", "a", "1"]).stdout == "OK\n"
    assert "NOAUTH" in valkey.run(["env", "-u", "REDISCLI_AUTH", "valkey-cli", "get", "a"]).stdout


def configured(services: dict[str, Any], config: str | None, folder: Path) -> dict[str, Any]:
    """The gateway's service, with another configuration or none."""
    service = {**services["gateway"], "volumes": []}
    if config is not None:
        file = folder / "headrace.yaml"
        file.write_text(config)
        target = "/etc/headrace/headrace.yaml"
        service["volumes"] = [{"type": "bind", "source": str(file), "target": target, "read_only": True}]
    return service


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (None, "/etc/headrace/headrace.yaml.*cannot be read"),
        ("server: {host: 0.0.0.0}", '"0.0.0.0" is reachable from other machines, and no keys are configured'),
    ],
)
def test_a_gateway_without_a_configuration_or_keys_does_not_start_and_says_why(
    config: str | None, why: str, services: dict[str, Any], images: dict[str, Image], tmp_path: Path
) -> None:
    service = configured(services, config, tmp_path)
    with closing(Network(tmp_path, ["gateway"])) as network:
        with started("gateway", service, images["gateway"], tmp_path, network) as container:
            assert container.wait(30) == 1
        assert re.search(why, container.log.read_text()), container.log.read_text()


def test_a_gateway_that_is_told_to_stop_ends_with_0(
    services: dict[str, Any], images: dict[str, Image], tmp_path: Path
) -> None:
    config = "server: {host: 0.0.0.0}\nauth: {keys: [{name: k, key: '${HEADRACE_KEY}'}]}\n"
    service = configured(services, config, tmp_path)
    with (
        closing(Network(tmp_path, ["gateway"])) as network,
        started("gateway", service, images["gateway"], tmp_path, network) as container,
    ):
        until_healthy(container, service, images["gateway"])
        assert container.stop() == 0


def test_the_python_of_the_tests_is_the_python_of_the_image() -> None:
    image = re.search(r"^ARG PYTHON=(\d+\.\d+)\.\d+-slim", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert image, "the base image is not pinned"
    if image[1] != f"{sys.version_info.major}.{sys.version_info.minor}":
        pytest.skip(f"the image has Python {image[1]}, this is {sys.version}")
