"""The `headrace` command. Modules of commands import what they need inside their functions: help comes at once."""

from __future__ import annotations

from gateway.cli.root import app, main

__all__ = ["app", "main"]
