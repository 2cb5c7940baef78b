"""An explanation, for people."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gateway.explanation import Explanation, PromptReport, QueueReport, ReplicaView, VariantReport

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PIPE_WIDTH = 200
_COLD = "from the configuration alone: no replica is busy, none has failed, no speed is known; --live asks the gateway"


def show(told: Explanation, console: Console | None = None) -> None:
    from rich.text import Text

    out = console or _console()
    for line in _head(told):
        out.print(Text(line))
    for variant in told.variants:
        out.print()
        out.print(Text(_title(variant), style="bold"))
        for line in (_prompt(variant.prompt), _queue(variant.queue), *(note.text for note in variant.notes)):
            out.print(Text(f"  {line}"))
        if variant.replicas:
            out.print(table(variant))
        for line in _remarks(variant):
            out.print(Text(f"  {line}"))


def table(variant: VariantReport) -> Table:
    """Every replica: those that may get the request first, by their cost."""
    from rich.table import Table

    terms = list(dict.fromkeys(name for one in variant.replicas for name in one.terms))
    shown = Table(box=None, pad_edge=False)
    for title in (
        "",
        "REPLICA",
        *(name.upper() for name in terms),
        "CHANCE",
        "TTFT",
        "CACHED",
        "TOKENS/S",
        "IN FLIGHT",
    ):
        shown.add_column(title, justify="left" if title in ("", "REPLICA") else "right", no_wrap=True)
    for one in sorted(variant.replicas, key=_order):
        figures = [_figure(one.terms[name]) if name in one.terms else "-" for name in terms]
        chance = "-" if one.vetoes else f"{one.chance:.0%}"
        cached = f"{one.cached_tokens} {one.cached_known}"
        speed = f"{one.speed.tokens_per_s:.0f}{'' if one.speed.observations else ' assumed'}"
        ttft = f"{one.predicted_ttft_s:.3f} s"
        shown.add_row("→" if one.chosen else "", one.name, *figures, chance, ttft, cached, speed, f"{one.in_flight}")
    return shown


def _head(told: Explanation) -> Iterator[str]:
    streamed = ", streamed" if told.stream else ""
    yield f"{told.deployment}: {told.operation}{streamed}, policy {told.policy}"
    by = f"key {told.key!r}, " if told.key else ""
    yield f"{by}tenant {told.tenant!r}, class {told.sensitivity!r}"
    yield _COLD if told.worker is None else f"by the books of worker {told.worker}"
    for note in told.notes:
        yield note.text


def _title(variant: VariantReport) -> str:
    model = "" if variant.model == variant.name else f" (model {variant.model})"
    return f"variant {variant.name}{model}: {variant.share:.0%} of the requests"


def _prompt(prompt: PromptReport) -> str:
    how = "counted" if prompt.counted else "estimated"
    parts = [f"prompt: {prompt.prompt_tokens} tokens, {how}; answer: {prompt.output_tokens:.0f} expected"]
    if prompt.blocks_of == "none":
        parts.append("prefix: nothing to look up")
    else:
        parts.append(
            f"prefix: {prompt.prefix_blocks} blocks of {prompt.block_tokens:.3g} tokens, by {prompt.blocks_of}"
        )
    parts += [f"session: {prompt.session}"] if prompt.session else []
    parts += [f"adapter: {prompt.adapter}"] if prompt.adapter else []
    parts += ["with a cache_salt"] if prompt.cache_salt else []
    return "; ".join(parts)


def _queue(queue: QueueReport) -> str:
    if queue.outcome == "sent":
        return f"it would be sent at once; class {queue.priority}"
    doing = f"wait in class {queue.priority}" if queue.outcome == "waits" else "be refused"
    return f"it would {doing}: {queue.reason}"


def _remarks(variant: VariantReport) -> Iterator[str]:
    for one in variant.replicas:
        for veto in one.vetoes:
            yield f"{one.name} is not asked: {veto.text}"
        for note in one.notes:
            yield f"{one.name}: {note.text}"


def _order(one: ReplicaView) -> tuple[bool, float]:
    return bool(one.vetoes), one.terms.get("cost", float("inf"))


def _figure(value: float) -> str:
    return f"{value:.0f}" if value.is_integer() else f"{value:.4g}"


def _console() -> Console:
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)
