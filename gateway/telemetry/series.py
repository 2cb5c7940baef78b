"""Which metrics exist: names, labels, units, buckets, and how the values of several workers become one.

The GenAI metrics keep the names, attributes and buckets of the OpenTelemetry semantic conventions, in Prometheus'
translation: dots become underscores, and the unit becomes a suffix.
"""

from __future__ import annotations

from typing import Final

from gateway.telemetry.cache_series import CACHE
from gateway.telemetry.shape import Fold, Kind, Series

OTHER: Final = "other"
"""The label value that stands for everything without a series of its own."""


_MODEL_LABELS = (
    "gen_ai_operation_name",
    "gen_ai_provider_name",
    "gen_ai_request_model",
    "gen_ai_response_model",
)
_MODEL_SPILL = ("gen_ai_provider_name", "gen_ai_request_model", "gen_ai_response_model")

REQUEST_DURATION = Series(
    "gen_ai_server_request_duration_seconds",
    Kind.HISTOGRAM,
    "Generative AI server request duration such as time-to-last byte or last output token.",
    (*_MODEL_LABELS, "error_type"),
    "seconds",
    (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
    spill=_MODEL_SPILL,
    max_children=50,
    otel="gen_ai.server.request.duration",
)
TIME_TO_FIRST_TOKEN = Series(
    "gen_ai_server_time_to_first_token_seconds",
    Kind.HISTOGRAM,
    "Time to generate first token for successful responses.",
    _MODEL_LABELS,
    "seconds",
    (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    spill=_MODEL_SPILL,
    max_children=30,
    otel="gen_ai.server.time_to_first_token",
)
TIME_PER_OUTPUT_TOKEN = Series(
    "gen_ai_server_time_per_output_token_seconds",
    Kind.HISTOGRAM,
    "Time per output token generated after the first token for successful responses.",
    _MODEL_LABELS,
    "seconds",
    (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
    spill=_MODEL_SPILL,
    max_children=30,
    otel="gen_ai.server.time_per_output_token",
)
TOKEN_USAGE = Series(
    "gen_ai_client_token_usage",
    Kind.HISTOGRAM,
    "Number of input and output tokens used.",
    (*_MODEL_LABELS, "gen_ai_token_type"),
    "tokens",
    (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864),
    spill=_MODEL_SPILL,
    max_children=50,
    otel="gen_ai.client.token.usage",
)
OVERHEAD = Series(
    "headrace_overhead_seconds",
    Kind.HISTOGRAM,
    "The gateway's own time per request: total minus waiting for engines.",
    (),
    "seconds",
    (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0),
)
REQUESTS = Series(
    "headrace_requests_total",
    Kind.COUNTER,
    "Requests answered, refused or given up by their client.",
    ("deployment", "tenant", "status", "error"),
    "requests",
    spill=("tenant",),
)
TOKENS = Series(
    "headrace_tokens_total",
    Kind.COUNTER,
    "Tokens, as the engine counted them; cached is part of input, reasoning is part of output.",
    ("deployment", "tenant", "type"),
    "tokens",
    spill=("tenant",),
)
IN_FLIGHT = Series(
    "headrace_in_flight", Kind.GAUGE, "Requests in flight.", ("deployment",), "requests", spill=("deployment",)
)
CLIENT_CONNECTIONS = Series(
    "headrace_client_connections", Kind.GAUGE, "Open connections from clients.", (), "connections"
)
STREAM_ABORTS = Series(
    "headrace_stream_aborts_total",
    Kind.COUNTER,
    "Streams that broke off, by the side that ended them: client, engine or gateway.",
    ("side",),
    "streams",
)
ATTEMPTS = Series(
    "headrace_attempts_total",
    Kind.COUNTER,
    "Requests sent to replicas, by how the attempt ended.",
    ("pool", "replica", "outcome"),
    "attempts",
    spill=("replica",),
    max_children=250,
)
RETRIES = Series(
    "headrace_retries_total",
    Kind.COUNTER,
    "Calls that wanted another replica of their deployment, by what came of it.",
    ("deployment", "retry"),
    "retries",
    spill=("deployment",),
    max_children=100,
)
FALLBACKS = Series(
    "headrace_fallbacks_total",
    Kind.COUNTER,
    "Calls that went to another deployment than the one asked for, by the reason.",
    ("deployment", "fallback", "reason"),
    "calls",
    spill=("deployment", "fallback"),
    max_children=150,
)
HEDGES = Series(
    "headrace_hedges_total",
    Kind.COUNTER,
    "Second attempts sent while the first was slow, by whether their answer was taken.",
    ("deployment", "hedge"),
    "attempts",
    spill=("deployment",),
    max_children=100,
)
REPLICA_IN_FLIGHT = Series(
    "headrace_replica_in_flight",
    Kind.GAUGE,
    "Requests in flight at a replica, as the gateway counts them.",
    ("pool", "replica"),
    "requests",
    spill=("replica",),
    max_children=250,
)
REPLICAS = Series(
    "headrace_replicas",
    Kind.GAUGE,
    "Replicas of a pool by state, as that worker counts them which counts most.",
    ("pool", "state"),
    "replicas",
    fold=Fold.MAX,
    spill=("pool",),
    max_children=250,
)
HELD = Series(
    "headrace_held",
    Kind.GAUGE,
    "Requests that wait for a pool to wake.",
    ("pool",),
    "requests",
    spill=("pool",),
    max_children=100,
)
PREFIX_REPLICAS = Series(
    "headrace_prefix_replicas",
    Kind.GAUGE,
    "Replicas by how it is known what their KV caches hold: exact, predicted or none, as each worker knows it.",
    ("pool", "certainty"),
    "replicas",
    spill=("pool",),
    max_children=150,
)
PREFIX_BYTES = Series(
    "headrace_prefix_index_bytes",
    Kind.GAUGE,
    "Memory of the index of prefixes.",
    (),
    "bytes",
)
PREDICTED_TTFT = Series(
    "headrace_predicted_ttft_ratio",
    Kind.HISTOGRAM,
    "Time to first token, as a multiple of what was predicted when the replica was chosen.",
    ("deployment",),
    "",
    (0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0),
    spill=("deployment",),
    max_children=20,
)
CACHED_TOKENS = Series(
    "headrace_prefix_tokens_total",
    Kind.COUNTER,
    "Prompt tokens that the chosen replica was taken to hold (predicted) and held (told), of answers that told.",
    ("deployment", "source"),
    "tokens",
    spill=("deployment",),
    max_children=100,
)
QUEUE_LENGTH = Series(
    "headrace_queue_length",
    Kind.GAUGE,
    "Requests that wait for a place at a replica.",
    ("deployment",),
    "requests",
    spill=("deployment",),
    max_children=100,
)
QUEUE_WAIT = Series(
    "headrace_queue_wait_seconds",
    Kind.HISTOGRAM,
    "How long requests waited for a place at a replica; 0 for those that found one at once.",
    ("deployment",),
    "seconds",
    (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0),
    spill=("deployment",),
    max_children=20,
)
QUEUE_SHED = Series(
    "headrace_queue_shed_total",
    Kind.COUNTER,
    "Requests turned away from the queue, by the reason.",
    ("deployment", "shed"),
    "requests",
    spill=("deployment",),
    max_children=80,
)
SPILLED = Series(
    "headrace_spilled_total",
    Kind.COUNTER,
    "Requests sent elsewhere than to the on-premise replicas of their variant, by where.",
    ("deployment", "rung"),
    "requests",
    spill=("deployment",),
    max_children=60,
)
SPILL_USD = Series(
    "headrace_spill_usd_last_hour",
    Kind.GAUGE,
    "What requests sent to clouds by `spill` cost in the last hour; of those in flight, what is expected.",
    ("deployment",),
    "usd",
    spill=("deployment",),
    max_children=60,
)
SPILL_CAPPED = Series(
    "headrace_spill_capped_total",
    Kind.COUNTER,
    "Calls kept from a cloud by `spill.max_usd_per_hour` or `spill.max_usd_per_request`.",
    ("deployment",),
    "calls",
    spill=("deployment",),
    max_children=60,
)
SCRAPES = Series(
    "headrace_engine_scrapes_total",
    Kind.COUNTER,
    "Times that an engine's own metrics were read, by how it ended: fine, missing or failed.",
    ("pool", "scrape"),
    "scrapes",
    spill=("pool",),
    max_children=150,
)
SCRAPE_AGE = Series(
    "headrace_engine_scrape_age_seconds",
    Kind.GAUGE,
    "Time since an engine last told its load, in that worker where it is longest.",
    ("pool", "replica"),
    "seconds",
    fold=Fold.MAX,
    spill=("replica",),
    max_children=250,
)
PEERS = Series(
    "headrace_peers",
    Kind.GAUGE,
    "Gateway workers that tell what they have in flight, as that worker counts them which counts most.",
    (),
    "workers",
    fold=Fold.MAX,
)
PEERS_DEGRADED = Series(
    "headrace_peers_degraded",
    Kind.GAUGE,
    "1 while some worker cannot reach the place where peers tell what they have in flight: redis or board.",
    ("place",),
    fold=Fold.MAX,
    max_children=10,
)
LIMITED = Series(
    "headrace_limited_total",
    Kind.COUNTER,
    "Calls refused because of a limit, by the code of the refusal.",
    ("tenant", "code"),
    "calls",
    spill=("tenant",),
    max_children=150,
)
PAST_SOFT_LIMIT = Series(
    "headrace_past_soft_limit_total",
    Kind.COUNTER,
    "Calls admitted while what was spent is past `usd_per_day_soft` or `usd_per_month_soft`.",
    ("tenant",),
    "calls",
    spill=("tenant",),
    max_children=100,
)
LIMITS_DEGRADED = Series(
    "headrace_limits_degraded",
    Kind.GAUGE,
    "1 while some worker cannot reach the store of the limits, so that `when_store_lost` decides.",
    fold=Fold.MAX,
)
LIMITS_LEASED = Series(
    "headrace_limits_leased",
    Kind.GAUGE,
    "Limits of which a worker has leased something that is not spent.",
    (),
    "limits",
)
CACHE_REQUESTS = Series(
    "headrace_cache_requests_total",
    Kind.COUNTER,
    "Requests by what the response cache had: hit, semantic, miss or bypass.",
    ("result",),
    "requests",
)
ESTIMATED_USAGE = Series(
    "headrace_estimated_usage_total",
    Kind.COUNTER,
    "Answers whose tokens the gateway had to estimate, because the engine gave no usage.",
    (),
    "requests",
)
LOG_LINES_DROPPED = Series(
    "headrace_access_log_dropped_total",
    Kind.COUNTER,
    "Access log lines lost, because the log could not be written fast enough or at all.",
    (),
    "lines",
)
USAGE_RECORDS = Series(
    "headrace_usage_records_total",
    Kind.COUNTER,
    "Usage records by what became of them in the worker: spooled for the database, or dropped.",
    ("usage",),
    "records",
)
CONTENT_LOG = Series(
    "headrace_content_records_total",
    Kind.COUNTER,
    "Prompts and answers for the content log, by what became of them: kept, or dropped.",
    ("content",),
    "records",
)
USAGE_SPOOL = Series(
    "headrace_usage_spool_bytes",
    Kind.GAUGE,
    "Size of the files in which usage records wait for the database, as looked at each second.",
    (),
    "bytes",
    fold=Fold.MAX,
)
BUILD_INFO = Series(
    "headrace_build_info",
    Kind.GAUGE,
    "Always 1; the labels say what runs.",
    ("version", "python"),
    fold=Fold.MAX,
)
CONFIG_INFO = Series(
    "headrace_config_info",
    Kind.GAUGE,
    "Always 1; the label is the version of the configuration that serves, as `x-headrace-config` has it.",
    ("version",),
    fold=Fold.MAX,
    max_children=20,
)
CONFIG_APPLIED = Series(
    "headrace_config_applied_timestamp_seconds",
    Kind.GAUGE,
    "Unix time at which the configuration that serves was applied.",
    (),
    "seconds",
    fold=Fold.MAX,
)
CONFIG_REJECTED = Series(
    "headrace_config_rejected_total",
    Kind.COUNTER,
    "Configurations that were refused, by who brought them: file, signal, socket, api or database.",
    ("origin",),
    "configurations",
    max_children=10,
)
ENGINE_MEMORY = Series(
    "headrace_engine_memory_bytes",
    Kind.GAUGE,
    "Resident memory of an engine that the gateway runs, its helpers included.",
    ("pool", "engine"),
    "bytes",
    spill=("pool", "engine"),
    max_children=100,
)
DATABASE_UP = Series(
    "headrace_database_up",
    Kind.GAUGE,
    "1 while the database answers, 0 while it does not; keys that are known go on for database.grace_s.",
    fold=Fold.MIN,
)
DIRECTORY_KEYS = Series(
    "headrace_directory_keys", Kind.GAUGE, "Keys of the database that a worker knows.", (), "keys", fold=Fold.MIN
)
DIRECTORY_AGE = Series(
    "headrace_directory_age_seconds",
    Kind.GAUGE,
    "For how long the database was not reached, as far as the worker that is told last knows.",
    (),
    "seconds",
    fold=Fold.MAX,
)
ISSUER_KEYS_AGE = Series(
    "headrace_issuer_keys_age_seconds",
    Kind.GAUGE,
    "Time since the keys of an issuer of `auth.jwt` were last fetched, in that worker where it is longest.",
    ("issuer",),
    "seconds",
    fold=Fold.MAX,
    spill=("issuer",),
    max_children=50,
)
WORKERS = Series("headrace_workers", Kind.GAUGE, "Worker processes in this sum.", (), "workers")
CPU = Series("process_cpu_seconds_total", Kind.COUNTER, "User and system CPU time of all workers.", (), "seconds")
RSS = Series("process_resident_memory_bytes", Kind.GAUGE, "Resident memory of all workers.", (), "bytes")
START = Series(
    "process_start_time_seconds",
    Kind.GAUGE,
    "Unix time at which the oldest worker started.",
    (),
    "seconds",
    fold=Fold.MIN,
)

ALL: Final[dict[str, Series]] = {
    series.name: series
    for series in (
        REQUEST_DURATION,
        TIME_TO_FIRST_TOKEN,
        TIME_PER_OUTPUT_TOKEN,
        TOKEN_USAGE,
        OVERHEAD,
        REQUESTS,
        TOKENS,
        IN_FLIGHT,
        CLIENT_CONNECTIONS,
        STREAM_ABORTS,
        ATTEMPTS,
        RETRIES,
        FALLBACKS,
        HEDGES,
        REPLICA_IN_FLIGHT,
        REPLICAS,
        HELD,
        PREFIX_REPLICAS,
        PREFIX_BYTES,
        PREDICTED_TTFT,
        CACHED_TOKENS,
        QUEUE_LENGTH,
        QUEUE_WAIT,
        QUEUE_SHED,
        SPILLED,
        SPILL_USD,
        SPILL_CAPPED,
        SCRAPES,
        SCRAPE_AGE,
        PEERS,
        PEERS_DEGRADED,
        LIMITED,
        PAST_SOFT_LIMIT,
        LIMITS_DEGRADED,
        LIMITS_LEASED,
        CACHE_REQUESTS,
        *CACHE,
        ESTIMATED_USAGE,
        LOG_LINES_DROPPED,
        USAGE_RECORDS,
        USAGE_SPOOL,
        CONTENT_LOG,
        BUILD_INFO,
        CONFIG_INFO,
        CONFIG_APPLIED,
        CONFIG_REJECTED,
        ENGINE_MEMORY,
        DATABASE_UP,
        DIRECTORY_KEYS,
        DIRECTORY_AGE,
        ISSUER_KEYS_AGE,
        WORKERS,
        CPU,
        RSS,
        START,
    )
}

UNNAMED_ERROR: Final = "_OTHER"
"""What the conventions call an error type that has no name of its own."""

OWN_ERRORS: Final = frozenset({"internal_error", "shutting_down", "total_timeout", "write_timeout"})
"""Errors with which the gateway itself ends a stream that the engine would have gone on with."""

OUTCOMES: Final = frozenset({"fine", "full", "broken", "abandoned"})
"""Values of the label `outcome`; any other counts as `other`."""
