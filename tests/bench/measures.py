"""What is measured. Each function starts its own engine and gateway, and alternates what it compares within one run."""

from __future__ import annotations

import asyncio
import statistics
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from loadtest import Quantiles, Report
from tests.bench.rig import Cores, cpu_s, engine_process, gateway_process, load, rss_bytes, tree
from tests.gateway.supervised import Served

GATEWAY_CORES, LOAD_CORES = (0,), (1,)


@dataclass(frozen=True)
class Cost:
    """CPU time of the gateway's processes, supervisor included, in microseconds."""

    us_per_request: float
    us_per_token: float


@dataclass(frozen=True)
class Paired:
    """The same load straight at the engine and through the gateway, round by round."""

    direct: list[float] = field(default_factory=list)
    through: list[float] = field(default_factory=list)

    @property
    def added(self) -> float:
        """The median over the rounds of what the gateway added in each."""
        return statistics.median(b - a for a, b in zip(self.direct, self.through, strict=True))

    @property
    def ratio(self) -> float:
        """The median over the rounds of through / direct."""
        return statistics.median(b / a for a, b in zip(self.direct, self.through, strict=True))


async def cost(
    workers: int, rounds: int, *, pin: bool, gateways: int = 1, requests: int = 4000, streams: int = 300
) -> list[Cost]:
    """JSON in a closed loop of 32; then 100 streams of 100 tokens, one every 10 ms. Each worker gets so much.

    With less to do at a time a worker wakes more often for the same work: two at half the load each are no comparison.

    gateways: how many to run side by side, with so many workers each. Two of one worker share nothing but the machine,
    so what two workers of one gateway cost beyond them is what sharing a listener and a supervisor costs.
    """
    gateway_cores, load_cores = (GATEWAY_CORES, LOAD_CORES) if pin else ((), ())
    one = ("--no-stream", "-c", "32", "-n", "500", "--max-tokens", "1")
    whole = ("--no-stream", "-c", "32", "-n", str(requests), "--max-tokens", "1")
    streamed = ("-c", "100", "-n", str(streams), "--max-tokens", "100")
    found: list[Cost] = []
    async with engine_process("--itl", "0.01", "--output-tokens", "100", cores=load_cores) as engine:
        for _ in range(rounds):
            async with AsyncExitStack() as stack:
                sides = [gateway_process(engine.url, workers=workers, cores=gateway_cores) for _ in range(gateways)]
                targets = [await stack.enter_async_context(side) for side in sides] * workers
                await _spend(targets, load_cores, *one)
                reports, spent_s = await _spend(targets, load_cores, *whole)
                us_per_request = spent_s / sum(report.succeeded for report in reports) * 1e6
                reports, spent_s = await _spend(targets, load_cores, *streamed)
                found.append(Cost(us_per_request, spent_s / sum(report.chunks for report in reports) * 1e6))
    return found


async def _spend(targets: list[Served], cores: Cores, *flags: str) -> tuple[list[Report], float]:
    """One load for each target; a gateway may be the target of several."""
    pids = [pid for gateway in {target.pid: target for target in targets}.values() for pid in tree(gateway.pid)]
    before_s = cpu_s(pids)
    reports = await asyncio.gather(*(load(target.url, *flags, cores=cores) for target in targets))
    assert not any(report.failures for report in reports), [report.failures for report in reports]
    return reports, cpu_s(pids) - before_s


async def latency_ms(rounds: int, requests: int = 1500) -> Paired:
    """Median time of a whole answer, one request at a time."""
    paired = Paired()
    async with engine_process() as engine, gateway_process(engine.url) as gateway:
        for _ in range(rounds):
            for url, values in ((engine.url, paired.direct), (gateway.url, paired.through)):
                report = await load(url, "--no-stream", "-c", "1", "-n", str(requests), "--max-tokens", "4")
                values.append(_figures(report.e2e_ms).p50)
    return paired


async def gap_p99_ms(rounds: int, streams: int = 200, tokens: int = 200, itl_s: float = 0.02) -> Paired:
    """99th percentile of the gap between tokens with `streams` at once (A12)."""
    paired = Paired()
    flags = ("-c", str(streams), "-n", str(streams), "--max-tokens", str(tokens))
    engine_flags = ("--itl", str(itl_s), "--output-tokens", str(tokens))
    async with (
        engine_process(*engine_flags, cores=LOAD_CORES) as engine,
        gateway_process(engine.url, cores=GATEWAY_CORES) as gateway,
    ):
        for _ in range(rounds):
            for url, values in ((engine.url, paired.direct), (gateway.url, paired.through)):
                report = await load(url, *flags, cores=LOAD_CORES)
                assert not report.failures, report.failures
                values.append(_figures(report.itl_ms).p99)
    return paired


async def saturated_tokens_per_s(rounds: int, slots: int = 32, itl_s: float = 0.02, duration_s: float = 6.0) -> Paired:
    """Tokens a second of an engine that has more to do than it can (A16)."""
    paired = Paired()
    flags = ("-c", str(slots * 2), "-d", str(duration_s), "--max-tokens", "32")
    engine_flags = ("--slots", str(slots), "--itl", str(itl_s), "--ttft", str(itl_s), "--output-tokens", "32")
    async with engine_process(*engine_flags) as engine, gateway_process(engine.url) as gateway:
        for _ in range(rounds):
            for url, values in ((engine.url, paired.direct), (gateway.url, paired.through)):
                report = await load(url, *flags)
                assert not report.failures, report.failures
                values.append(report.tokens_per_s)
    return paired


@dataclass(frozen=True)
class OpenStreams:
    """`bytes_per_stream`: how much more memory was resident with all of them open than before."""

    opened: int
    failures: dict[str, int]
    bytes_per_stream: float
    rss_before_bytes: int


async def open_streams(count: int = 2000, itl_s: float = 1.0, tokens: int = 20) -> OpenStreams:
    """So many streams open at once on one worker, with a token a second each."""
    engine_flags = ("--itl", str(itl_s), "--output-tokens", str(tokens))
    async with engine_process(*engine_flags) as engine, gateway_process(engine.url) as gateway:
        await load(gateway.url, "--no-stream", "-c", "32", "-n", "500", "--max-tokens", "1")
        await load(gateway.url, "-c", "32", "-n", "64", "--max-tokens", "2")
        pids = tree(gateway.pid)
        before_bytes = rss_bytes(pids)
        flags = ("-c", str(count), "-n", str(count), "--max-tokens", str(tokens), "--timeout", "120")
        loading = asyncio.create_task(load(gateway.url, *flags))
        await engine.reached("running", count)
        await asyncio.sleep(2 * itl_s)
        with_streams_bytes = rss_bytes(pids)
        opened = (await engine.stats())["open"]
        report = await loading
    return OpenStreams(opened, report.failures, (with_streams_bytes - before_bytes) / count, before_bytes)


def _figures(found: Quantiles | None) -> Quantiles:
    assert found is not None
    return found
