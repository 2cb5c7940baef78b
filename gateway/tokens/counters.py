"""Which variants' prompts are counted with an encoding of OpenAI's."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gateway.config import Config, Variant
from gateway.config.prompt_options import TIKTOKEN_SUFFIX
from gateway.tokens.counter import TokenCounter
from gateway.tokens.encodings import ENCODINGS, FOLDER_VARIABLE, encoding_of, open_encoding, usual_files

logger = logging.getLogger(__name__)

_KINDS = frozenset({"openai", "azure"})


class Counters:
    """One for a worker. An encoding is loaded when a prompt is first to be counted with it."""

    def __init__(self, config: Config) -> None:
        self._executor = ThreadPoolExecutor(1, "token-counter")
        self._by_files: dict[tuple[str, tuple[Path, ...]], TokenCounter] = {}
        self.by_variant: dict[tuple[str, str], TokenCounter] = {}
        """By deployment and variant."""
        unread: list[str] = []
        for name, deployment in config.deployments.items():
            for key, variant in deployment.variants.items():
                encoding = _encoding_of(config, variant, name)
                if encoding is None:
                    continue
                files = _files_of(variant, encoding)
                if files:
                    self.by_variant[name, key] = self._counter(encoding, files)
                else:
                    unread.append(f"{name}/{key}")
        if unread:
            logger.info(
                "the tokens of prompts for %s are estimated: set `tokenizer` to a file, or %s", unread, FOLDER_VARIABLE
            )

    def __repr__(self) -> str:
        return f"<Counters {list(self._by_files.values())}>"

    def close(self) -> None:
        """What waits is dropped; the thread ends with what it has begun."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _counter(self, encoding: str, files: tuple[Path, ...]) -> TokenCounter:
        counter = self._by_files.get((encoding, files))
        if counter is None:
            counter = TokenCounter(encoding, lambda: open_encoding(encoding, files), self._executor)
            self._by_files[encoding, files] = counter
        return counter


def _encoding_of(config: Config, variant: Variant, deployment: str) -> str | None:
    """That which the variant's `tokenizer` names, else that of the model's name, if OpenAI's protocol is spoken."""
    if variant.tokenizer is not None:
        path = Path(variant.tokenizer)
        return path.stem if path.suffix == TIKTOKEN_SUFFIX and path.stem in ENCODINGS else None
    kinds = {config.pools[pool].engine.kind for pool in variant.pools}
    return encoding_of(variant.model or deployment) if kinds <= _KINDS else None


def _files_of(variant: Variant, encoding: str) -> tuple[Path, ...]:
    return usual_files(encoding) if variant.tokenizer is None else (Path(variant.tokenizer).expanduser(),)
