"""The stop-watch of the tests: what the machine took is not counted as a delay of the gateway."""

from __future__ import annotations

import asyncio
import time

from tests.harness import Watch


async def test_a_stall_is_no_delay_but_the_rest_is() -> None:
    with Watch() as watch:
        await asyncio.sleep(0.05)
        time.sleep(0.2)
        await asyncio.sleep(0.05)
    assert watch.elapsed_s > 0.29
    assert watch.between(0.29, 0.2)
    assert not watch.within(0.08)


def test_without_a_loop_it_counts_everything() -> None:
    with Watch() as watch:
        time.sleep(0.05)
    assert (watch.own_s, watch.within(0.04)) == (watch.elapsed_s, False)
