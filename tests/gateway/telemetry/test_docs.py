"""The reference says what the code does: no more, no less."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import errors
from gateway.telemetry.access_log import Line
from gateway.telemetry.error_codes import ERRORS
from gateway.telemetry.logs import Message
from gateway.telemetry.series import ALL, OUTCOMES
from gateway.upstream import Outcome

ROOT = Path(__file__).resolve().parents[3]
METRICS = (ROOT / "docs/reference/metrics.md").read_text()
LOGS = (ROOT / "docs/reference/logs.md").read_text()


def rows(text: str, header: str) -> Iterator[list[str]]:
    """Cells of all rows of the tables whose header line begins so."""
    for table in re.findall(rf"^\| {header}.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE):
        for line in table.splitlines():
            yield [cell.strip() for cell in line.strip("|").split("|")]


def names(cell: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([^`]+)`", cell))


def test_every_metric_is_described_and_no_other() -> None:
    described = {names(row[0])[0]: row for row in rows(METRICS, "Metric ") if len(row) > 2}
    assert set(described) == set(ALL)
    for name, series in ALL.items():
        row = described[name]
        if series.otel:
            assert names(row.pop(1)) == (series.otel,)
        kind, unit, labels, meaning = row[1:]
        assert kind == series.kind, name
        assert unit == (series.unit or "-"), name
        assert names(labels) == series.labels, name
        assert meaning == series.help, name


def test_every_bucket_is_listed() -> None:
    listed = {
        names(name)[0]: tuple(map(float, bounds.split(","))) for name, bounds in rows(METRICS, r"Metric \| Bucket")
    }
    assert listed == {name: series.buckets for name, series in ALL.items() if series.buckets}


@pytest.mark.parametrize(("label", "values"), [("error", ERRORS), ("outcome", OUTCOMES)])
def test_values_of_closed_labels_are_listed(label: str, values: frozenset[str]) -> None:
    [entry] = re.findall(rf"^- `{label}`:(.*(?:\n  .*)*)", METRICS, re.MULTILINE)
    assert set(names(entry)) - {"other"} == values


def test_outcomes_are_those_of_the_dispatcher() -> None:
    assert set(Outcome) == OUTCOMES


def test_every_label_is_explained() -> None:
    explained = set(names(" ".join(re.findall(r"^- (.*?):", METRICS, re.MULTILINE)))) | {
        "gen_ai_response_model",
        *ALL["headrace_build_info"].labels,
    }
    assert {label for series in ALL.values() for label in series.labels} <= explained


def test_every_code_of_our_errors_has_a_name_in_the_metrics() -> None:
    def tree(kind: type[errors.ApiError]) -> Iterator[type[errors.ApiError]]:
        yield kind
        for sub in kind.__subclasses__():
            yield from tree(sub)

    codes = {kind.default_code for kind in tree(errors.ApiError)}
    for path in (ROOT / "gateway").glob("*.py"):
        codes |= set(re.findall(r"\b(?:code=|error_type = (?:\d+, )?)\"([a-z_]+)\"", path.read_text()))
    assert codes <= ERRORS


@pytest.mark.parametrize(
    ("heading", "fields"),
    [("Access log", Line.__struct_fields__), ("Messages", Message.__struct_fields__)],
)
def test_every_field_of_a_log_line_is_described(heading: str, fields: tuple[str, ...]) -> None:
    [section] = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", LOGS, re.MULTILINE | re.DOTALL)
    described = [name for row in rows(section, "Field ") for name in names(row[0])]
    assert sorted(described) == sorted(fields)
