"""Agent frameworks on the gateway, each in an interpreter of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.clients.installs import python_with, run_suite

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


@pytest.mark.parametrize(
    ("suite", "requirement"),
    [("pydantic_ai_suite", "pydantic-ai-slim[openai]>=2.60,<3"), ("langchain_suite", "langchain-openai>=1.7,<2")],
)
def test_an_agent_framework_works_unchanged(suite: str, requirement: str) -> None:
    said = run_suite(python_with(requirement), str(Path(__file__).with_name(f"{suite}.py")))
    assert " passed" in said
    assert "skipped" not in said
