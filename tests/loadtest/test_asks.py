"""Bodies, arrivals and the head of a request."""

from __future__ import annotations

import itertools
import json
import statistics

import pytest

from loadtest import Arrivals, Target, chat_asks, completion_asks


def test_no_two_prompts_are_alike_and_a_seed_gives_them_again() -> None:
    first, again = (list(itertools.islice(chat_asks("m", stream=True, seed=3), 200)) for _ in range(2))
    assert first == again
    assert len({ask.body for ask in first}) == 200


def test_a_stream_asks_for_usage_and_a_whole_answer_need_not() -> None:
    body = json.loads(next(chat_asks("m", stream=True, prompt_words=4, max_tokens=9, top_p=0.5)).body)
    assert body["stream_options"] == {"include_usage": True}
    assert (body["model"], body["max_tokens"], body["top_p"]) == ("m", 9, 0.5)
    whole = json.loads(next(completion_asks("m", stream=False)).body)
    assert whole["stream"] is False
    assert "stream_options" not in whole
    assert whole["prompt"].startswith("Question 0-1: ")


def test_constant_arrivals_are_even() -> None:
    times_s = list(itertools.islice(Arrivals(50.0, "constant").times_s(), 100))
    assert times_s == pytest.approx([(i + 1) / 50 for i in range(100)])


def test_poisson_arrivals_have_their_rate_and_the_spread_of_a_poisson_process() -> None:
    times_s = list(itertools.islice(Arrivals(50.0).times_s(), 20_000))
    gaps_s = [b - a for a, b in itertools.pairwise(times_s)]
    assert statistics.fmean(gaps_s) == pytest.approx(1 / 50, rel=0.03)
    assert statistics.stdev(gaps_s) == pytest.approx(1 / 50, rel=0.05)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("http://h:1", "/v1/chat/completions"),
        ("http://h:1/", "/v1/chat/completions"),
        ("http://h:1/v1", "/v1/chat/completions"),
        ("http://h:1/prefix/v1/", "/prefix/v1/chat/completions"),
        ("http://h:1/v1/completions", "/v1/completions"),
    ],
)
def test_a_url_may_stop_anywhere(url: str, path: str) -> None:
    assert Target(url).head().decode().splitlines()[:2] == [f"POST {path} HTTP/1.1", "host: h:1"]


def test_the_head_carries_the_key_and_says_whether_the_connection_stays() -> None:
    head = Target("https://h", key="k", headers={"x-a": "b"}, keep_alive=False).head().decode()
    assert "authorization: Bearer k\r\n" in head
    assert "x-a: b\r\n" in head
    assert "connection: close\r\n" in head
    assert Target("https://h").address == ("h", 443)
