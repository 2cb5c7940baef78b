"""What explains a configuration that nothing runs: its catalog, with empty books, and engines that are not there."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from engines.base import EngineRequest, Timeouts
from gateway.catalog import Catalog
from gateway.choice import Chooser
from gateway.clock import RealClock
from gateway.config import Config
from gateway.config import Variant as VariantOptions
from gateway.explain import Explainer
from gateway.pools import Pool
from gateway.prompts import Lengths, PromptFacts, PromptReader, PromptThread, open_reader
from gateway.prompts.variants import tokenizer_of
from gateway.replicas import Replica
from gateway.residency import Residency
from gateway.standing import Standing
from router.prefix import PrefixIndex

LIMIT_S = 30.0
"""For the tokenizer to load, and for a prompt: nobody's first token waits for it here."""


class Absent:
    """Implements `Engine`; nothing is ever sent."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    async def send(self, request: EngineRequest, timeouts: Timeouts) -> NoReturn:
        raise NotImplementedError

    async def healthy(self) -> bool:
        return False

    async def aclose(self) -> None:
        pass


@contextmanager
def explainer(config: Config) -> Iterator[Explainer]:
    """Nothing is started but the thread that reads prompts, for as long as the block."""
    clock, rng = RealClock(), random.Random()  # noqa: S311 - spreads load, guards nothing
    index, lengths = PrefixIndex(), dict[str, Lengths]()
    thread = PromptThread(LIMIT_S)

    def reader(deployment: str, name: str, options: VariantOptions) -> PromptReader:
        _load(thread, options, config)
        own = lengths.setdefault(deployment, Lengths())
        return open_reader(thread, own, f"{deployment}/{name}", options, config.pools)

    try:
        catalog = Catalog(config, _pools(config, index), rng, reader)
        policies = {name: options.policy for name, options in config.deployments.items()}
        chooser, residency = Chooser(clock, rng, index), Residency(config)
        standing = Standing(config.tenants)
        yield Explainer(catalog, chooser, residency, clock, policies, lambda policy, rng: policy, standing=standing)
    finally:
        thread.close()


def _load(thread: PromptThread, options: VariantOptions, config: Config) -> None:
    """Wait for the tokenizer: the reader would begin without it."""
    found = tokenizer_of(options, config.pools)
    if found is None:
        return
    with suppress(Exception):  # the reader says what is wrong
        thread.load(*found).result(LIMIT_S)
    turn = thread.submit(lambda: PromptFacts(0))
    if turn is not None:
        turn.result(LIMIT_S)


def _pools(config: Config, index: PrefixIndex) -> dict[str, Pool]:
    pools = {}
    for name, options in config.pools.items():
        urls = ["" for _ in range(options.replicas)] if options.started_here else options.urls
        replicas = []
        for number, url in enumerate(urls):
            engine = Absent(f"{name}-{number}")
            kind = options.engine.kind
            replica = Replica(engine.name, name, options.site, kind, engine, options.max_in_flight, url=url)
            replica.slot = index.open()
            replicas.append(replica)
        pools[name] = Pool(name, options.site, tuple(replicas))
    return pools
