"""What `headrace cache` shows to people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gateway.caching.report import CacheReport, CohortReport, EntryReport, ErrorReport, JoinedReport, StoreReport

if TYPE_CHECKING:
    from rich.table import Table

_COLOURS = {"certified": "green", "learning": "yellow", "cold": "blue", "alarmed": "red"}


def summary(found: CacheReport) -> list[Table]:
    return [_figures(found), _cohorts(found)] if found.cohorts else [_figures(found)]


def _figures(found: CacheReport) -> Table:
    judge = found.judge
    rows = [
        ("entries", f"{found.entries}"),
        ("memory", f"{size(found.size_bytes)} in {len(found.workers)} workers of {size(found.max_bytes)} each"),
        ("hits", _counts(found.hits)),
        ("misses", _counts(found.misses)),
        ("refusals", _counts(found.refusals)),
        ("dropped", _counts(found.dropped)),
        ("joined", _joined(found.joined)),
        ("store", _store(found.store)),
        ("saved", f"{found.saved_tokens} tokens, {found.saved_s:.1f} s of engines, {found.saved_usd:.4f} USD"),
        ("labels", f"{_counts(judge.labels)}; {judge.waiting} waiting, {judge.dropped} dropped"),
    ]
    if judge.deployment:
        put_off = f"; put off for others {judge.shed} times"
        rows += [
            ("judge", f"{judge.deployment}: {_counts(judge.asked)}; {judge.usd:.4f} USD{put_off}"),
            ("its error", f"on equal pairs {_error(judge.same)}, on different ones {_error(judge.different)}"),
        ]
    if judge.objection:
        what = "serves nothing semantic" if judge.unfit else "can hardly certify anything"
        rows.append(("warning", f"{what}: {judge.objection}; see cache.semantic.judge.deployment"))
    return _of_rows(rows)


def _joined(joined: JoinedReport) -> str:
    anew = f", {joined.taken_over} made anew" if joined.taken_over else ""
    now = f"; {size(joined.size_bytes)} for more of them" if joined.size_bytes else ""
    return f"{joined.calls} calls to others that asked the same{anew}{now}"


def _store(store: StoreReport) -> str:
    state = f"away for {store.away_s:.0f} s in {store.away} workers ({store.reason})" if store.away else "ok"
    skipped = f", {store.skipped} cannot be read" if store.skipped else ""
    return f"{store.kind}: {state}; {store.waiting} records waiting, {store.dropped} lost{skipped}"


def _cohorts(found: CacheReport) -> Table:
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False)
    for title in ("TENANT", "DEPLOYMENT", "STATE", "BOUND", "WITH JUDGE", "AUDITED WRONG", "LABELS", "HITS"):
        shown.add_column(title, justify="left" if title in ("TENANT", "DEPLOYMENT", "STATE") else "right")
    for one in found.cohorts:
        state = Text(one.state, style=_COLOURS[one.state])
        shown.add_row(
            Text(one.tenant),
            Text(one.deployment),
            state,
            _bound(one, one.bound),
            _bound(one, one.stated_bound),
            _error(one.audited),
            f"{one.labels}",
            f"{one.hits}",
        )
    return shown


def entry_table(found: EntryReport) -> Table:
    rows = [
        ("id", found.id),
        ("tenant", found.tenant),
        ("deployment", f"{found.deployment}, answering as {found.model}"),
        ("tags", ", ".join(found.tags) or "none"),
        ("epoch", f"{found.epoch}"),
        ("kept", f"{_time(found.created_at)} to {_time(found.expires_at)}"),
        ("size", size(found.size_bytes)),
        ("found", "also worded differently" if found.semantic else "word for word"),
        ("served", f"{found.hits} times; fitted {found.confirmed} judged questions, and {found.contradicted} not"),
        ("took", f"{found.saved_s:.3f} s, {found.saved_usd:.6f} USD"),
        ("question", found.question if found.question is not None else f"SHA-256 {found.question_sha256}"),
        ("answer", found.answer if found.answer is not None else f"SHA-256 {found.answer_sha256}"),
    ]
    return _of_rows(rows)


def size(count: int) -> str:
    """Bytes for people."""
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def _of_rows(rows: list[tuple[str, str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, show_header=False)
    shown.add_column(style="bold")
    shown.add_column()
    for name, value in rows:
        shown.add_row(name, Text(value))
    return shown


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()) if count) or "none"


def _bound(cohort: CohortReport, bound: float) -> str:
    return f"{bound:.2%}" if cohort.state == "certified" else "-"


def _error(error: ErrorReport) -> str:
    if not error.of:
        return "not known"
    return f"{error.wrong} of {error.of} ({error.low:.1%} to {error.high:.1%})"


def _time(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (OverflowError, ValueError):
        return "the end of time"
