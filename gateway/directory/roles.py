"""What keys of the admin API may do."""

from __future__ import annotations

import enum


class Role(enum.StrEnum):
    """A key with a role calls no model; one without reaches nothing of the admin API."""

    ADMIN = "admin"
    """Everything."""
    OPERATOR = "operator"
    """Pools and configurations; no keys."""
    VIEWER = "viewer"
    """Reads everything, changes nothing."""
    TENANT_ADMIN = "tenant-admin"
    """Teams, keys and usage of its own organisation."""
