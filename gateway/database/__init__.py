"""SQLite or PostgreSQL, for what is kept for good."""

from gateway.database.engine import Database, open_database
from gateway.database.errors import DatabaseError, DatabaseGone, DatabaseUnusable

__all__ = ["Database", "DatabaseError", "DatabaseGone", "DatabaseUnusable", "open_database"]
