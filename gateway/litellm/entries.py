"""One entry of LiteLLM's `model_list`: what it asks for, in our words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeGuard

from pydantic import TypeAdapter, ValidationError

from gateway.config import Name, without_version
from gateway.config.problems import KeyPath
from gateway.config.sites import site_of
from gateway.litellm.notes import Notes, reason
from gateway.litellm.providers import CARRIED, Provider, Site, other_version, split_model

_ENVIRON = re.compile(r"^os\.environ/([A-Za-z_][A-Za-z0-9_]*)$")
_URL = re.compile(r"^https?://[^\s/?#]+[^\s?#]*$")
_NAME = TypeAdapter[str](Name)
_NO_KEY = {"", "none", "null", "empty"}
_PARAMS = {
    "model",
    "api_base",
    "base_url",
    "api_key",
    "custom_llm_provider",
    "litellm_credential_name",
    "weight",
    "timeout",
    "stream_timeout",
    "num_retries",
    "max_retries",
    "max_parallel_requests",
    "extra_headers",
    "headers",
    "organization",
}

_Mapping = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Common:
    """What entries have in common that become replicas of one pool."""

    kind: str
    site: Site
    api_key: str | None
    headers: tuple[tuple[str, str], ...]
    max_in_flight: int | None


@dataclass(slots=True)
class Entry:
    """One item of `model_list` that can be carried."""

    path: KeyPath
    model: str
    url: str
    common: Common
    weight: float | None
    params: _Mapping


class EntryReader:
    """Reads the items of `model_list` one by one, and notes what it cannot carry."""

    def __init__(self, credentials: object, notes: Notes) -> None:
        self._credentials = credentials if isinstance(credentials, list) else []
        self._note = notes.add

    def read(self, item: object, path: KeyPath) -> tuple[str, Entry] | None:
        params = item.get("litellm_params") if isinstance(item, dict) else None
        named = params.get("model") if isinstance(params, dict) else None
        if not isinstance(item, dict) or not isinstance(params, dict) or not isinstance(named, str):
            self._note(path, "lost", "it has no litellm_params with a model")
            return None
        for key in item.keys() - {"model_name", "litellm_params"}:
            self._beside((*path, key), item[key])
        name = str(item.get("model_name", named))
        params = self._with_credential(params, path)
        provider_name, model = split_model(named, text_of(params.get("custom_llm_provider")))
        why = self._cannot_carry(name, provider_name, model)
        if why:
            self._note((*path, "litellm_params", "model"), "lost", why)
            return None
        url = self._url(CARRIED[str(provider_name)], params, (*path, "litellm_params"))
        if url is None:
            return None
        common = self._common(str(provider_name), params, url, (*path, "litellm_params"))
        for key in params.keys() - _PARAMS:
            self._note((*path, "litellm_params", key), "lost", reason(key))
        return name, Entry(path, model, url, common, self._weight(params, path), params)

    def _weight(self, params: _Mapping, path: KeyPath) -> float | None:
        weight = params.get("weight")
        if weight is None or (is_number(weight) and weight >= 0):
            return weight
        self._note((*path, "litellm_params", "weight"), "lost", "it is not a number of at least 0")
        return None

    def _beside(self, path: KeyPath, value: object) -> None:
        if path[-1] != "model_info":
            return self._note(path, "lost", reason(str(path[-1])))
        keys = ", ".join(value) if isinstance(value, dict) else ""
        return self._note(path, "lost", f"facts about models are not carried yet: {keys}")

    def _with_credential(self, params: _Mapping, path: KeyPath) -> dict[str, object]:
        wanted = params.get("litellm_credential_name")
        if wanted is None:
            return dict(params)
        for entry in self._credentials:
            values = entry.get("credential_values") if isinstance(entry, dict) else None
            if isinstance(values, dict) and entry.get("credential_name") == wanted:
                return {**values, **params}
        key = (*path, "litellm_params", "litellm_credential_name")
        self._note(key, "lost", f'credential_list has no "{wanted}"')
        return dict(params)

    def _cannot_carry(self, name: str, provider: str | None, model: str) -> str:
        if "*" in name or "*" in model:
            return "wildcards are not carried; list the models that callers ask for"
        if provider is None:
            return f'"{model}" names no provider; write openai/{model} if it speaks the OpenAI protocol'
        if provider not in CARRIED:
            return f'the provider "{provider}" has a protocol of its own, for which there is no engine yet'
        if not is_name(name):
            return f'"{name}" cannot be a deployment: letters, digits and . _ : / @ + -, at most 128'
        return ""

    def _url(self, provider: Provider, params: _Mapping, path: KeyPath) -> str | None:
        key = "api_base" if "api_base" in params else "base_url"
        raw = text_of(params.get(key)) or provider.base
        if raw is None:
            self._note((*path, "model"), "lost", "it has no api_base, which LiteLLM takes from the environment; add it")
            return None
        if from_environment(raw):
            self._note(
                (*path, key), "warning", "the pool counts as cloud, as its URL is not known here; see pools.*.site"
            )
            return carried(raw)
        if not _URL.match(raw):
            self._note((*path, key), "lost", "it is not an http:// or https:// URL without query")
            return None
        version = other_version(raw)
        if version:
            self._note((*path, key), "lost", f"it ends in {version}, and engines are called at /v1 alone")
            return None
        if key in params and not raw.rstrip("/").endswith("/v1") and not provider.adds_v1:
            self._note(
                (*path, key), "changed", "engines are called at /v1/… below it; LiteLLM left the /v1 to api_base"
            )
        return without_version(raw)

    def _common(self, provider: str, params: _Mapping, url: str, path: KeyPath) -> Common:
        known = CARRIED[provider]
        api_key = text_of(params.get("api_key"))
        if api_key is not None and api_key.lower() in _NO_KEY:
            api_key = None
        elif api_key is None and known.key_env and url == known.base:
            api_key = f"os.environ/{known.key_env}"
        elif api_key is not None and not from_environment(api_key):
            self._note((*path, "api_key"), "warning", "the secret stands in the file; better `${VAR}`")
        parallel = params.get("max_parallel_requests")
        limit = parallel if isinstance(parallel, int) and not isinstance(parallel, bool) and parallel >= 1 else None
        if limit is not None:
            self._note(
                (*path, "max_parallel_requests"), "changed", "max_in_flight counts per replica and gateway worker"
            )
        return Common(
            kind=known.kind,
            site=site_of(url),
            api_key=None if api_key is None else carried(api_key),
            headers=tuple(self._headers(params, path)),
            max_in_flight=limit,
        )

    def _headers(self, params: _Mapping, path: KeyPath) -> Iterator[tuple[str, str]]:
        for key in ("headers", "extra_headers"):
            headers = params.get(key)
            if isinstance(headers, dict):
                yield from ((str(name), carried(str(value))) for name, value in headers.items())
        organization = params.get("organization")
        if isinstance(organization, str):
            yield "OpenAI-Organization", carried(organization)
        elif organization is not None:
            self._note((*path, "organization"), "lost", "a list of organizations needs an entry for each")


def text_of(value: object) -> str | None:
    return None if value is None else str(value)


def from_environment(text: str) -> bool:
    return _ENVIRON.match(text) is not None


def is_name(text: str) -> bool:
    """Whether a deployment may be called so."""
    try:
        _NAME.validate_python(text)
    except ValidationError:
        return False
    return True


def is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def carried(text: str) -> str:
    """A LiteLLM string as one of ours: `os.environ/VAR` becomes `${VAR}`, a literal `${` is escaped."""
    found = _ENVIRON.match(text)
    return f"${{{found[1]}}}" if found else text.replace("${", "$${")
