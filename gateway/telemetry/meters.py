"""From a `Record` to numbers: the hot path of the metrics."""

from __future__ import annotations

from typing import Final

from gateway.record import Record
from gateway.telemetry import series
from gateway.telemetry.error_codes import ERRORS
from gateway.telemetry.metrics import Labels, Registry, Values, observe

GATEWAY: Final = "headrace"
"""`gen_ai_provider_name` of an answer that no engine had a part in."""
_REMEMBERED: Final = 4_096
_DURATION: Final = series.REQUEST_DURATION.buckets
_OVERHEAD: Final = series.OVERHEAD.buckets
_TTFT: Final = series.TIME_TO_FIRST_TOKEN.buckets
_TPOT: Final = series.TIME_PER_OUTPUT_TOKEN.buckets
_USAGE: Final = series.TOKEN_USAGE.buckets
_PREDICTED: Final = series.PREDICTED_TTFT.buckets

_Key = tuple[str, str, str, str, str, int, str]


class _Children:
    """The series that requests of one kind count in; those that not every request needs are made when one does."""

    __slots__ = (
        "_model",
        "_owner",
        "_predicted",
        "_prefix",
        "_registry",
        "_tokens",
        "_tpot",
        "_ttft",
        "_usage",
        "duration",
        "requests",
    )

    def __init__(self, registry: Registry, owner: Labels, model: Labels, status: int, error: str) -> None:
        self._registry = registry
        self._owner = owner
        self._model = model
        self._tokens: dict[str, Values] = {}
        self._usage: dict[str, Values] = {}
        self._prefix: dict[str, Values] = {}
        self._predicted: Values | None = None
        self._ttft: Values | None = None
        self._tpot: Values | None = None
        known = error if not error or error in ERRORS else series.OTHER
        self.requests = registry.child(series.REQUESTS, (*owner, str(status), known))
        self.duration: Values | None = None
        if model[0]:
            named = series.UNNAMED_ERROR if known == series.OTHER else known
            self.duration = registry.child(series.REQUEST_DURATION, (*model, named))

    def tokens(self, kind: str) -> Values:
        values = self._tokens.get(kind)
        if values is None:
            values = self._tokens[kind] = self._registry.child(series.TOKENS, (*self._owner, kind))
        return values

    def usage(self, kind: str) -> Values:
        values = self._usage.get(kind)
        if values is None:
            values = self._usage[kind] = self._registry.child(series.TOKEN_USAGE, (*self._model, kind))
        return values

    def prefix(self, source: str) -> Values:
        values = self._prefix.get(source)
        if values is None:
            values = self._prefix[source] = self._registry.child(series.CACHED_TOKENS, (self._owner[0], source))
        return values

    @property
    def predicted(self) -> Values:
        if self._predicted is None:
            self._predicted = self._registry.child(series.PREDICTED_TTFT, self._owner[:1])
        return self._predicted

    @property
    def ttft(self) -> Values:
        if self._ttft is None:
            self._ttft = self._registry.child(series.TIME_TO_FIRST_TOKEN, self._model)
        return self._ttft

    @property
    def tpot(self) -> Values:
        if self._tpot is None:
            self._tpot = self._registry.child(series.TIME_PER_OUTPUT_TOKEN, self._model)
        return self._tpot


class Meters:
    """Counts finished requests. Labels that a client could choose are mapped to known values first."""

    def __init__(self, registry: Registry, deployments: frozenset[str]) -> None:
        self._registry = registry
        self._deployments = deployments
        self._remembered: dict[_Key, _Children] = {}
        self._cache: dict[str, Values] = {}
        self._overhead = registry.child(series.OVERHEAD)
        self._estimated = registry.child(series.ESTIMATED_USAGE)

    def know(self, deployments: frozenset[str]) -> None:
        """Take these for the known ones from now on; what was counted stays."""
        self._deployments = deployments
        self._remembered.clear()

    def deployment(self, name: str) -> str:
        """The label for a model name: itself if it is known."""
        return name if not name or name in self._deployments else series.OTHER

    def count(self, record: Record) -> None:
        key = (
            record.operation,
            record.engine_kind,
            record.deployment,
            record.engine_model,
            record.tenant,
            record.status,
            record.error_type,
        )
        children = self._remembered.get(key)
        if children is None:
            children = self._meet(record, key)
        children.requests[0] += 1.0
        if children.duration is not None:
            self._inference(record, children, children.duration)

    def _inference(self, record: Record, children: _Children, duration: Values) -> None:
        duration_s = record.ended_s - record.started_s
        observe(duration, _DURATION, duration_s)
        overhead_s = duration_s - record.upstream_s
        observe(self._overhead, _OVERHEAD, overhead_s if overhead_s > 0.0 else 0.0)
        usage = record.usage
        if usage.prompt_tokens or usage.completion_tokens:
            self._tokens(children, record)
        if record.error_type:
            if record.stream:
                self._abort(record)
        elif record.first_token_s:
            observe(children.ttft, _TTFT, record.first_token_s - record.started_s)
            if record.predicted_ttft_s > 0.0:
                observe(
                    children.predicted, _PREDICTED, (record.first_token_s - record.chosen_s) / record.predicted_ttft_s
                )
            more = usage.completion_tokens - 1
            if more > 0:
                observe(children.tpot, _TPOT, (record.last_token_s - record.first_token_s) / more)
        cache = self._cache.get(record.cache)
        if cache is None:
            cache = self._cache[record.cache] = self._registry.child(series.CACHE_REQUESTS, (record.cache,))
        cache[0] += 1.0

    def _tokens(self, children: _Children, record: Record) -> None:
        usage = record.usage
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        if prompt:
            children.tokens("input")[0] += prompt
            observe(children.usage("input"), _USAGE, prompt)
        if completion:
            children.tokens("output")[0] += completion
            observe(children.usage("output"), _USAGE, completion)
        if usage.cached_tokens:
            children.tokens("cached")[0] += usage.cached_tokens
        if usage.cached_told:
            children.prefix("predicted")[0] += record.predicted_cached_tokens
            children.prefix("told")[0] += usage.cached_tokens
        if usage.reasoning_tokens:
            children.tokens("reasoning")[0] += usage.reasoning_tokens
        if usage.estimated:
            self._estimated[0] += 1.0

    def _abort(self, record: Record) -> None:
        """A stream that had begun and did not end well; one that was refused never began."""
        if record.status == 499:
            side = "client"
        elif record.status >= 400:
            return
        else:
            side = "gateway" if record.error_type in series.OWN_ERRORS else "engine"
        self._registry.child(series.STREAM_ABORTS, (side,))[0] += 1.0

    def _meet(self, record: Record, key: _Key) -> _Children:
        deployment = self.deployment(record.deployment)
        model = (
            record.operation,
            record.engine_kind or GATEWAY,
            deployment,
            record.engine_model if deployment == record.deployment else "",
        )
        children = _Children(self._registry, (deployment, record.tenant), model, record.status, record.error_type)
        if len(self._remembered) >= _REMEMBERED:
            self._remembered.clear()
        self._remembered[key] = children
        return children
