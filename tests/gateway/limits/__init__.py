"""Exact limits."""
