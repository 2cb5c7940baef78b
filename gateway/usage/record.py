"""What is kept of one model call, and what it cost (A07)."""

from __future__ import annotations

import hashlib
from decimal import Context, Decimal, Inexact

import msgspec

from gateway.config import Config
from gateway.prices import Price, PriceTable, cost, shipped
from gateway.prices.overrides import overrides_of
from gateway.record import Record, Usage

EXACT = Context(prec=60, traps=[Inexact])
"""Money is never rounded."""
_FREE = "0"
_REFUSED_BEFORE_ADMISSION = "residency_violation"
_REMEMBERED = 4_096
_UNKNOWN = Price(input=Decimal(0))


class UsageRecord(msgspec.Struct, array_like=True, gc=False, tag="call"):
    """One model call that reached admission. On disk it is an array: new fields come last, with a default.

    id:         unique over workers, restarts and machines. request_id may be the client's own, so it is not.
    at:         Unix time in seconds at which the client had its last byte.
    tokens:     cached and cache_write are part of prompt, reasoning is part of completion.
    usd:        exact, as decimal text; empty: it has not been reckoned yet, or the model has no price.
    price_version: of the table and of what the configuration says otherwise; empty: nothing was to be priced.
    ttft_s:     None: there was no first token.
    error:      OpenAI `code` of the error; empty for success.
    outcome:    see `outcome_of`.
    cache:      of the gateway's own answers: hit, semantic, miss or bypass. The first two cost nothing.
    """

    id: str
    request_id: str
    at: float
    tenant: str
    team: str
    key_id: str
    key_name: str
    deployment: str
    variant: str
    pool: str
    replica: str
    engine_model: str
    prompt_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    usd: str
    price_version: str
    ttft_s: float | None
    duration_s: float
    status: int
    error: str
    outcome: str
    estimated: bool
    cache: str
    stream: bool

    @property
    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_tokens=self.cached_tokens,
            reasoning_tokens=self.reasoning_tokens,
            cache_write_tokens=self.cache_write_tokens,
            estimated=self.estimated,
        )


class Tariff(msgspec.Struct, frozen=True, array_like=True, tag="tariff"):
    """By which price the calls of `model` were reckoned; it travels with them, so that they can be reckoned anew."""

    version: str
    model: str
    price: Price


class Pricing:
    """Prices by the engines' model names, and the version under which they are told.

    version: that of the table; with what the configuration says otherwise, a hash of that as well.
    """

    def __init__(self, prices: PriceTable) -> None:
        self.version = version_of(prices)
        self._prices = prices
        self._known: dict[str, Price | None] = {}

    def price(self, model: str) -> Price | None:
        """None: there is none. Asked by several threads."""
        found = self._known.get(model, _UNKNOWN)
        if found is _UNKNOWN:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            found = self._known[model] = self._prices.find(model)
        return found

    def charge(self, made: UsageRecord) -> None:
        """Reckon what the call costs, if that is not known yet and its model has a price."""
        price = self.price(made.engine_model) if made.price_version and not made.usd else None
        if price is not None:
            made.usd = reckoned(price, made.usage)


def pricing_of(config: Config) -> Pricing:
    return Pricing(PriceTable(shipped(), overrides_of(config)))


def version_of(prices: PriceTable) -> str:
    if not prices.overrides:
        return prices.table.version
    digest = hashlib.sha256(msgspec.json.encode(prices.overrides, order="deterministic")).hexdigest()
    return f"{prices.table.version}+{digest[:8]}"


def counts(record: Record) -> bool:
    """Whether it is a model call that reached admission."""
    return bool(record.operation and record.sensitivity) and record.error_type != _REFUSED_BEFORE_ADMISSION


def usage_record(record: Record, unique_id: str, at: float, pricing: Pricing) -> UsageRecord:
    """What is kept of a call that is over, but for what it costs: see `Pricing.charge`."""
    used = record.usage
    is_free = record.is_kept_answer or not (used.prompt_tokens or used.completion_tokens)
    return UsageRecord(
        unique_id,
        record.request_id,
        at,
        record.tenant,
        record.team,
        record.key_id,
        record.key_name,
        record.deployment,
        record.variant,
        record.pool,
        record.replica,
        record.engine_model,
        used.prompt_tokens,
        used.cached_tokens,
        used.cache_write_tokens,
        used.completion_tokens,
        used.reasoning_tokens,
        _FREE if is_free else "",
        "" if is_free else pricing.version,
        record.first_token_s - record.started_s if record.first_token_s else None,
        record.ended_s - record.started_s,
        record.status,
        record.error_type,
        outcome_of(record),
        used.estimated,
        record.cache,
        record.stream,
    )


def outcome_of(record: Record) -> str:
    """ok; refused: the request was not taken; failed: no answer came; cut: it broke off; abandoned: by the client."""
    if record.status == 499:
        return "abandoned"
    if not record.error_type:
        return "ok"
    if record.status < 400:
        return "cut"
    return "refused" if record.status < 500 else "failed"


def reckoned(price: Price, usage: Usage) -> str:
    """What it costs, as exact decimal text without an exponent."""
    return plain(cost(price, usage))


def plain(usd: Decimal) -> str:
    """The shortest decimal text, without an exponent."""
    text = f"{usd:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
