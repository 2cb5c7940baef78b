"""What is wrong with how a pool's replicas are found and woken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gateway.config.models import Pool
from gateway.config.problems import Finding, KeyPath


def pool_sources(pool: Pool, here: KeyPath) -> Iterator[Finding]:
    """One source of replicas, whose files exist, and one way to wake them."""
    named = [name for name in ("urls", "dns", "file", "kubernetes") if getattr(pool, name)]
    for name in named[1:]:
        yield Finding((*here, name), f"replicas are named by `{named[0]}` and by `{name}`", "keep one", at_key=True)
    if pool.file is not None and not Path(pool.file).parent.is_dir():
        folder = str(Path(pool.file).parent)
        yield Finding((*here, "file"), f'there is no folder "{folder}"', f"relative paths start at {Path.cwd()}")
    if pool.scale_to_zero is None:
        return
    wake = pool.scale_to_zero.wake
    where = (*here, "scale_to_zero", "wake")
    if bool(wake.command) == (wake.webhook is not None):
        problem = "has both `command` and `webhook`" if wake.command else "has neither `command` nor `webhook`"
        yield Finding(where, f"`wake` {problem}", "keep one" if wake.command else "add one", at_key=True)
    if pool.started_here:
        hint = "add `urls`, `dns`, `file` or `kubernetes`"
        yield Finding(
            (*here, "scale_to_zero"), "engines that the gateway starts itself are never asleep", hint, at_key=True
        )
