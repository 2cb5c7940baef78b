"""Dockerfile, compose.yaml, rules and dashboard: they agree with the code and with each other."""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from gateway.config.load import load
from gateway.telemetry.series import ALL
from gateway.telemetry.shape import Kind

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/headrace.json").read_text())
RULES = yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())["groups"]
SCRAPES = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SERVICES = COMPOSE["services"]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
LATER = {"headrace_build_info", "gen_ai_client_token_usage"}
"""Metrics that are on no panel: facts, and what another metric tells in a simpler way."""
ADDED = {"job", "instance", "le"}
"""Labels that Prometheus adds, or histograms have."""


def engine_metrics() -> set[str]:
    """Those of a real llama.cpp, as it was recorded."""
    recordings = (ROOT / "tests/golden").glob("llamacpp-*/metrics.response.raw")
    return {name for file in recordings for name in re.findall(r"^# TYPE (\S+)", file.read_text(), re.MULTILINE)}


def exposed() -> dict[str, set[str]]:
    """Every name that may stand in a query, with its labels."""
    found: dict[str, set[str]] = {"up": set(), **{name: set() for name in engine_metrics()}}
    for series in ALL.values():
        ends = ("_bucket", "_sum", "_count") if series.kind is Kind.HISTOGRAM else ("",)
        found |= {series.name + end: set(series.labels) for end in ends}
    return found


def dashboard_queries() -> Iterator[str]:
    for panel in PANELS:
        yield from (target["expr"] for target in panel["targets"])
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"].replace("label_values(", "sum by (deployment) (")


def rule_queries() -> Iterator[str]:
    yield from (rule["expr"] for group in RULES for rule in group["rules"])


def used(query: str) -> tuple[set[str], set[str]]:
    """The metrics and labels that an expression names."""
    text = re.sub(r'"[^"]*"', '""', query)
    labels = {name for group in re.findall(r"\bby \(([^)]*)\)", text) for name in re.findall(r"\w+", group)}
    labels |= set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"\"", text))
    bare = re.sub(r"\[[^\]]*\]|\{[^}]*\}|\bby \([^)]*\)", " ", text)
    words = set(re.findall(r"(?<![\w:$.])[a-z_][\w:]*(?!\w|\s*\()", bare)) - {"or", "and", "deployment"}
    return words, labels


@pytest.mark.parametrize("query", [*dashboard_queries(), *rule_queries()])
def test_no_query_names_a_metric_or_a_label_that_does_not_exist(query: str) -> None:
    recorded = {rule["record"]: ADDED | _all_labels() for group in RULES for rule in group["rules"] if "record" in rule}
    known = exposed() | recorded
    metrics, labels = used(query)
    assert metrics, query
    assert metrics <= set(known), query
    assert labels <= ADDED | {label for metric in metrics for label in known[metric]}, query


def _all_labels() -> set[str]:
    return {label for series in ALL.values() for label in series.labels}


def test_what_a_query_names_is_found_in_it() -> None:
    query = (
        'histogram_quantile(0.5, sum by (le, a) (rate(x_bucket{b=~"$c",d!=""}[$__rate_interval]))) / (y:z or vector(0))'
    )
    assert used(query) == ({"x_bucket", "y:z"}, {"le", "a", "b", "d"})


def test_every_metric_of_ours_is_on_a_panel() -> None:
    shown = {name for query in dashboard_queries() for name in used(query)[0]}
    assert {name for name in ALL if not any(one.startswith(name) for one in shown)} == LATER


def test_panels_have_ids_units_words_and_a_place_of_their_own() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in PANELS:
        assert panel["title"], panel["id"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references)), panel["title"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert not [pair for pair in itertools.combinations(places, 2) if _overlap(*pair)]


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(
        one[at] < other[at] + other[size] and other[at] < one[at] + one[size] for at, size in (("x", "w"), ("y", "h"))
    )


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    mounts = dict(volume.split(":")[:2][::-1] for volume in SERVICES["grafana"]["volumes"])
    folder = ROOT / "deploy/grafana/provisioning"
    [source] = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    [provider] = yaml.safe_load((folder / "dashboards/headrace.yml").read_text())["providers"]
    assert mounts["/etc/grafana/provisioning"] == "./deploy/grafana/provisioning"
    assert mounts[provider["options"]["path"]] == "./deploy/grafana/dashboards"
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/headrace.json"
    assert source["url"] == "http://prometheus:9090"
    [variable] = [one for one in DASHBOARD["templating"]["list"] if one["name"] == "datasource"]
    assert variable["current"]["value"] == source["uid"]


def test_prometheus_scrapes_services_that_there_are() -> None:
    targets = {job["job_name"]: job["static_configs"][0]["targets"][0] for job in SCRAPES}
    assert targets["headrace"] == "gateway:8080"
    assert targets["engine"] == "engine:9001"
    assert {"gateway", "engine"} <= set(SERVICES)
    assert "--port=9001" in SERVICES["engine"]["command"]


def test_the_gateways_configuration_leads_to_the_engine_of_compose() -> None:
    config = load(ROOT / "examples/compose.gateway.yaml", {"HEADRACE_KEY": "sk-1", "HEADRACE_MODEL": "other"}).config
    assert config.pools["local"].urls == ["http://engine:9001"]
    assert config.deployments["chat"].variants["default"].model == "other"
    grace_s = float(SERVICES["gateway"]["stop_grace_period"].removesuffix("s"))
    assert grace_s >= config.server.drain_s + 10


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_as_little_power_as_it_can(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.search(r":v?\d+\.\d+\.\d+(-\w+)?$", service["image"]), "its version is not pinned"
    assert "healthcheck" in service or service["image"].startswith("headrace:")
    assert "user" in service or service["image"].startswith("headrace:")
    for port in service.get("ports", ()):
        assert port.startswith(("127.0.0.1:", "${HEADRACE_BIND:-127.0.0.1}:"))


def test_engines_and_valkey_are_reached_from_inside_alone() -> None:
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    for name in ("engine", "valkey"):
        assert SERVICES[name]["networks"] == ["inside"]
        assert "ports" not in SERVICES[name]


def test_every_variable_is_explained() -> None:
    wanted = set(re.findall(r"\$\{(\w+)", (ROOT / "compose.yaml").read_text()))
    explained = set(re.findall(r"^(?:# )?(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert wanted == explained


def test_the_image_holds_every_package_of_the_wheel_and_nothing_private() -> None:
    packages = set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    admitted = {line[1:] for line in ignore if line.startswith("!")}
    copied = set(re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE))
    assert "*" in ignore
    assert admitted == packages | {"pyproject.toml", "README.md"} == {name for line in copied for name in line.split()}


def test_versions_are_those_of_the_package() -> None:
    version = PROJECT["project"]["version"]
    assert f"ARG VERSION={version}\n" in DOCKERFILE
    for name in ("gateway", "model", "engine"):
        assert SERVICES[name]["image"] == f"headrace:{version}-llamacpp"
    assert set(SERVICES["gateway"]["build"]["args"]["EXTRAS"].split(",")) <= set(
        PROJECT["project"]["optional-dependencies"]
    )


def test_the_guide_names_every_service_and_every_writable_place() -> None:
    guide = (ROOT / "docs/guide/containers.md").read_text()
    for word in [*SERVICES, "HEADRACE_HEALTH_URL", "/var/cache/headrace", "/tmp", "10001"]:
        assert f"`{word}`" in guide, word
