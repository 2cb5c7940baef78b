"""Prices per model, and the exact cost of what was used (A07). Nothing is fetched: the table is a file beside this."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from decimal import Context, Decimal, Inexact
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from gateway.record import Usage

FILE = Path(__file__).with_name("prices.json")
PER_TOKENS = 1_000_000
_EXACT = Context(prec=60, traps=[Inexact])
"""A sum that cannot be told exactly is an error: it would not be the same when it is computed again."""
_SNAPSHOT = re.compile(r"(?:[-@]\d{4}-?\d{2}-?\d{2})$")
_ZERO = Decimal(0)


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Rates(_Strict, frozen=True, kw_only=True):
    """USD for a million tokens of each kind; a kind without a price of its own costs what its whole kind does.

    cached_input: read from the prompt cache. cache_write: written to it. Both are among the prompt's tokens.
    reasoning: among the completion's tokens.
    """

    input: Decimal
    output: Decimal = _ZERO
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, Decimal) and not (value.is_finite() and value >= 0):
                raise ValueError(f"{name} is {value}, and a price is at least 0")


class LongContext(Rates, frozen=True, kw_only=True):
    """What the whole request costs when its prompt has more tokens than `over_tokens`."""

    over_tokens: int


class Price(Rates, frozen=True, kw_only=True):
    """The price of one model.

    batch:    share of these prices that a batch costs; None: the same.
    provider: who asks it, and `source`: a key of the table's `sources`.
    """

    provider: str = ""
    source: str = ""
    batch: Decimal | None = None
    long_context: LongContext | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch is not None and self.batch > 1:
            raise ValueError(f"batch is {self.batch}, and a share is at most 1")


class Source(_Strict, frozen=True):
    """Where prices were read, and when."""

    what: str
    read: datetime.date


class Table(_Strict, frozen=True):
    """The file. `version` changes whenever a price does."""

    version: str
    currency: Literal["USD"]
    per_tokens: Literal[1_000_000]
    sources: dict[str, Source]
    models: dict[str, Price]

    def __post_init__(self) -> None:
        for name, price in self.models.items():
            if price.source not in self.sources:
                raise ValueError(f"the source {price.source!r} of {name} is not in `sources`")


class PriceTable:
    """Prices by model name. `overrides` come before the table's."""

    def __init__(self, table: Table, overrides: Mapping[str, Price] | None = None) -> None:
        self.table = table
        self.overrides = dict(overrides or {})

    def __repr__(self) -> str:
        return f"<PriceTable {self.table.version} models={len(self.table.models)} overrides={len(self.overrides)}>"

    def find(self, model: str) -> Price | None:
        """By its name; else by that without a snapshot's date, or without the publisher in front of Vertex's names."""
        bare = _SNAPSHOT.sub("", model)
        for name in dict.fromkeys((model, bare, bare.removeprefix("google/"))):
            price = self.overrides.get(name) or self.table.models.get(name)
            if price is not None:
                return price
        return None


@cache
def shipped() -> Table:
    """The release's own table.

    Raises:
        msgspec.ValidationError: the file is not what it should be; a release's is.
    """
    return decode(FILE.read_bytes())


def decode(data: bytes) -> Table:
    """A table from JSON. Decimal fractions are read as they are written, never as binary ones.

    Raises:
        msgspec.ValidationError: a field is unknown, missing or of the wrong type or range.
    """
    return msgspec.json.decode(data, type=Table)


def cost(price: Price, usage: Usage, *, batch: bool = False) -> Decimal:
    """What `usage` costs, in USD, exactly.

    Raises:
        decimal.Inexact: it has more than 60 digits.
    """
    rates: Rates = price
    long = price.long_context
    if long is not None and usage.prompt_tokens > long.over_tokens:
        rates = long
    cached = min(usage.cached_tokens, usage.prompt_tokens)
    written = min(usage.cache_write_tokens, usage.prompt_tokens - cached)
    reasoning = min(usage.reasoning_tokens, usage.completion_tokens)
    parts = (
        (usage.prompt_tokens - cached - written, rates.input),
        (cached, _or(rates.cached_input, rates.input)),
        (written, _or(rates.cache_write, rates.input)),
        (usage.completion_tokens - reasoning, rates.output),
        (reasoning, _or(rates.reasoning, rates.output)),
    )
    total = _ZERO
    for tokens, rate in parts:
        total = _EXACT.fma(rate, tokens, total)
    if batch and price.batch is not None:
        total = _EXACT.multiply(total, price.batch)
    return _EXACT.divide(total, PER_TOKENS)


def _or(rate: Decimal | None, otherwise: Decimal) -> Decimal:
    return otherwise if rate is None else rate
