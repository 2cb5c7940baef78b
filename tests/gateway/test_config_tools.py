"""Schema, effective values and differences of configurations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from gateway.config import Config
from gateway.config.dump import differences, effective, to_yaml
from gateway.config.load import parse_config
from gateway.config.problems import MASK
from gateway.config.schema import json_schema
from gateway.config.types import expected, expected_at

PLANTED = "planted-secret-value"
TEXT = f"""\
auth:
  salt: {PLANTED}
  keys: [{{name: a, key: {PLANTED}, max_parallel: 3}}, {{name: b, key: other}}]
pools:
  p:
    engine: {{api_key: {PLANTED}, headers: {{x-secret: {PLANTED}}}}}
    urls: ["http://user:{PLANTED}@host:1"]
deployments:
  m: {{variants: {{v: {{pools: [p]}}}}}}
telemetry: {{tracing: {{otlp_headers: {{authorization: {PLANTED}}}}}}}
"""


def test_a25_effective_values_have_every_default_and_no_secret() -> None:
    values: Any = effective(parse_config(TEXT, env={}))
    assert values["server"]["port"] == 8080
    assert values["auth"]["keys"][0]["key"] == MASK
    assert values["pools"]["p"]["urls"] == [f"http://{MASK}@host:1"]
    assert PLANTED not in to_yaml(values)


def test_the_same_configuration_written_in_two_ways_does_not_differ() -> None:
    assert differences(parse_config("server: {port: 8080}", env={}), Config()) == []


def test_differences_are_told_by_key_with_secrets_masked() -> None:
    old = parse_config(TEXT, env={})
    new = parse_config(
        TEXT.replace(f"key: {PLANTED}, max_parallel: 3", "key: changed-secret")
        .replace("{name: b, key: other}", "{name: c, key: other}")
        .replace(f"user:{PLANTED}@host:1", f"user:{PLANTED}@host:2")
        + "server: {drain_s: 5}\ncache: {enabled: true}\n",
        env={},
    )
    found = {(one.kind, str(one)) for one in differences(old, new)}
    assert {
        ("changed", f"auth.keys.a.key: {MASK} → {MASK}"),
        ("changed", "auth.keys.a.max_parallel: 3 → none"),
        ("removed", f"auth.keys.b.key: {MASK}"),
        ("added", f"auth.keys.c.key: {MASK}"),
        ("changed", f"pools.p.urls: [http://{MASK}@host:1] → [http://{MASK}@host:2]"),
        ("changed", "server.drain_s: 30.0 → 5.0"),
        ("changed", "cache.enabled: false → true"),
    } <= found
    assert PLANTED not in str(found)
    assert "changed-secret" not in str([one.as_dict() for one in differences(old, new)])


# Schema


def resolve(schema: Any, *path: str) -> Any:
    node = schema
    for part in path:
        while "$ref" in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
        node = node["properties"][part]
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node


def test_the_schema_is_closed_and_described() -> None:
    schema: Any = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == "urn:headrace:config"
    for model in [schema, *schema["$defs"].values()]:
        assert model["additionalProperties"] is False
        for name in model["properties"]:
            assert {"description"} & {
                *model["properties"][name],
                *resolve({**model, "$defs": schema["$defs"]}, name),
            }, name
    assert resolve(schema, "pools")["additionalProperties"] is False


@pytest.mark.parametrize(
    "path", [("server", "port"), ("cache", "enabled"), ("cache", "ttl_s"), ("telemetry", "tracing", "sample")]
)
def test_the_schema_takes_a_variable_where_a_number_or_boolean_stands(path: tuple[str, ...]) -> None:
    typed, variable = resolve(json_schema(), *path)["anyOf"]
    assert typed["type"] in ("integer", "number", "boolean")
    for text in ("${PORT}", "${PORT:-80}", "os.environ/PORT"):
        assert re.search(variable["pattern"], text)
    assert not re.search(variable["pattern"], "80")


def test_the_schema_takes_a_variable_where_a_choice_stands() -> None:
    assert len(resolve(json_schema(), "telemetry", "access_log", "format")["anyOf"]) == 2


# The models themselves


def models(model: type[BaseModel] = Config) -> Iterator[type[BaseModel]]:
    yield model
    for info in model.model_fields.values():
        for kind in expected(info.annotation).kinds:
            inner = get_args(kind)[-1] if get_origin(kind) in (list, dict) else kind
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from models(inner)


def test_every_key_has_a_description() -> None:
    for model in models():
        assert model.__doc__, model
        assert [name for name, info in model.model_fields.items() if not info.description] == []


def test_models_cannot_be_changed_after_loading() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().server.port = 1


def test_a_path_that_leads_nowhere_has_no_type() -> None:
    assert expected_at(("server", "port", "x")) is None
    assert expected_at(("server", "cors_origins", "x")) is None
    assert expected_at(("server", "nope")) is None
