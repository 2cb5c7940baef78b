"""What is wrong or odd with pools at Amazon's clouds."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from gateway.config.engine_options import EngineOptions
from gateway.config.models import Pool
from gateway.config.problems import Finding, KeyPath

_KINDS = ("bedrock", "sagemaker")


def aws_engine(pool: Pool, here: KeyPath) -> Iterator[Finding]:
    """Findings for one pool; `here` is where it stands."""
    engine = pool.engine
    where: KeyPath = (*here, "engine")
    if engine.kind not in _KINDS:
        if engine.aws != EngineOptions.model_fields["aws"].default:
            message = f"`aws` is for `kind: bedrock` and `kind: sagemaker`, and this is {engine.kind}"
            yield Finding((*where, "aws"), message, "set one of these, or take the section out", at_key=True)
        return
    if pool.site != "cloud":
        message = f"{engine.kind} is a cloud, and the site of its pool is {pool.site}"
        yield Finding(here, message, "set `site: cloud`", severity="warning")
    if engine.kind == "sagemaker" and engine.api_key is not None:
        message = "SageMaker takes no API key: requests are signed"
        yield Finding((*where, "api_key"), message, "set keys or a profile under `aws`", at_key=True)
    if engine.kind == "bedrock" and engine.api_key is not None:
        return
    yield from _signing(pool, here)
    yield from _keys(engine, (*where, "aws"))


def _signing(pool: Pool, here: KeyPath) -> Iterator[Finding]:
    if importlib.util.find_spec("botocore") is None:
        hint = 'pip install "headrace[aws]"'
        yield Finding((*here, "engine", "kind"), f"{pool.engine.kind} needs botocore, which is not installed", hint)
    for index, url in enumerate(pool.urls):
        if pool.engine.aws.region_for(url) is None:
            hint = "set `aws.region` of the pool's `engine`, such as us-east-1"
            yield Finding((*here, "urls", index), f'"{url}" does not tell its AWS region', hint, value=url)


def _keys(engine: EngineOptions, here: KeyPath) -> Iterator[Finding]:
    aws = engine.aws
    if (aws.access_key_id is None) != (aws.secret_access_key is None):
        yield Finding(here, "`access_key_id` and `secret_access_key` belong together", "set both, or neither")
    elif aws.session_token is not None and aws.access_key_id is None:
        yield Finding(here, "`session_token` belongs to an `access_key_id`", "set both, or neither")
    if aws.profile is not None and aws.access_key_id is not None:
        yield Finding((*here, "profile"), "there are keys beside the profile", "keep one", value=aws.profile)
