"""A function of the operator's that says how sensitive a request is, from its texts."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import msgspec

from gateway.config import Residency as Options
from gateway.errors import InvalidRequest
from gateway.residency import Clearance, Residency
from gateway.wire import Call

logger = logging.getLogger(__name__)

Classify = Callable[[list[str]], str | None]
"""From the texts of a request to one of `residency.classes`, or None for nothing."""

THREADS = 4
_TOKENS = ("prompt", "input", "tokens")
"""Fields that may hold token ids in place of text."""


class Classifier:
    """Runs the function in threads of its own. It can only make a request more sensitive.

    Raises:
        ImportError, AttributeError, TypeError: there is no such function.
    """

    def __init__(self, options: Options, residency: Residency) -> None:
        assert options.classifier is not None
        module, _, name = options.classifier.partition(":")
        self._name = options.classifier
        self._classify = cast(Classify, getattr(importlib.import_module(module), name))
        if not callable(self._classify):
            raise TypeError(f"residency.classifier {options.classifier!r} is no function")
        self._limit_s = options.classifier_timeout_s
        self._residency = residency
        self._threads = ThreadPoolExecutor(THREADS, "classifier")

    async def tightened(self, clearance: Clearance, call: Call) -> Clearance:
        """`clearance`, or a stricter one. Where the function cannot say, it is the strictest.

        Raises:
            InvalidRequest: the body cannot be read.
        """
        strictest = self._residency.strictest
        if clearance is strictest:
            return clearance
        texts = texts_of(call.body)
        if texts is None:
            return strictest
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._limit_s):
                said = await loop.run_in_executor(self._threads, self._classify, texts)
        except TimeoutError:
            logger.warning("classifier %s took over %g s (residency.classifier_timeout_s)", self._name, self._limit_s)
            return strictest
        except Exception as error:
            # The message may hold what the request says.
            logger.error("classifier %s failed: %s", self._name, type(error).__name__)
            return strictest
        return self._residency.judged(clearance, said)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def texts_of(body: bytes) -> list[str] | None:
    """Every text in a body, wherever it stands; None: there are token ids in it, which say nothing to a reader."""
    try:
        tree = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The body could not be read as JSON: {error}.", code="invalid_json") from None
    texts: list[str] = []
    left: list[object] = [tree]
    while left:
        value = left.pop()
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, list):
            left.extend(reversed(value))
        elif isinstance(value, dict):
            if any(_holds_numbers(value.get(name)) for name in _TOKENS):
                return None
            left.extend(reversed(value.values()))
    return texts


def _holds_numbers(value: object) -> bool:
    if isinstance(value, list):
        return any(map(_holds_numbers, value))
    return isinstance(value, int) and not isinstance(value, bool)
