"""From the configuration of a LiteLLM proxy to ours.

Models of one name become one deployment; in it, each engine model a variant; in that, entries that differ only in
`api_base` one pool. What does not fit is noted with its line: nothing is left behind in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from pydantic import JsonValue

from gateway.config.problems import ConfigError, KeyPath, Problem
from gateway.config.sites import site_of
from gateway.config.yaml import Document, YamlSyntaxError, read_yaml
from gateway.litellm.entries import Common, Entry, EntryReader, carried, from_environment, is_name, is_number, text_of
from gateway.litellm.notes import Note, Notes, reason

_POLICIES = {
    "simple-shuffle": "random",
    "least-busy": "least_requests",
    "latency-based-routing": "marginal_latency",
}
_BUDGETS = {
    "1d": "usd_per_day",
    "24h": "usd_per_day",
    "30d": "usd_per_month",
    "1mo": "usd_per_month",
}
"""By the duration of a budget."""
_SECTIONS = {"model_list", "router_settings", "litellm_settings", "general_settings", "credential_list"}
_TOTAL_S = 600.0
"""What LiteLLM and we both wait at most, unless told otherwise."""
_LOCAL_CACHE = {None, "local", "in-memory"}
_Mapping = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Imported:
    """The result: a file of ours, and what it lacks."""

    yaml: str
    notes: tuple[Note, ...]
    deployments: int

    def as_dict(self) -> dict[str, JsonValue]:
        return {"deployments": self.deployments, "notes": [dict(note.as_dict()) for note in self.notes]}


@dataclass(slots=True)
class _Pool:
    common: Common
    urls: tuple[str, ...]

    def as_dict(self) -> dict[str, JsonValue]:
        engine: dict[str, JsonValue] = {}
        if self.common.kind != "openai":
            engine["kind"] = self.common.kind
        if self.common.api_key is not None:
            engine["api_key"] = self.common.api_key
        if self.common.headers:
            engine["headers"] = dict(self.common.headers)
        result: dict[str, JsonValue] = {"urls": list(self.urls)}
        if engine:
            result["engine"] = engine
        if self.common.site == "cloud":
            result["site"] = "cloud"
        if self.common.max_in_flight is not None:
            result["max_in_flight"] = self.common.max_in_flight
        return result


@dataclass(slots=True)
class _Result:
    pools: dict[str, _Pool] = field(default_factory=dict)
    deployments: dict[str, dict[str, JsonValue]] = field(default_factory=dict)
    extra: dict[str, JsonValue] = field(default_factory=dict)


def convert_file(path: Path) -> Imported:
    """Convert a file. Raises ConfigError: it cannot be read, or is not a LiteLLM configuration."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError([Problem(str(path), 0, 0, "", f"cannot be read: {what}")]) from None
    return convert(text, str(path))


def convert(text: str, source: str = "config.yaml") -> Imported:
    """Convert a text. Raises ConfigError: it is not YAML, or holds no mapping with `model_list`."""
    try:
        document = read_yaml(text, source, None)
    except YamlSyntaxError as error:
        problem = Problem(source, error.line + 1, error.column + 1, "", f"not valid YAML: {error}")
        raise ConfigError([problem]) from None
    if not isinstance(document.value, dict) or not isinstance(document.value.get("model_list"), list):
        hint = "a LiteLLM configuration has a list under model_list"
        raise ConfigError([Problem(source, 1, 1, "model_list", "there is no list of models", hint)])
    return _Importer(document, document.value).run()


class _Importer:
    """Walks one LiteLLM configuration."""

    def __init__(self, document: Document, root: _Mapping) -> None:
        self._document = document
        self._root = root
        self._notes = Notes(document)
        self._note = self._notes.add
        self._result = _Result()
        self._router = self._section("router_settings")
        self._litellm = self._section("litellm_settings")
        self._general = self._section("general_settings")

    def run(self) -> Imported:
        groups: dict[str, list[Entry]] = {}
        reader = EntryReader(self._root.get("credential_list"), self._notes)
        models = self._root["model_list"]
        for index, item in enumerate(models if isinstance(models, list) else []):
            found = reader.read(item, ("model_list", index))
            if found is not None:
                groups.setdefault(found[0], []).append(found[1])
        for name, entries in groups.items():
            self._result.deployments[name] = self._deployment(name, entries)
        self._aliases()
        self._general_settings()
        self._cache()
        self._limits()
        self._left_behind()
        return Imported(self._yaml(), self._notes.all(), len(groups))

    def _section(self, name: str) -> _Mapping:
        value = self._root.get(name)
        if value is not None and not isinstance(value, dict):
            self._note((name,), "lost", "is not a mapping")
        return value if isinstance(value, dict) else {}

    # One deployment

    def _deployment(self, name: str, entries: list[Entry]) -> dict[str, JsonValue]:
        result: dict[str, JsonValue] = {"variants": self._variants(name, entries)}
        policy = self._policy()
        if policy is not None:
            result["policy"] = policy
        timeouts = self._timeouts(entries)
        if timeouts:
            result["timeouts"] = timeouts
        attempts = self._attempts(entries)
        if attempts is not None:
            result["attempts"] = attempts
        return result

    def _variants(self, name: str, entries: list[Entry]) -> dict[str, JsonValue]:
        variants: dict[str, JsonValue] = {}
        models = list(dict.fromkeys(entry.model for entry in entries))
        weights = {id(entry): 1.0 if entry.weight is None else entry.weight for entry in entries}
        weighted = len(models) > 1 and any(weights.values())
        for model in models:
            mine = [entry for entry in entries if entry.model == model]
            variant: dict[str, JsonValue] = {"pools": list(self._pools_of(name, mine))}
            if model != name:
                variant["model"] = carried(model)
            if weighted:
                variant["weight"] = sum(weights[id(entry)] for entry in mine)
            variants[_unused(_as_name(model), variants) if len(models) > 1 else "default"] = variant
            self._uneven(mine)
        return variants

    def _uneven(self, entries: list[Entry]) -> None:
        if len({entry.weight for entry in entries}) > 1:
            path = next(entry.path for entry in entries if entry.weight is not None)
            why = "replicas of one model share by load, not by weight; their weights were added up"
            self._note((*path, "litellm_params", "weight"), "changed", why)

    def _pools_of(self, deployment: str, entries: list[Entry]) -> Iterator[str]:
        for common in dict.fromkeys(entry.common for entry in entries):
            urls = tuple(dict.fromkeys(entry.url for entry in entries if entry.common == common))
            pool = _Pool(common, urls)
            known = next((name for name, other in self._result.pools.items() if other == pool), None)
            if known is None:
                known = _unused(_as_name(_host_name(urls) or deployment), self._result.pools)
                self._result.pools[known] = pool
            yield known

    def _policy(self) -> str | None:
        strategy = self._router.get("routing_strategy")
        return None if strategy is None else _POLICIES.get(str(strategy), "least_requests")

    def _timeouts(self, entries: list[Entry]) -> dict[str, JsonValue]:
        total = self._setting(entries, "timeout", self._router.get("timeout", self._litellm.get("request_timeout")))
        first = self._setting(entries, "stream_timeout", self._router.get("stream_timeout"))
        total = total if is_number(total) and total > 0 else None
        first = first if is_number(first) and first > 0 else None
        result: dict[str, JsonValue] = {}
        if first is not None and first <= (total or _TOTAL_S):
            result["ttft_s"] = first
        if total is not None:
            result["total_s"] = total
        if first is not None and "ttft_s" not in result:
            why = "stream_timeout is more than timeout, which holds for streams as well; it was left out"
            self._note((*entries[0].path, "litellm_params"), "changed", why)
        return result

    def _attempts(self, entries: list[Entry]) -> int | None:
        general = self._router.get("num_retries", self._litellm.get("num_retries"))
        retries = self._setting(entries, "num_retries", self._setting(entries, "max_retries", general))
        if not is_number(retries):
            return None
        if retries > 9:
            own = [(*entry.path, "litellm_params", key) for entry in entries for key in ("num_retries", "max_retries")]
            places = [*own, ("router_settings", "num_retries"), ("litellm_settings", "num_retries")]
            path = next((place for place in places if self._notes.stands(place)), entries[0].path)
            self._note(path, "changed", f"{retries:g} retries were cut to 9: attempts takes at most 10")
        return max(1, min(10, int(retries) + 1))

    def _setting(self, entries: list[Entry], key: str, otherwise: object) -> object:
        """The largest value of a setting among the entries of a deployment, which has one for all."""
        values: list[float] = []
        for entry in entries:
            value = entry.params.get(key)
            if is_number(value) and value >= 0:
                values.append(value)
            elif value is not None:
                self._note((*entry.path, "litellm_params", key), "lost", "it is not a number of seconds or times")
        if len(set(values)) > 1:
            why = f"entries of one deployment share it: {max(values):g}, the largest, was taken"
            self._note((*entries[0].path, "litellm_params", key), "changed", why)
        return max(values) if values else otherwise

    # The rest

    def _aliases(self) -> None:
        aliases = self._router.get("model_group_alias")
        for alias, target in aliases.items() if isinstance(aliases, dict) else ():
            path: KeyPath = ("router_settings", "model_group_alias", alias)
            name = target.get("model") if isinstance(target, dict) else target
            deployment = self._result.deployments.get(str(name))
            if deployment is None:
                self._note(path, "lost", f'its model "{name}" was not carried')
            elif not is_name(alias):
                self._note(path, "lost", "a name is letters, digits and . _ : / @ + -, at most 128")
            elif alias in self._result.deployments:
                self._note(path, "lost", "a deployment has that name")
            else:
                known = deployment.setdefault("aliases", [])
                assert isinstance(known, list)
                known.append(alias)
                if isinstance(target, dict) and target.get("hidden"):
                    self._note((*path, "hidden"), "lost", "aliases are listed by /v1/models")

    def _general_settings(self) -> None:
        key = text_of(self._general.get("master_key"))
        server: dict[str, JsonValue] = {"port": 4000}
        if key:
            if not from_environment(key):
                why = "the secret stands in the file; better `${VAR}`, or its hash (headrace keys hash)"
                self._note(("general_settings", "master_key"), "warning", why)
            server = {"host": "0.0.0.0", **server}
            self._result.extra["auth"] = {"keys": [{"name": "master", "key": carried(key)}]}
        self._result.extra["server"] = server
        size = self._general.get("max_request_size_mb")
        if is_number(size) and size > 0:
            server["max_body_bytes"] = max(1024, int(size * 1024 * 1024))

    def _cache(self) -> None:
        params = self._litellm.get("cache_params")
        params = params if isinstance(params, dict) else {}
        if self._litellm.get("cache") is not True:
            return
        if params.get("type") not in _LOCAL_CACHE:
            why = f'a cache of the type "{params["type"]}" is not carried; there is one in memory (cache.enabled)'
            self._note(("litellm_settings", "cache"), "lost", why)
            return
        cache: dict[str, JsonValue] = {"enabled": True}
        ttl = params.get("ttl")
        if is_number(ttl) and ttl > 0:
            cache["ttl_s"] = ttl
        self._result.extra["cache"] = cache
        self._note(("litellm_settings", "cache"), "changed", "answers are kept per gateway worker and tenant")

    def _limits(self) -> None:
        """Those of the whole proxy."""
        rule: dict[str, JsonValue] = {}
        parallel = self._general.get("global_max_parallel_requests")
        if isinstance(parallel, int) and not isinstance(parallel, bool) and parallel >= 1:
            rule["parallel"] = parallel
        budget, time = self._litellm.get("max_budget"), self._litellm.get("budget_duration")
        if is_number(budget) and budget > 0:
            window = _BUDGETS.get(text_of(time) or "")
            if window is None:
                self._note(("litellm_settings", "max_budget"), "lost", "budgets are for a day or a month")
            else:
                rule[window] = budget
                why = f"{window} counts calendar days and months, UTC"
                self._note(("litellm_settings", "max_budget"), "changed", why)
        if rule:
            self._result.extra["limits"] = [rule]

    def _left_behind(self) -> None:
        for key in self._root.keys() - _SECTIONS:
            why = "set these where the gateway is started" if key == "environment_variables" else reason(key)
            self._note((key,), "lost", why)
        strategy = self._router.get("routing_strategy")
        if strategy is not None and strategy not in _POLICIES:
            why = f'"{strategy}" has no like here; least_requests was taken'
            self._note(("router_settings", "routing_strategy"), "changed", why)
        known_keys = {
            "router_settings": {"routing_strategy", "model_group_alias", "timeout", "stream_timeout", "num_retries"},
            "litellm_settings": {
                "budget_duration",
                "cache",
                "cache_params",
                "max_budget",
                "num_retries",
                "request_timeout",
            },
            "general_settings": {"global_max_parallel_requests", "master_key", "max_request_size_mb"},
        }
        for section, known in known_keys.items():
            values = self._root.get(section)
            for key in values.keys() - known if isinstance(values, dict) else ():
                self._note((section, key), "lost", reason(key))

    def _yaml(self) -> str:
        tree: dict[str, JsonValue] = {
            "server": self._result.extra["server"],
            **{key: value for key, value in self._result.extra.items() if key != "server"},
            "pools": {name: pool.as_dict() for name, pool in self._result.pools.items()},
            "deployments": {name: dict(value) for name, value in self._result.deployments.items()},
        }
        body = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)
        return f"# From the LiteLLM configuration {Path(self._document.source).name}.\n{body}"


def _as_name(text: str) -> str:
    kept = re.sub(r"[^A-Za-z0-9._:/@+-]", "-", text).lstrip("._:/@+-")
    return kept[:120] or "model"


def _unused(name: str, taken: Mapping[str, object]) -> str:
    """The name, or with a number if it is taken."""
    number, result = 1, name
    while result in taken:
        number += 1
        result = f"{name}-{number}"
    return result


def _host_name(urls: tuple[str, ...]) -> str | None:
    """`openai` for a single public URL such as https://api.openai.com."""
    found = (
        re.match(r"^https?://(?:[a-z0-9-]+\.)*([a-z0-9-]+)\.[a-z]{2,}(?:[:/]|$)", urls[0]) if len(urls) == 1 else None
    )
    return found[1] if found and site_of(urls[0]) == "cloud" else None
