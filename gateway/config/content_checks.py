"""What is odd about `content_log`, and about who wants to be in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.config.models import Config
from gateway.config.problems import Finding, KeyPath


def content_findings(config: Config, variables: Mapping[KeyPath, tuple[str, ...]] | None) -> Iterator[Finding]:
    """variables: the values that came from the environment; None if that is not known."""
    log = config.content_log
    if log is None:
        for name, tenant in config.tenants.items():
            if tenant.log_content:
                message = "nothing is kept: there is no `content_log`"
                path: KeyPath = ("tenants", name, "log_content")
                yield Finding(path, message, "add `content_log: {path: …, key: ${CONTENT_KEY}}`", severity="warning")
        return
    written: list[KeyPath] = [("content_log", "key")]
    written += [("content_log", "old_keys", index) for index in range(len(log.old_keys))]
    for path in written:
        if variables is not None and path not in variables:
            hint = "take it from the environment: ${CONTENT_KEY}"
            yield Finding(path, "the key is written out in the file", hint, severity="warning")
