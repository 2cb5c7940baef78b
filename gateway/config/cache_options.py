"""Which answers are kept, for how long, and how sure it has to be that one of them fits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr

from gateway.config.base import Name, Positive, Section

Share = Annotated[float, Field(ge=0, le=1)]


class JudgeOptions(Section):
    """Who says whether two answers say the same, where comparing their texts does not settle it."""

    deployment: Name | None = None
    """The deployment that is asked, over the gateway's own queue, after everybody else; none: only answers that are
    short or JSON are compared, by their texts."""
    max_per_minute: Annotated[int, Field(ge=1)] = 60
    """Questions to it, in each worker."""
    max_usd_per_day: Annotated[float, Field(ge=0)] | None = None
    """Money for it, in each worker; none: no limit."""
    planted_share: Share = 0.02
    """Of its questions, those whose answer is known beforehand: by them its own error is measured. It is a
    quarter at first, until each of the pairs that come with the gateway was asked; 0: none."""


class EmbedderOptions(Section):
    """What turns a question into a vector."""

    kind: Literal["minilm", "static", "endpoint"] = "minilm"
    """`minilm`: all-MiniLM-L6-v2, int8, on a core of this machine, after the static table. `static`: a table of word
    vectors alone, forty times as fast and coarser. `endpoint`: any `/v1/embeddings`. The first two need the extra
    `semantic-cache`."""
    path: str | None = None
    """Folder with `embed-minilm` and `embed-static`, each with its weights and `tokenizer.json`, as `headrace models
    pull` makes them; none: they are fetched into the folder of models."""
    url: str | None = None
    """Of the endpoint, up to and including `/v1`."""
    model: str | None = None
    """Its name there."""
    key: SecretStr | None = None
    """API key for it; best from the environment."""
    timeout_s: Positive = 0.5
    """A vector that takes longer costs a miss."""


class SemanticOptions(Section):
    """Answers to questions that are worded differently. Nothing is served before it is certain enough."""

    enabled: bool = False
    """Whether any are served."""
    max_wrong_hit_rate: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Of 100 answers served so, how many may be wrong, as a share, for each tenant and deployment by itself. As the
    judge sees it: its own error comes on top, and is measured."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """With which that is held."""
    audit_share: Annotated[float, Field(gt=0, le=1)] = 0.03
    """Of the answers served so, those for which the engine is asked nevertheless, afterwards, to compare: the least
    share of them. It is all of them at first, comes down to this as hits add up, and rises where wrong ones are
    found."""
    max_text_chars: Annotated[int, Field(ge=16, le=32768)] = 2048
    """Longer questions are only found word for word."""
    embedder: EmbedderOptions = EmbedderOptions()
    """What compares questions."""
    judge: JudgeOptions = JudgeOptions()
    """What compares answers."""


class DeploymentCache(Section):
    """What of a deployment is kept. Nothing of it matters while `cache.enabled` is off."""

    enabled: bool = True
    """Whether its answers are kept."""
    semantic: bool = True
    """Whether questions that are worded differently may find them, where `cache.semantic` is on."""
    ttl_s: Positive | None = None
    """In place of `cache.ttl_s`."""
    max_temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    """Calls that ask for a higher one are neither answered from the cache nor kept."""
    time_bound_ttl_s: Positive | None = None
    """For how long an answer to what speaks of today, now or the latest is kept; none: not at all."""
    share: Literal["tenant", "all"] = "tenant"
    """`all`: tenants find each other's answers, once enough of them were given the same. Only for deployments whose
    answers are nobody's secret."""
    confirmations: Annotated[int, Field(ge=1, le=100)] = 2
    """With `share: all`: tenants, besides the first, whose own answer must have been the same before others get it."""
    tags: list[Name] = []
    """By which its answers can be purged."""


class Cache(Section):
    """Response cache. Off by default. The same question of the same tenant, word for word, gets the same answer; with
    `semantic`, also one that is worded differently."""

    enabled: bool = False
    """Whether answers are kept at all."""
    max_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024 * 1024
    """Memory for answers and their vectors, per worker."""
    ttl_s: Positive = 3600.0
    """Age at which an answer is dropped, however often it was served."""
    store: Literal["auto", "memory", "sqlite", "redis"] = "auto"
    """Where answers outlive a restart and are shared between workers: in the Redis of `redis:`, in a file, or nowhere.
    `auto`: Redis where there is one, else a file."""
    path: str | None = None
    """Of that file; none: in the gateway's state folder."""
    secret: Annotated[SecretStr, Field(min_length=16)] | None = None
    """Keys are hashed with it. Gateways that share a Redis need the same one; none: one is made up and kept in the
    store."""
    epoch: Annotated[int, Field(ge=0)] = 0
    """Raise it, and everything of before is forgotten: after a change of prompts, policies or documents."""
    pace: bool = False
    """Whether a stream from the cache comes token by token as from an engine, rather than at once."""
    semantic: SemanticOptions = SemanticOptions()
    """Answers to questions that are worded differently."""
