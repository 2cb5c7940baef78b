"""What is wrong with how the prompts of a variant are to be read."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from gateway.config.models import Config, Variant
from gateway.config.problems import Finding, KeyPath
from gateway.config.prompt_options import NO_TOKENIZER, TIKTOKEN_NAMES, TIKTOKEN_SUFFIX


def prompt_findings(config: Config) -> Iterator[Finding]:
    for name, deployment in config.deployments.items():
        for variant_name, variant in deployment.variants.items():
            yield from _variant(variant, ("deployments", name, "variants", variant_name))


def _variant(variant: Variant, here: KeyPath) -> Iterator[Finding]:
    template, tokenizer = variant.chat_template, variant.tokenizer
    if template is not None and not Path(template).expanduser().is_file():
        message = f'there is no file "{template}"'
        yield Finding((*here, "chat_template"), message, f"relative paths start at {Path.cwd()}", value=template)
    if tokenizer is None or tokenizer == NO_TOKENIZER:
        return
    where = (*here, "tokenizer")
    path = Path(tokenizer).expanduser()
    if path.suffix == TIKTOKEN_SUFFIX:
        yield from _tiktoken(path, where)
        return
    if not (path.is_file() or (path / "tokenizer.json").is_file()):
        message = f'there is no tokenizer.json in "{tokenizer}"'
        yield Finding(where, message, f"relative paths start at {Path.cwd()}", value=tokenizer)
    if importlib.util.find_spec("tokenizers") is None:
        message = "`tokenizer` needs a library that is not installed"
        yield Finding(where, message, 'pip install "headrace[tokenizer]"')


def _tiktoken(path: Path, where: KeyPath) -> Iterator[Finding]:
    if path.stem not in TIKTOKEN_NAMES:
        known = " or ".join(f"{name}{TIKTOKEN_SUFFIX}" for name in TIKTOKEN_NAMES)
        yield Finding(where, f'no encoding is called "{path.stem}"', f"name the file {known}", value=str(path))
    elif not path.is_file():
        yield Finding(where, f'there is no file "{path}"', f"relative paths start at {Path.cwd()}", value=str(path))
    if importlib.util.find_spec("tiktoken") is None:
        yield Finding(where, "`tokenizer` needs a library that is not installed", 'pip install "headrace[tiktoken]"')
