"""What can be wrong with a pool at Amazon's clouds."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config import Pool
from gateway.config.problems import Finding, KeyPath

_KINDS = ("bedrock", "sagemaker")


def aws_engine(pool: Pool, here: KeyPath) -> Iterator[Finding]:
    if pool.engine.kind not in _KINDS:
        return
    yield from _keys(pool, (*here, "engine", "aws"))
    if pool.engine.kind == "bedrock" and pool.engine.api_key is not None:
        return
    for index, url in enumerate(pool.urls):
        if pool.engine.aws.region_for(url) is None:
            hint = "set `aws.region` of the pool's `engine`, such as us-east-1"
            yield Finding((*here, "urls", index), f'"{url}" does not tell its AWS region', hint, value=url)


def _keys(pool: Pool, here: KeyPath) -> Iterator[Finding]:
    aws = pool.engine.aws
    if (aws.access_key_id is None) != (aws.secret_access_key is None):
        yield Finding(here, "`access_key_id` and `secret_access_key` belong together", "set both, or neither")
    elif aws.session_token is not None and aws.access_key_id is None:
        yield Finding(here, "`session_token` belongs to an `access_key_id`", "set both, or neither")
    if aws.profile is not None and aws.access_key_id is not None:
        yield Finding((*here, "profile"), "there are keys beside the profile", "keep one", value=aws.profile)
