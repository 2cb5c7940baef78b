"""The metrics of the response cache."""

from __future__ import annotations

from typing import Final

from gateway.telemetry.shape import Fold, Kind, Series

LOOKUPS = Series(
    "headrace_cache_lookups_total",
    Kind.COUNTER,
    "Questions looked up in the response cache, by tier, exact or semantic, and result, hit or miss.",
    ("tier", "result"),
    "questions",
)
REFUSALS = Series(
    "headrace_cache_refusals_total",
    Kind.COUNTER,
    "Questions that were not looked up in a tier, and answers that were not kept (store), by the cause.",
    ("tier", "cause"),
    "calls",
    spill=("cause",),
    max_children=60,
)
SAVED_TOKENS = Series(
    "headrace_cache_saved_tokens_total",
    Kind.COUNTER,
    "Tokens that engines neither read nor wrote, as the answer came from the cache.",
    ("deployment", "type"),
    "tokens",
    spill=("deployment",),
    max_children=60,
)
SAVED_SECONDS = Series(
    "headrace_cache_saved_seconds_total",
    Kind.COUNTER,
    "Time that engines took for the answers that the cache served in their place.",
    ("deployment",),
    "seconds",
    spill=("deployment",),
    max_children=40,
)
SAVED_USD = Series(
    "headrace_cache_saved_usd_total",
    Kind.COUNTER,
    "What the answers that the cache served had cost.",
    ("deployment",),
    "usd",
    spill=("deployment",),
    max_children=40,
)
ENTRIES = Series(
    "headrace_cache_entries",
    Kind.GAUGE,
    "Answers that are kept, in that worker which keeps most.",
    (),
    "entries",
    fold=Fold.MAX,
)
BYTES = Series("headrace_cache_bytes", Kind.GAUGE, "Memory for answers and their vectors.", (), "bytes")
DROPPED = Series(
    "headrace_cache_dropped_total",
    Kind.COUNTER,
    "Answers that are not kept any more, or never were, by the cause, in each worker.",
    ("cause",),
    "entries",
    max_children=10,
)
COHORTS = Series(
    "headrace_cache_cohorts",
    Kind.GAUGE,
    "Cohorts, which are a tenant and a deployment, by how they stand, as that worker counts them which counts most.",
    ("standing",),
    "cohorts",
    fold=Fold.MAX,
    max_children=10,
)
BOUND = Series(
    "headrace_cache_certified_bound_ratio",
    Kind.GAUGE,
    "Upper limit of the share of wrong ones among a certified cohort's semantic hits, as the judge sees it.",
    ("tenant", "deployment"),
    fold=Fold.MAX,
    spill=("tenant", "deployment"),
    max_children=100,
)
AUDITED = Series(
    "headrace_cache_audited_error_ratio",
    Kind.GAUGE,
    "Share of wrong ones among a cohort's audited hits: observed, and the low and high limit of its interval.",
    ("tenant", "deployment", "estimate"),
    fold=Fold.MAX,
    spill=("tenant", "deployment"),
    max_children=150,
)
JOINED = Series(
    "headrace_cache_joined_total",
    Kind.COUNTER,
    "Calls that went along with another one, which asked the same at the same time.",
    (),
    "calls",
)
TAKEN_OVER = Series(
    "headrace_cache_taken_over_total",
    Kind.COUNTER,
    "Calls that one of those that went along made anew, as the one before had failed.",
    (),
    "calls",
)
JOINED_BYTES = Series(
    "headrace_cache_joined_bytes",
    Kind.GAUGE,
    "Memory for answers under way, for calls that may yet go along.",
    (),
    "bytes",
)
STORE_AWAY = Series(
    "headrace_cache_store_away_seconds",
    Kind.GAUGE,
    "For how long the store of the response cache was not to be had, in that worker which misses it longest; 0: it is.",
    (),
    "seconds",
    fold=Fold.MAX,
)
STORE_WAITING = Series(
    "headrace_cache_store_waiting",
    Kind.GAUGE,
    "Records of the response cache that its store has not confirmed.",
    (),
    "records",
)
STORE_DROPPED = Series(
    "headrace_cache_store_dropped_total",
    Kind.COUNTER,
    "Records of the response cache that were lost, as too many waited for its store.",
    (),
    "records",
)
LABELS = Series(
    "headrace_cache_labels_total",
    Kind.COUNTER,
    "Labels that were wanted for a miss or an audit, by what settled them or why there is none.",
    ("wish", "label"),
    "labels",
    max_children=30,
)
LABELS_WAITING = Series(
    "headrace_cache_labels_waiting", Kind.GAUGE, "Labels that wait until engines idle.", (), "labels"
)
LABELS_DROPPED = Series(
    "headrace_cache_labels_dropped_total",
    Kind.COUNTER,
    "Labels that waited too long, or had to make room.",
    (),
    "labels",
)
LABEL_LAG = Series(
    "headrace_cache_label_lag_seconds",
    Kind.HISTOGRAM,
    "Time from an answer to its label.",
    (),
    "seconds",
    (0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)
JUDGE_CALLS = Series(
    "headrace_cache_judge_calls_total",
    Kind.COUNTER,
    "Questions to the judge, by what came of them: same, different, unclear or failed.",
    ("verdict",),
    "questions",
    max_children=10,
)
JUDGE_SHED = Series(
    "headrace_cache_judge_shed_total",
    Kind.COUNTER,
    "Times that the judge was not asked, nor a hit audited, since others needed the engines.",
    (),
    "questions",
)
JUDGE_USD = Series(
    "headrace_cache_judge_usd_total",
    Kind.COUNTER,
    "What the judge and the audits cost.",
    (),
    "usd",
)
JUDGE_ERROR = Series(
    "headrace_cache_judge_error_ratio",
    Kind.GAUGE,
    "Share of known pairs, same or different, that the judge took for the other, with the limits of its interval.",
    ("pairs", "estimate"),
    fold=Fold.MAX,
    max_children=10,
)
JUDGE_UNFIT = Series(
    "headrace_cache_judge_unfit",
    Kind.GAUGE,
    "1: no semantic answer is served, as the judge takes different answers for the same more often than answers may "
    "be wrong.",
    (),
    "",
    fold=Fold.MAX,
)

CACHE: Final = (
    LOOKUPS,
    REFUSALS,
    SAVED_TOKENS,
    SAVED_SECONDS,
    SAVED_USD,
    ENTRIES,
    BYTES,
    DROPPED,
    COHORTS,
    BOUND,
    AUDITED,
    JOINED,
    TAKEN_OVER,
    JOINED_BYTES,
    STORE_AWAY,
    STORE_WAITING,
    STORE_DROPPED,
    LABELS,
    LABELS_WAITING,
    LABELS_DROPPED,
    LABEL_LAG,
    JUDGE_CALLS,
    JUDGE_SHED,
    JUDGE_USD,
    JUDGE_ERROR,
    JUDGE_UNFIT,
)
