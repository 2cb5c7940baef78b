"""What a running gateway is asked about its configuration, and what it answers. The wire form is JSON, one a line."""

from __future__ import annotations

from typing import Literal

import msgspec

from gateway.config.dump import Difference

MAX_TEXT_BYTES = 4 * 1024 * 1024
"""Of a configuration that is sent here."""
Origin = Literal["start", "file", "signal", "socket", "api", "database"]
"""Who brought a configuration: the start, a change of the file, SIGHUP, the control socket, the admin API of this
gateway, or that of another one through the database."""
OF_THE_FILE = ("start", "file", "signal")


class _Told(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    pass


class Show(_Told, frozen=True):
    """What serves? `effective`: with the whole configuration, secrets masked."""

    effective: bool = False


class ShowHistory(_Told, frozen=True):
    """What served before?"""


class ShowText(_Told, frozen=True):
    """The text of one version as it was given, with whatever secrets stand in it."""

    number: int


class Propose(_Told, frozen=True):
    """Check a configuration, and have it serve.

    name:     what the text is called in messages, such as its file.
    who:      by whom; empty: by the user at the other end of the socket.
    dry_run:  only say what would change.
    expected: the version that must be serving, lest somebody else's change is undone; empty: any.
    version:  what it is called on the gateway that it comes from; empty: it takes the next number.
    base:     a hash of the file that it was applied over there. given_at: when, in Unix time. Set where this gateway
              may have had its last word since: it is passed over if so.
    """

    text: str
    name: str = "<given>"
    who: str = ""
    origin: Origin = "socket"
    dry_run: bool = False
    expected: str = ""
    version: str = ""
    base: str = ""
    given_at: float = 0.0


class Rollback(_Told, frozen=True):
    """Have an earlier configuration serve again. `number`: of its version; None: the one before that which serves."""

    number: int | None = None
    who: str = ""
    origin: Origin = "socket"
    dry_run: bool = False
    expected: str = ""


Question = Show | ShowHistory | ShowText | Propose | Rollback


class Outcome(_Told, frozen=True):
    """What became of a proposal.

    status:   `checked`: it was a dry run, and it is good. `conflict`: another version serves than was expected.
    version:  what serves now. base: a hash of the gateway's own file; empty: it has none.
    problems: why it was refused, with places, or what is odd about it.
    """

    status: Literal["applied", "unchanged", "checked", "refused", "conflict"]
    version: str
    base: str = ""
    differences: list[Difference] = []
    problems: list[str] = []

    @property
    def good(self) -> bool:
        return self.status not in ("refused", "conflict")


class Shown(_Told, frozen=True):
    """What serves.

    at:     Unix time in seconds at which it began to.
    file:   the gateway's own file; empty: it has none.
    beside: what there is to say of that file, where it is not what serves; empty: nothing.
    """

    version: str
    at: float
    origin: Origin
    who: str
    name: str
    file: str = ""
    beside: str = ""
    effective: str = ""


class Past(_Told, frozen=True):
    """One configuration that served, without its text."""

    version: str
    at: float
    origin: Origin
    who: str
    name: str
    note: str = ""
    differences: list[Difference] = []


class History(_Told, frozen=True):
    """Newest first."""

    running: str
    past: list[Past]


class Text(_Told, frozen=True):
    text: str
    name: str


class Failed(_Told, frozen=True):
    """The question cannot be answered."""

    message: str


Answer = Outcome | Shown | History | Text | Failed
