"""What a configuration may say of the judge."""

from __future__ import annotations

import pytest

from gateway.config.load import parse_config
from gateway.config.problems import ConfigError

CACHE = "cache: {enabled: true, semantic: {enabled: true, judge: {deployment: m, max_usd_per_day: 1}}}\n"
REST = "pools: {p: {urls: [http://a]}}\ndeployments: {m: {variants: {v: {pools: [p]}}}}\n"


def test_money_for_a_judge_whose_price_is_not_known_has_no_limit_and_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(REST + CACHE, "c.yaml", {})
    (problem,) = caught.value.problems
    assert problem.key == "cache.semantic.judge.max_usd_per_day"
    assert 'what "m" costs is not known' in problem.message


def test_with_a_price_it_is_taken() -> None:
    config = parse_config(REST + CACHE + "prices: {m: {input: 0.1, output: 0.2}}\n", "c.yaml", {})
    assert config.cache.semantic.judge.max_usd_per_day == 1
