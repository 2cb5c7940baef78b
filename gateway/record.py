"""What is known of one request when it is over: the only input of access log, metrics and traces."""

from __future__ import annotations

import msgspec

from gateway.errors import ApiError
from router.prefix import Prefix

NO_PREFIX = Prefix()


class Usage(msgspec.Struct):
    """Tokens, as the engine counted them; `estimated` when it gave no figure and the gateway counted events."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_tokens: int = 0
    """Of the prompt: written to the engine's prompt cache, where that is charged apart."""
    cached_told: bool = False
    """Whether the engine said anything of `cached_tokens`."""
    estimated: bool = False


class Record(msgspec.Struct):
    """Filled in by the pipeline as a request goes along. Instants are monotonic seconds, 0.0 while unknown."""

    request_id: str
    started_s: float
    method: str = "POST"
    path: str = ""
    operation: str = ""
    """OTel `gen_ai.operation.name`: chat, text_completion, embeddings, tokenize, detokenize."""
    client: str = ""
    tenant: str = ""
    team: str = ""
    key_id: str = ""
    """Of a key of the database."""
    key_name: str = ""
    deployment: str = ""
    variant: str = ""
    pool: str = ""
    replica: str = ""
    engine_kind: str = ""
    engine_model: str = ""
    stream: bool = False
    sensitivity: str = ""
    """Class of `residency.classes`."""
    untraced: bool = False
    """Whether the call may not go where the trace collector stands."""
    attempts: int = 0
    fallback: str = ""
    """The deployment that was asked last in place of `deployment`."""
    fallback_reason: str = ""
    """Why it was: error, overloaded, context_length or policy."""
    route_reason: str = ""
    """Why the replica was chosen: prefix, load, only, retry, or, where it spilled, cloud or smaller."""
    chosen_s: float = 0.0
    """Instant at which the replica was chosen."""
    predicted_ttft_s: float = 0.0
    """When it was chosen, from then to the first token."""
    predicted_cached_tokens: int = 0
    """Of the prompt, what the replica was taken to hold."""
    flow: str = ""
    """Of the tenant: as a trusted proxy named it."""
    prefix: Prefix = NO_PREFIX
    """What the prompt begins with."""
    queue_position: int = 0
    """When it came to the queue for a place at a replica, 1 being next; 0: it did not wait."""
    queued_s: float = 0.0
    """How long it waited there."""
    hedged: bool = False
    """Whether two replicas were asked at once."""
    retry_denied: bool = False
    """Whether a retry would have gone over `retry_share`."""
    cache: str = "bypass"
    """hit, semantic, miss or bypass."""
    status: int = 0
    """HTTP status sent; 499 if the client hung up first."""
    error_type: str = ""
    """OpenAI `code` of the error, or of what cut the answer off; empty for success."""
    error_message: str = ""
    finish_reason: str = ""
    usage: Usage = msgspec.field(default_factory=Usage)
    events: int = 0
    """Stream events relayed."""
    bytes_out: int = 0
    upstream_s: float = 0.0
    """Time spent waiting for engines: the rest of the duration is the gateway's own."""
    first_token_s: float = 0.0
    """Instant of the first non-empty content."""
    last_token_s: float = 0.0
    """Instant of the last content."""
    ended_s: float = 0.0
    traceparent: str = ""
    """As received from the client."""
    own_id: bool = False
    """Whether the gateway made `request_id` up itself."""
    content: object = None
    """What was said, if that is to be kept; see `gateway.usage.content`."""

    @property
    def is_kept_answer(self) -> bool:
        """Whether no engine was asked: the cache had the answer."""
        return self.cache in ("hit", "semantic")

    def note(self, error: ApiError) -> None:
        self.error_type = error.code
        self.error_message = error.message

    @property
    def duration_s(self) -> float:
        return self.ended_s - self.started_s

    @property
    def overhead_s(self) -> float:
        """The gateway's own time: total minus upstream."""
        return max(0.0, self.duration_s - self.upstream_s)

    @property
    def ttft_s(self) -> float | None:
        return self.first_token_s - self.started_s if self.first_token_s else None

    @property
    def tpot_s(self) -> float | None:
        """(e2e - TTFT) / (output tokens - 1); undefined for one token."""
        tokens = self.usage.completion_tokens
        if not self.first_token_s or tokens < 2:
            return None
        return (self.last_token_s - self.first_token_s) / (tokens - 1)
