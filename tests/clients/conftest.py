"""Which client is tested: the newest release here; `tests/e2e/clients` runs the same tests on an older one."""

from __future__ import annotations

import os

import openai
import pytest


@pytest.fixture(autouse=True)
def no_proxy_stands_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client heeds the environment's proxies, and the servers are on loopback."""
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture(scope="session", autouse=True)
def the_wanted_release_is_tested() -> None:
    wanted = os.environ.get("HEADRACE_TEST_OPENAI", openai.__version__)
    assert openai.__version__ == wanted
