"""Which tokenizer a variant's prompts are read with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gateway.config import EngineOptions, Pool, Variant
from gateway.config.prompt_options import NO_TOKENIZER, TIKTOKEN_SUFFIX
from gateway.prompts.lengths import Lengths
from gateway.prompts.reader import PromptReader
from gateway.prompts.thread import PromptThread

_READ_FOLDERS = frozenset({"vllm", "transformers", "onnx"})
"""Engines whose `model` may be a folder with a tokenizer."""


def open_reader(
    thread: PromptThread, lengths: Lengths, name: str, variant: Variant, pools: Mapping[str, Pool]
) -> PromptReader:
    """The reader of a variant; its tokenizer, if it has one, is loaded meanwhile.

    Args:
        thread: shared by all variants.
        lengths: of the deployment.
        name: of the variant, for logs.
        variant: its options.
        pools: all that the configuration names.
    """
    found = tokenizer_of(variant, pools)
    loading = None if found is None else thread.load(*found)
    asked_for = variant.tokenizer is not None
    return PromptReader(
        thread, lengths, adapter=variant.adapter or "", tokenizer=loading, asked_for=asked_for, name=name
    )


def tokenizer_of(variant: Variant, pools: Mapping[str, Pool]) -> tuple[Path, Path | None] | None:
    """Where the variant's tokenizer may lie, and its chat template if that is not in the same folder; None: unknown.

    Looks into no folder: `engine.model` may as well be a name on Hugging Face.
    """
    if variant.tokenizer == NO_TOKENIZER or (variant.tokenizer or "").endswith(TIKTOKEN_SUFFIX):
        return None
    template = None if variant.chat_template is None else Path(variant.chat_template).expanduser()
    if variant.tokenizer is not None:
        return Path(variant.tokenizer).expanduser(), template
    found = {_of_engine(pools[name]) for name in variant.pools}
    only = found.pop()
    if found or only is None:
        return None
    folder, own_template = only
    return folder, template or own_template


def _of_engine(pool: Pool) -> tuple[Path, Path | None] | None:
    """The folder of an engine that the gateway starts, and the template that its arguments name."""
    engine = pool.engine
    if not pool.started_here or engine.kind not in _READ_FOLDERS or engine.model is None:
        return None
    named = _argument(engine, "--tokenizer") or engine.model
    template = _argument(engine, "--chat-template")
    return Path(named).expanduser(), None if template is None else Path(template).expanduser()


def _argument(engine: EngineOptions, flag: str) -> str | None:
    """The value of a command-line argument, written `--flag value` or `--flag=value`."""
    args: Sequence[str] = engine.args
    for index, given in enumerate(args):
        if given == flag and index + 1 < len(args):
            return args[index + 1]
        if given.startswith(f"{flag}="):
            return given.partition("=")[2]
    return None
