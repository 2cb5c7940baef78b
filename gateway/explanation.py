"""What is told of how a request would be routed: `POST /admin/explain`, `headrace explain`."""

from __future__ import annotations

from typing import Literal

import msgspec

Known = Literal["exact", "predicted", "none"]
"""How it is known what a replica holds in its KV cache: see `router.prefix.Certainty`."""


class Note(msgspec.Struct):
    """code: stable, for programs. text: the same for people, with the values."""

    code: str
    text: str


class SpeedReport(msgspec.Struct):
    """What was learned of a replica.

    tokens_per_s: of prefill; fixed_s: what a first token takes on top. With 0 observations both are assumed.
    """

    tokens_per_s: float
    fixed_s: float
    observations: int


class ReplicaView(msgspec.Struct):
    """One replica of a variant, candidate or not.

    chosen:       it would get the request; several where chance decides.
    chance:       that the request would go there if the variant is drawn, 0 to 1; nobody else's draws are used up.
    terms:        of the policy's figure; `cost` decides, the lowest wins. Empty for those that it is not asked about.
    predicted_ttft_s: time to first token if the request were sent there now.
    cached_tokens, cached_known: of the prompt's leading tokens, how many it holds, and how that is known.
    in_flight, waiting: requests there by this worker's books, and those of them without a first token.
    backlog_s:    prefill ahead of the request.
    kv_usage:     share of the KV cache that is spoken for; None: its size is unknown.
    vetoes:       why it is no candidate; empty: it is one.
    notes:        what may keep a candidate from getting the request now.
    """

    name: str
    pool: str
    site: str
    chosen: bool
    chance: float
    terms: dict[str, float]
    predicted_ttft_s: float
    cached_tokens: int
    cached_known: Known
    speed: SpeedReport
    in_flight: int
    waiting: int
    backlog_s: float
    kv_usage: float | None
    vetoes: list[Note]
    notes: list[Note]


class PromptReport(msgspec.Struct):
    """How the prompt was read.

    counted:       whether the tokenizer counted all of `prompt_tokens`; else they are an estimate.
    output_tokens: expected length of the answer.
    prefix_blocks: whole blocks that its prefix is looked up by; block_tokens: tokens to a block, estimated for bytes.
    blocks_of:     what they are made of; none: there is no whole block, or nobody looks.
    session:       what keeps the requests of one conversation together; empty: nothing does.
    """

    prompt_tokens: int
    counted: bool
    output_tokens: float
    prefix_blocks: int
    block_tokens: float
    blocks_of: Literal["tokens", "bytes", "none"]
    session: str
    adapter: str
    cache_salt: bool


class QueueReport(msgspec.Struct):
    """What becomes of the request if the variant is drawn.

    outcome:  sent: at once; waits: for a place; refused: there is nobody to wait for, or no queue.
    reason:   why it is not sent.
    priority: its class. ahead: requests that wait already. hold_over_s: as configured; None: there is no queue.
    """

    outcome: Literal["sent", "waits", "refused"]
    reason: str
    priority: int
    ahead: int
    hold_over_s: float | None


class VariantReport(msgspec.Struct):
    """share: of the requests, that draw this variant, 0 to 1."""

    name: str
    model: str
    weight: float
    share: float
    prompt: PromptReport
    queue: QueueReport
    replicas: list[ReplicaView]
    notes: list[Note]


class Explanation(msgspec.Struct):
    """worker: whose books answered; None: there are none, it is told from the configuration alone."""

    worker: int | None
    deployment: str
    policy: str
    operation: str
    stream: bool
    key: str
    tenant: str
    sensitivity: str
    variants: list[VariantReport]
    notes: list[Note]
