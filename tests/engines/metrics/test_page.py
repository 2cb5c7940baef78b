"""What real pages say, and what becomes of those that are no pages."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from engines.metrics import Figures, read_page
from engines.metrics.select import Selector

HERE = Path(__file__).parent
VLLM = (HERE / "vllm-0.32.0.prom").read_bytes()
LLAMACPP = (HERE / "llamacpp-2026.10.11549.prom").read_bytes()

SGLANG = b"""\
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{dp_rank="0",model_name="m",tp_rank="0"} 3.0
sglang:num_running_reqs{dp_rank="0",model_name="m",tp_rank="1"} 3.0
sglang:num_running_reqs{dp_rank="1",model_name="m",tp_rank="0"} 4.0
sglang:num_queue_reqs{dp_rank="0",model_name="m",tp_rank="0"} 2.0
sglang:token_usage{dp_rank="0",model_name="m",tp_rank="0"} 0.25
sglang:token_usage{dp_rank="1",model_name="m",tp_rank="0"} 0.5
sglang:max_total_num_tokens{dp_rank="0",model_name="m",tp_rank="0"} 1000.0
sglang:max_total_num_tokens{dp_rank="1",model_name="m",tp_rank="0"} 1000.0
sglang:page_size{dp_rank="0",model_name="m",tp_rank="0"} 16.0
sglang:num_requests_total{model_name="m"} 4.0
sglang:prompt_tokens_total{model_name="m"} 8.0e2
sglang:cached_tokens_total{cache_source="device",model_name="m"} 3.0e2
sglang:cached_tokens_total{cache_source="host",model_name="m"} 1.0e2
"""
SGLANG_OF_OLD = b"""\
sglang:num_running_reqs{model_name="m"} 1.0
sglang:cache_config_info{model_name="m",num_pages="50",page_size="64"} 1.0
"""
TGI = b"""\
tgi_batch_current_size 5
tgi_queue_size 7
tgi_request_input_length_sum 1000
tgi_request_input_length_count 10
"""
TENSORRT = b"""\
trtllm_num_requests_running{engine_type="trtllm",model_name="m"} 6.0
trtllm_num_requests_waiting{engine_type="trtllm",model_name="m"} 1.0
trtllm_kv_cache_utilization{engine_type="trtllm",model_name="m"} 0.62
trtllm_kv_cache_tokens_per_block{engine_type="trtllm",model_name="m"} 32.0
trtllm_kv_cache_max_blocks{engine_type="trtllm",model_name="m"} 100.0
"""
TRITON = b"""\
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="context",version="1"} 1
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="scheduled",version="1"} 2
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting",version="1"} 3
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="max",version="1"} 512
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per",model="tensorrt_llm",version="1"} 64
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="tensorrt_llm",version="1"} 0.25
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="tensorrt_llm",version="1"} 100
"""
PAGES = {
    "vllm": (VLLM, Figures("vllm", 2.0, 0.0, 0.0055096418732781816, 46592, 128, 3.0, 921.0, 384.0)),
    "llamacpp": (LLAMACPP, Figures("llamacpp", 3.0, 0.0)),
    "sglang": (SGLANG, Figures("sglang", 7.0, 2.0, 0.375, 2000, 16, 4.0, 800.0, 400.0)),
    "sglang of old": (SGLANG_OF_OLD, Figures("sglang", 1.0, 0.0, None, 3200, 64)),
    "tgi": (TGI, Figures("tgi", 5.0, 7.0, prompts=10.0, prompt_tokens=1000.0)),
    "tensorrt-llm": (TENSORRT, Figures("tensorrt-llm", 6.0, 1.0, 0.62, 3200, 32)),
    "triton": (TRITON, Figures("triton", 2.0, 3.0, 0.25, 6400, 64)),
}


@pytest.mark.parametrize(("page", "figures"), PAGES.values(), ids=PAGES)
def test_each_engines_names_are_known(page: bytes, figures: Figures) -> None:
    assert read_page(page) == figures
    assert read_page(page.replace(b"\n", b"\r\n")) == figures


def test_what_a_prompt_costs_on_the_average_leaves_the_cached_tokens_out() -> None:
    assert Figures("vllm", 1, 0, prompts=4, prompt_tokens=800, cached_tokens=300).mean_uncached_tokens == 125.0
    assert Figures("vllm", 1, 0, prompts=4, prompt_tokens=8, cached_tokens=300).mean_uncached_tokens == 0.0
    assert Figures("vllm", 1, 0).mean_uncached_tokens == 0.0


def test_data_parallel_engines_of_one_server_are_added_up() -> None:
    two = b"""\
vllm:num_requests_running{engine="0"} 2.0
vllm:num_requests_running{engine="1"} 5.0
vllm:kv_cache_usage_perc{engine="0"} 0.5
vllm:kv_cache_usage_perc{engine="1"} 1.5
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="100"} 1.0
vllm:cache_config_info{block_size="16",engine="1",num_gpu_blocks="300"} 1.0
"""
    assert read_page(two) == Figures("vllm", 7.0, 0.0, 1.0, 6400, 16)


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"\n\n\n",
        b"<html><body>Not Found</body></html>",
        b'{"detail": "Not Found"}',
        b"process_cpu_seconds_total 3\n",
        b"vllm:num_requests_running\n",
        b"vllm:num_requests_running NaN\n",
        b"vllm:num_requests_running +Inf\n",
        b"vllm:num_requests_running -1\n",
        b'vllm:num_requests_running{engine="0} 3\n',
        b"vllm:num_requests_running{ 3\n",
        b"vllm:num_requests_running three\n",
        b"vllm:num_requests_running \xff\xfe\n",
        b"# vllm:num_requests_running 3\n",
        b"vllm:num_requests_running_by_hand 3\n",
    ],
)
def test_r07_what_is_no_page_of_an_engine_says_nothing(page: bytes) -> None:
    assert read_page(page) is None


def test_r07_a_line_that_is_garbage_spoils_no_other() -> None:
    page = b'vllm:num_requests_waiting{a="} 9\n' + VLLM + b"vllm:kv_cache_usage_perc{{{{ 1\n"
    assert read_page(page) == PAGES["vllm"][1]


def test_figures_that_are_not_numbers_are_not_told() -> None:
    page = b'vllm:num_requests_running 1\nvllm:cache_config_info{block_size="None",num_gpu_blocks="x"} 1\n'
    assert read_page(page) == Figures("vllm", 1.0, 0.0)


def _sane(figures: Figures | None) -> None:
    if figures is not None:
        numbers = (figures.running, figures.waiting, figures.kv_usage or 0.0, figures.mean_uncached_tokens)
        assert all(math.isfinite(one) and one >= 0 for one in numbers)
        assert 0 <= (figures.kv_usage or 0) <= 1
        assert 0 <= figures.kv_tokens <= 1e15


@given(st.binary())
def test_r07_no_bytes_raise(page: bytes) -> None:
    _sane(read_page(page))
    _sane(read_page(b"vllm:num_requests_running" + page))
    _sane(read_page(b'vllm:num_requests_running{a="b"} ' + page))


@given(st.integers(0, len(LLAMACPP) - 1), st.integers(0, 40), st.binary(max_size=20))
def test_r07_no_damage_to_a_page_raises(at: int, gone: int, put: bytes) -> None:
    _sane(read_page(LLAMACPP[:at] + put + LLAMACPP[at + gone :]))


@given(st.floats() | st.integers())
def test_whatever_number_stands_there_what_comes_out_can_be_reckoned_with(number: float) -> None:
    page = f"vllm:num_requests_running {number}\nvllm:kv_cache_usage_perc {number}\nvllm:cache_config_info{{"
    _sane(read_page(f'{page}block_size="{number}",num_gpu_blocks="{number}"}} 1\n'.encode()))


def test_a_name_is_taken_apart_or_refused() -> None:
    assert Selector.parse('a:b{c="d"}') == Selector("a:b", "c", "d")
    assert Selector.parse("a[b]") == Selector("a", read="b")
    with pytest.raises(ValueError, match="'a b' names no metric"):
        Selector.parse("a b")


def test_a_page_is_read_in_a_fraction_of_what_parsing_all_of_it_takes() -> None:
    whole = VLLM.decode()
    ours = _least_s(lambda: read_page(VLLM))
    theirs = _least_s(lambda: list(text_string_to_metric_families(whole)))
    assert ours < theirs / 3


def _least_s(call: Callable[[], object]) -> float:
    least_s = math.inf
    for _ in range(5):
        began_s = time.process_time()
        call()
        least_s = min(least_s, time.process_time() - began_s)
    return least_s
