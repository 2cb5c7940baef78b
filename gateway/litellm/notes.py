"""What an import could not carry over, and why: the reasons for LiteLLM's settings by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gateway.config.problems import KeyPath, dotted
from gateway.config.yaml import Document

Kind = Literal["lost", "changed", "warning"]


@dataclass(frozen=True, slots=True)
class Note:
    """`lost`: left behind; `changed`: carried in another form; `warning`: carried, and worth a look."""

    source: str
    line: int
    key: str
    kind: Kind
    reason: str

    def __str__(self) -> str:
        label = {"lost": "not carried", "changed": "changed", "warning": "warning"}[self.kind]
        return f"{self.source}:{self.line}: {label}: {self.key}: {self.reason}"

    def as_dict(self) -> dict[str, str | int]:
        return {"file": self.source, "line": self.line, "key": self.key, "kind": self.kind, "reason": self.reason}


class Notes:
    """Collects notes, and finds their lines."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._notes: dict[Note, None] = {}

    def add(self, path: KeyPath, kind: Kind, why: str) -> None:
        keys, values, place = self._document.keys, self._document.values, path
        while place not in keys and place not in values:
            place = place[:-1]
        span = keys.get(place) or values[place]
        self._notes[Note(self._document.source, span.line + 1, dotted(path), kind, why)] = None

    def stands(self, path: KeyPath) -> bool:
        """Whether the file has such a key."""
        return path in self._document.keys

    def all(self) -> tuple[Note, ...]:
        """In the order of the file, each once."""
        return tuple(sorted(self._notes, key=lambda note: note.line))


_CALLBACK = "callbacks are not run; there are an access log, metrics and OpenTelemetry traces (telemetry)"
_DATABASE = "there is no database; keys stand in the configuration (auth.keys)"
_FALLBACK = "fallbacks to other deployments are not carried; within a deployment every replica is tried (attempts)"
_LIMIT = "request and token limits are not carried; set them anew (limits, tenants)"
_REDIS = "gateways share limits and load over a server that `redis.url` names; one by itself needs none"
_COOLDOWN = "replicas are taken out and back in by their health, without settings"
_BODY = "bodies pass through unchanged; the engine decides which parameters it takes"
_LOG = "see telemetry.access_log"
_UI = "there is no web interface"
_PRICE = "prices are not carried yet"

REASONS = {
    "allowed_fails": _COOLDOWN,
    "allowed_fails_policy": _COOLDOWN,
    "alerting": "alerts are left to what reads the metrics",
    "alerting_args": "alerts are left to what reads the metrics",
    "alerting_threshold": "alerts are left to what reads the metrics",
    "callbacks": _CALLBACK,
    "content_policy_fallbacks": _FALLBACK,
    "context_window_fallbacks": _FALLBACK,
    "cooldown_time": _COOLDOWN,
    "custom_auth": "callers are known by auth.keys alone",
    "database_connection_pool_limit": _DATABASE,
    "database_connection_timeout": _DATABASE,
    "database_url": _DATABASE,
    "default_fallbacks": _FALLBACK,
    "disable_cooldowns": _COOLDOWN,
    "drop_params": _BODY,
    "enable_jwt_auth": "callers are known by auth.keys alone",
    "enable_pre_call_checks": "the engine refuses what is too long for its context",
    "failure_callback": _CALLBACK,
    "fallbacks": _FALLBACK,
    "input_cost_per_token": _PRICE,
    "json_logs": _LOG,
    "max_budget": _LIMIT,
    "modify_params": _BODY,
    "output_cost_per_token": _PRICE,
    "redis_host": _REDIS,
    "redis_password": _REDIS,
    "redis_port": _REDIS,
    "redis_url": _REDIS,
    "retry_policy": "one number holds for every failure before the first byte (attempts)",
    "rpm": _LIMIT + ", nor the shares that LiteLLM makes of them",
    "tpm": _LIMIT + ", nor the shares that LiteLLM makes of them",
    "service_callbacks": _CALLBACK,
    "set_verbose": _LOG,
    "store_model_in_db": _DATABASE,
    "success_callback": _CALLBACK,
    "turn_off_message_logging": "contents are never logged",
    "ui_access_mode": _UI,
}

REQUEST_DEFAULTS = frozenset(
    {
        "temperature",
        "max_tokens",
        "max_completion_tokens",
        "top_p",
        "top_k",
        "seed",
        "stop",
        "frequency_penalty",
        "presence_penalty",
        "n",
        "logit_bias",
        "response_format",
        "tools",
        "tool_choice",
        "user",
        "extra_body",
        "reasoning_effort",
        "thinking",
    }
)


def reason(key: str) -> str:
    """Why a setting of this name was left behind."""
    if key in REQUEST_DEFAULTS:
        return "defaults for requests are not carried; callers send their own"
    return REASONS.get(key, "there is no such setting here")
