"""The metrics that a load-aware router reads, under vLLM's names, in Prometheus' text format."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

_TTFT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640)
_ITL_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_E2E_S = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)


class Histogram:
    def __init__(self, name: str, bounds: tuple[float, ...]) -> None:
        self.name = name
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def lines(self, labels: str) -> list[str]:
        lines, total = [f"# TYPE {self.name} histogram"], 0
        for bound, count in zip([*map(float, self.bounds), "+Inf"], self.counts, strict=True):
            total += count
            lines.append(f'{self.name}_bucket{{{labels},le="{bound}"}} {float(total)}')
        return [*lines, f"{self.name}_sum{{{labels}}} {self.sum}", f"{self.name}_count{{{labels}}} {float(total)}"]


@dataclass(slots=True)
class Metrics:
    """Counters in tokens, histograms in seconds."""

    prefix_queries: int = 0
    prefix_hits: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    successes: dict[str, int] = field(default_factory=dict)
    ttft: Histogram = field(default_factory=lambda: Histogram("vllm:time_to_first_token_seconds", _TTFT_S))
    itl: Histogram = field(default_factory=lambda: Histogram("vllm:inter_token_latency_seconds", _ITL_S))
    e2e: Histogram = field(default_factory=lambda: Histogram("vllm:e2e_request_latency_seconds", _E2E_S))
    queue: Histogram = field(default_factory=lambda: Histogram("vllm:request_queue_time_seconds", _E2E_S))

    def render(
        self, *, model: str, running: int, waiting: int, kv_usage: float, block_tokens: int, blocks: int
    ) -> bytes:
        """The page. kv_usage: share of the KV cache in use, 0 to 1."""
        labels = f'engine="0",model_name="{_escaped(model)}"'
        gauges = {"num_requests_running": running, "num_requests_waiting": waiting, "kv_cache_usage_perc": kv_usage}
        counters = {
            "prefix_cache_queries": self.prefix_queries,
            "prefix_cache_hits": self.prefix_hits,
            "prompt_tokens_cached": self.prefix_hits,
            "prompt_tokens": self.prompt_tokens,
            "generation_tokens": self.generation_tokens,
            "num_preemptions": 0,
        }
        lines: list[str] = []
        for name, gauge in gauges.items():
            lines += [f"# TYPE vllm:{name} gauge", f"vllm:{name}{{{labels}}} {float(gauge)}"]
        for name, count in counters.items():
            lines += [f"# TYPE vllm:{name} counter", f"vllm:{name}_total{{{labels}}} {float(count)}"]
        info = f'block_size="{block_tokens}",enable_prefix_caching="True",engine="0",num_gpu_blocks="{blocks}"'
        lines += ["# TYPE vllm:cache_config_info gauge", f"vllm:cache_config_info{{{info}}} 1.0"]
        lines.append("# TYPE vllm:request_success counter")
        for reason, count in self.successes.items():
            lines.append(f'vllm:request_success_total{{{labels},finished_reason="{_escaped(reason)}"}} {float(count)}')
        for histogram in (self.ttft, self.itl, self.e2e, self.queue):
            lines += histogram.lines(labels)
        return ("\n".join(lines) + "\n").encode()


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
