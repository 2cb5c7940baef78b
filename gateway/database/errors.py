"""What a database may refuse.

DatabaseError
├── DatabaseGone       it is away, locked, full or read-only: later it may be there again
└── DatabaseUnusable   it is the wrong one, or set up wrongly: it stays so until somebody changes something
"""

from __future__ import annotations


class DatabaseError(Exception):
    """The database did not do what was asked; the message says why, without passwords and values."""


class DatabaseGone(DatabaseError):
    """Nothing was changed, or whether it was is unknown; try again later."""


class DatabaseUnusable(DatabaseError):
    """Trying again does not help."""
