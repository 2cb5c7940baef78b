"""Keeps secrets out of everything that is written for people (A25)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

MASK: Final = "[redacted]"
SHORTEST: Final = 6
"""A registered secret shorter than this is not looked for: it would blank out ordinary words."""

MAX_SHOWN: Final = 256
"""Characters kept of a text that a client chose freely."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LOOKS_SECRET: Final = re.compile(
    r"""
    (?P<keep>
        \bauthorization["']?\s*[:=]\s*["']?(?:(?:bearer|basic)\s+)?+
      | \b(?:bearer|basic)\s+(?=[^\s"',;]*\d)
      | \b(?:x-)?(?:api[_-]?key|access[_-]?token|password|secret)["']?\s*[:=]\s*["']?
      | ://[^\s/:@"]*:(?=[^\s/@"]+@)
    )[^\s"'`,;&@}]{4,}
    | \b(?:sk|pk|rk|hr|gsk|xai|ghp|gho|ghs|glpat|hf)[-_][A-Za-z0-9_-]{10,}
    | \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*
    | \b(?:AKIA|ASIA)[A-Z0-9]{16}\b
    """,
    re.IGNORECASE | re.VERBOSE,
)


class Redactor:
    """Blanks out the values registered with it, and whatever looks like a key."""

    __slots__ = ("_known", "_pattern")

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._known: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        for secret in secrets:
            self.register(secret)

    def register(self, secret: str) -> None:
        """Never show this value again; one of fewer than `SHORTEST` characters is ignored."""
        if len(secret) >= SHORTEST and secret not in self._known:
            self._known.add(secret)
            self._pattern = None

    def knows(self, text: str) -> bool:
        """Whether `text` is, as a whole, a registered value."""
        return text in self._known

    def text(self, text: str) -> str:
        if self._known:
            if self._pattern is None:
                longest_first = sorted(self._known, key=len, reverse=True)
                self._pattern = re.compile("|".join(map(re.escape, longest_first)))
            text = self._pattern.sub(MASK, text)
        return _LOOKS_SECRET.sub(_mask, text)

    def shown(self, text: str) -> str:
        """A text that a client chose, fit for a log: without secrets and query, printable, and short."""
        return _CONTROL.sub("?", self.text(text.partition("?")[0]))[:MAX_SHOWN]

    def __repr__(self) -> str:
        return f"<Redactor of {len(self._known)} values>"


def _mask(match: re.Match[str]) -> str:
    return (match["keep"] or "") + MASK
