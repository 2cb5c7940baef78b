"""The tests in `tests/clients` with older releases of the `openai` package, which people do not upgrade every week."""

from __future__ import annotations

import re

import pytest

from tests.e2e.clients.installs import python_with, run_suite

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


@pytest.mark.parametrize("release", ["2.6.1", "1.109.1"])
def test_an_older_release_of_the_openai_package_sees_the_same(release: str) -> None:
    python = python_with(f"openai=={release}")
    said = run_suite(python, "tests/clients", HEADRACE_TEST_OPENAI=release)
    assert re.search(r"\b[5-9]\d passed", said), said
    assert "skipped" not in said
