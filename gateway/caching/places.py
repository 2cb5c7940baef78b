"""Where answers to a call may lie: with its tenant's own, and with everybody's if the deployment shares them."""

from __future__ import annotations

import random
from collections.abc import Mapping

from cache.asked import Question, Rules, Scope
from cache.question import read_question
from gateway.caching.asking import EVERYBODY, Place, cohort_of
from gateway.caching.judge_calls import kind_of
from gateway.catalog import Deployment, Variant
from gateway.config.cache_options import Cache, DeploymentCache
from gateway.identity import Caller
from gateway.residency import Clearance
from gateway.wire import Call


class Places:
    """By the configuration. secret: keys are hashed with it."""

    def __init__(self, options: Cache, deployments: Mapping[str, DeploymentCache], rng: random.Random) -> None:
        self._epoch = options.epoch
        self._rng = rng
        self._options = deployments
        long_text = options.semantic.max_text_chars if options.semantic.enabled else 0
        self._rules = {
            name: Rules(one.max_temperature, long_text, one.time_bound_ttl_s) for name, one in deployments.items()
        }
        self.secret = b""

    def options(self, deployment: str) -> DeploymentCache | None:
        """None: nothing of it is kept."""
        options = self._options.get(deployment)
        return options if options is not None and options.enabled else None

    def draw(self, deployment: Deployment, call: Call, clearance: Clearance) -> Variant | None:
        """Whose answers may be given to the call: as often of a variant as it would be asked."""
        variants = deployment.variants
        if len(variants) == 1:
            return variants[0]
        return deployment.draw_variant(self._rng, clearance, deployment.menu.needs_of(call))

    def own(self, caller: Caller, call: Call, deployment: str, clearance: Clearance, model: str) -> Place:
        """model: which build of it; none has the answers of another."""
        question = self._read(call, deployment, caller.tenant, clearance, model, shared=False)
        return Place(question, caller.tenant, cohort_of(caller.tenant, deployment))

    def everybodys(self, call: Call, deployment: str, clearance: Clearance, model: str) -> Place:
        question = self._read(call, deployment, EVERYBODY, clearance, model, shared=True)
        return Place(question, EVERYBODY, cohort_of(EVERYBODY, deployment))

    def _read(
        self, call: Call, deployment: str, tenant: str, clearance: Clearance, model: str, *, shared: bool
    ) -> Question:
        scope = Scope(
            tenant,
            deployment,
            model,
            clearance.name,
            call.output_cap,
            self._epoch,
            self.secret,
            shared,
        )
        return read_question(kind_of(call.operation), call.body, self._rules[deployment], scope)


def model_of(variant: str, engine_model: str) -> str:
    """What sets the answers of one build of a model apart from those of another."""
    return f"{variant}={engine_model}"
