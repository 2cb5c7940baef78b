from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from gateway.config import Telemetry as Options
from gateway.telemetry import Telemetry

Make = Callable[..., Telemetry]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes a worker's telemetry without an access log, unless options say otherwise, and closes it after the test."""
    made: list[Telemetry] = []

    def telemetry(deployments: tuple[str, ...] = ("m", "n"), **options: object) -> Telemetry:
        parsed = Options.model_validate({"access_log": {"format": "off"}, **options})
        made.append(Telemetry(parsed, worker_id=len(made), deployments=deployments))
        return made[-1]

    yield telemetry
    for one in made:
        await one.aclose()
