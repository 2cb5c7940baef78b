"""What a call will use: told before it is admitted, so that it can be reserved."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass

from engines.base import Operation
from gateway.catalog import Deployment, Variant
from gateway.config import Config
from gateway.limits.cost import Cost
from gateway.prices import PriceTable, shipped
from gateway.prices.overrides import overrides_of
from gateway.prompts import PromptFacts
from gateway.prompts.lengths import PRIOR_OUTPUT_TOKENS
from gateway.tokens.asked import MOST, asked
from gateway.tokens.counter import Count, Counting, TokenCounter
from gateway.tokens.counters import Counters
from gateway.tokens.tariff import Tariff, tariff_of
from gateway.upstream import BYTES_PER_TOKEN
from gateway.wire import Call

FREE = Cost(estimated=False)
"""Of what no model computes."""
_FREE = (Operation.TOKENIZE, Operation.DETOKENIZE)


@dataclass(frozen=True, slots=True)
class _Measure:
    """How the calls of a deployment are measured.

    variant: whose reader reads the prompt. counter: counts it, if the variant is one of OpenAI's models.
    context_tokens: of prompt and answer, what the roomiest variant takes; None: not known.
    """

    variant: Variant
    counter: TokenCounter | None
    tariff: Tariff
    context_tokens: int | None


class Estimator:
    """One for a worker."""

    def __init__(self, config: Config, deployments: Iterable[Deployment]) -> None:
        prices = PriceTable(shipped(), overrides_of(config))
        self._counters = Counters(config)
        self._measures = {d.name: _measure(d, prices, self._counters.by_variant) for d in deployments}

    def __repr__(self) -> str:
        return f"<Estimator deployments={len(self._measures)}>"

    def close(self) -> None:
        self._counters.close()

    def cost(self, deployment: Deployment, call: Call, headers: Mapping[bytes, bytes]) -> Cost | Awaitable[Cost]:
        """What the call will use at most, as far as anybody can tell.

        The prompt is counted by the variant with the most traffic. Answers count as long as the caller allows; if it
        says nothing, as long as few answers of this deployment are. Money is that of the dearest variant.

        Args:
            deployment: the one asked for.
            call: as it will be sent, `output_cap` set.
            headers: the client's, names in lower case.

        Returns:
            At once, unless the prompt is long and new.
        """
        if call.operation in _FREE:
            return FREE
        measure = self._measures[deployment.name]
        reader = measure.variant.reader
        if reader is None:
            return _cost(measure, call, Count(len(call.body) // BYTES_PER_TOKEN, estimated=True))
        variant = measure.variant
        keys = variant.has_choice  # routing will ask for them
        read = reader.read(call, headers, variant.block_sizes) if keys else reader.measure(call, headers)
        counted = None if measure.counter is None else measure.counter.count(call)
        if isinstance(read, PromptFacts) and (counted is None or isinstance(counted, Count)):
            return _cost(measure, call, counted or Count(read.prompt_tokens, read.estimated))
        return _later(measure, call, read, counted)


async def _later(
    measure: _Measure,
    call: Call,
    read: PromptFacts | Awaitable[PromptFacts],
    counted: Count | Counting | None,
) -> Cost:
    try:
        facts = read if isinstance(read, PromptFacts) else await read
        count = counted if counted is None or isinstance(counted, Count) else await counted
    finally:
        if counted is not None and not isinstance(counted, Count):
            counted.close()  # a client that hangs up leaves it unbegun
    return _cost(measure, call, count or Count(facts.prompt_tokens, facts.estimated))


def _cost(measure: _Measure, call: Call, prompt: Count) -> Cost:
    wish = asked(call)
    each = wish.tokens
    if each is None:
        reader = measure.variant.reader
        each = round(PRIOR_OUTPUT_TOKENS) if reader is None else reader.long_answer_tokens
        if call.output_cap is not None:
            each = min(each, call.output_cap)
    if measure.context_tokens is not None:
        each = min(each, max(1, measure.context_tokens - prompt.tokens))
    output_tokens = min(each * wish.answers, MOST)
    nano_usd = measure.tariff.most_nano_usd(prompt.tokens, output_tokens)
    return Cost(prompt.tokens, output_tokens, nano_usd, prompt.estimated)


def _measure(deployment: Deployment, prices: PriceTable, counters: Mapping[tuple[str, str], TokenCounter]) -> _Measure:
    variants = deployment.variants
    busiest = max(variants, key=lambda variant: variant.weight)
    contexts = [deployment.menu[variant.name].max_context_tokens for variant in variants]
    known = [tokens for tokens in contexts if tokens is not None]
    return _Measure(
        busiest,
        counters.get((deployment.name, busiest.name)),
        tariff_of((variant.engine_model for variant in variants), prices),
        max(known) if len(known) == len(contexts) else None,
    )
