"""A call as the cache sees it: by which rules, of whom, and what it asks."""

from __future__ import annotations

import msgspec


class Rules(msgspec.Struct, frozen=True):
    """What a deployment keeps.

    max_temperature:  calls that ask for a higher one are refused.
    max_text_chars:   longer user texts are only found word for word.
    time_bound_ttl_s: for how long an answer to what speaks of today, now or the latest is kept; None: not at all.
    """

    max_temperature: float = 1.0
    max_text_chars: int = 2048
    time_bound_ttl_s: float | None = None


class Scope(msgspec.Struct, frozen=True):
    """Who asks whom. Calls of two scopes share neither key nor partition.

    model_revision: weights, precision and whatever else makes it answer differently.
    sensitivity:    class of the call's data.
    output_cap:     tokens that the gateway ends an answer at where the caller said nothing; None: nowhere.
    secret:         keys are hashed with it, at least 16 bytes.
    shared:         tenants find each other's answers: the tenant is not part of the keys.
    adapter:        LoRA adapter; empty: none.
    """

    tenant: str
    deployment: str
    model_revision: str
    sensitivity: str
    output_cap: int | None
    epoch: int
    secret: bytes
    shared: bool = False
    adapter: str = ""


class Question(msgspec.Struct, frozen=True):
    """What is asked.

    key:              32 bytes that only calls with the same prompt, settings and scope share; empty if `refused`.
    partition:        32 bytes that only calls share which differ in `text` alone; empty if `semantic_refused`.
    text:             the last user text, NFC.
    refused:          why no answer is kept or found: "operation", "large", "unreadable", "prompt", "n", "logprobs",
                      "temperature", "media", "tool_result" or "time_bound"; empty: one is.
    semantic_refused: why none to another wording is found: "no_user_text", "media", "long", or as `refused`.
    ttl_s:            the longest that an answer may be kept; None: as usual.
    """

    key: bytes = b""
    partition: bytes = b""
    text: str = ""
    refused: str = ""
    semantic_refused: str = ""
    ttl_s: float | None = None
