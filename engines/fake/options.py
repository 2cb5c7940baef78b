"""What the fake engine can be told: `FakeOptions` for all requests, `Overrides` for a single one."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

# ruff: noqa: RUF009
# Each default carries its flag; `_option` is `dataclasses.field` with fewer words.
T = TypeVar("T")


class Hang(enum.StrEnum):
    """Where an answer stops, with the connection open."""

    BEFORE = "before"
    AFTER = "after"
    MID = "mid"


class Death(enum.StrEnum):
    """How a connection is cut: a reset, or an orderly close."""

    RST = "rst"
    FIN = "fin"


class Malformed(enum.StrEnum):
    """Ways to break the protocol."""

    BAD_JSON = "bad-json"
    NO_DONE = "no-done"
    NO_TERMINATOR = "no-terminator"
    WRONG_LENGTH = "wrong-length"
    BAD_CHUNK = "bad-chunk"
    ERROR_200 = "error-200"
    NULL_CHOICES = "null-choices"
    GARBAGE_STATUS = "garbage-status"


class Split(enum.StrEnum):
    """Where an answer is cut. random, byte: the event stream, each piece its own chunk; wire: the raw bytes."""

    NONE = "none"
    RANDOM = "random"
    BYTE = "byte"
    WIRE = "wire"


class OptionError(ValueError):
    """A value that the fake engine cannot work with; the message names the value, the limit and the flag."""


def _option(default: T, flag: str, text: str, *, minimum: float | None = None, maximum: float | None = None) -> T:
    metadata = {"flag": flag, "help": text, "minimum": minimum, "maximum": maximum}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class FakeOptions:
    """How the engine behaves; flags and `POST /fake/options` are made from it. Seconds; shares from 0 to 1."""

    host: str = _option("127.0.0.1", "--host", "Address to bind.")
    port: int = _option(0, "--port", "TCP port; 0 takes a free one.", minimum=0, maximum=65535)
    models: tuple[str, ...] = _option(("fake-model",), "--model", "Model name to serve; repeatable.")
    api_key: str | None = _option(None, "--api-key", "Answer 401 on /v1 without this bearer token.")
    startup_s: float = _option(
        0.0, "--startup", "Seconds until /health and the models answer anything but 503.", minimum=0
    )
    health_status: int = _option(200, "--health-status", "Status of /health.", minimum=200, maximum=599)

    ttft_s: float = _option(0.0, "--ttft", "Seconds from admission to the first token.", minimum=0)
    prefill_tps: float = _option(
        0.0,
        "--prefill-tps",
        "Prompt tokens prefilled per second, one prompt after the other, cached ones free; 0: no limit.",
        minimum=0,
    )
    itl_s: float = _option(0.0, "--itl", "Seconds between two tokens.", minimum=0)
    jitter: float = _option(
        0.0, "--jitter", "Every time is stretched or shrunk by up to this share.", minimum=0, maximum=1
    )
    output_tokens: int = _option(16, "--output-tokens", "Tokens of an answer, if nothing ends it sooner.", minimum=0)
    text: str | None = _option(None, "--text", "Answer this text, not generated words.")
    seed: int = _option(0, "--seed", "Seed of answers, jitter and faults.")

    kv_tokens: int = _option(2**21, "--kv-tokens", "Size of the KV cache in tokens.", minimum=16)
    block_tokens: int = _option(16, "--block-tokens", "Tokens of one KV block.", minimum=1)
    context_tokens: int = _option(
        8192, "--context-tokens", "Longest prompt and answer together, in tokens.", minimum=16
    )
    slots: int = _option(4096, "--slots", "Requests decoded together; more wait.", minimum=1)
    max_queue: int | None = _option(None, "--max-queue", "Requests that may wait; one more gets 503.", minimum=0)
    prompt_tokens_details: bool = _option(
        False, "--prompt-tokens-details", "Put cached_tokens into usage, as vLLM's flag of the same meaning does."
    )
    no_usage: bool = _option(False, "--no-usage", "Never report usage.")
    refuse_unknown_fields: bool = _option(
        False, "--refuse-unknown-fields", "Answer 422 to fields outside the OpenAI API, as transformers does."
    )
    embedding_dims: int = _option(16, "--embedding-dims", "Length of an embedding.", minimum=1)

    fault_count: int | None = _option(
        None, "--fault-count", "Stop injecting faults after this many; default: never.", minimum=0
    )
    error_rate: float = _option(
        0.0, "--error-rate", "Share of requests answered with --error-status.", minimum=0, maximum=1
    )
    error_status: int = _option(500, "--error-status", "Status of injected errors.", minimum=400, maximum=599)
    hang: Hang | None = _option(
        None, "--hang", "Stop answering before the head, after the head, or in the middle of the answer."
    )
    hang_rate: float = _option(1.0, "--hang-rate", "Share of requests that --hang meets.", minimum=0, maximum=1)
    hang_after: int = _option(1, "--hang-after", "Tokens sent before --hang mid.", minimum=1)
    die_after: int | None = _option(
        None, "--die-after", "Cut the connection after this many tokens; 0: before the head.", minimum=0
    )
    die_how: Death = _option(Death.RST, "--die-how", "Cut it by a reset, or by an orderly close.")
    die_rate: float = _option(1.0, "--die-rate", "Share of requests that --die-after meets.", minimum=0, maximum=1)
    malformed: Malformed | None = _option(None, "--malformed", "Break the protocol in this way.")
    malformed_rate: float = _option(
        1.0, "--malformed-rate", "Share of requests that --malformed meets.", minimum=0, maximum=1
    )
    split: Split = _option(Split.NONE, "--split", "Cut answers into pieces: the events, or the raw bytes (wire).")
    slow_accept_s: float = _option(0.0, "--slow-accept", "Seconds that a new connection is left unread.", minimum=0)

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            _check_range(option, getattr(self, option.name))
        if not self.models or not all(self.models):
            raise OptionError("--model: at least one name is needed, and none may be empty")
        if self.block_tokens > self.kv_tokens:
            raise OptionError(
                f"--block-tokens: {self.block_tokens} is more than the whole KV cache, --kv-tokens {self.kv_tokens}"
            )

    @property
    def max_model_len(self) -> int:
        """The context in tokens that both limits leave."""
        return min(self.context_tokens, self.kv_tokens)

    def changed(self, changes: dict[str, object]) -> FakeOptions:
        """A copy with `changes`, keyed by field name.

        Raises:
            OptionError: a name, type or value is wrong, or the address of the running server would change.
        """
        names = {option.name for option in dataclasses.fields(self)} - {"host", "port"}
        unknown = sorted(set(changes) - names)
        if unknown:
            raise OptionError(f"{unknown[0]!r} cannot be changed; these can: {', '.join(sorted(names))}")
        merged = dataclasses.asdict(self) | changes
        try:
            return msgspec.convert(merged, FakeOptions)
        except msgspec.ValidationError as error:
            raise OptionError(str(error)) from error


def _check_range(option: dataclasses.Field[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    low, high = option.metadata["minimum"], option.metadata["maximum"]
    too_low = low is not None and not value >= low
    if too_low or (high is not None and not value <= high) or value == float("inf"):
        limits = f"from {low} to {high}" if high is not None else f"{low} or more, and finite"
        raise OptionError(f"{option.metadata['flag']}: {value} is not allowed; it takes {limits}")


class Overrides(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body field `fake` (or the header `x-fake`): what this one request is to meet. None: as the options say."""

    status: int | None = None
    body: str | dict[str, object] | list[object] | None = None
    """The whole body: text as it is, anything else as JSON."""
    headers: dict[str, str] = {}
    """More headers of the answer."""
    retry_after: int | float | str | None = None
    """Value of the header retry-after."""
    raw: str | None = None
    """Sent in place of an answer, as latin-1, before the connection is closed."""
    sse: str | None = None
    """Sent as the event stream, in correct framing, in place of a generated one."""
    cuts: list[int] | None = None
    """Byte offsets into the event stream at which it is cut."""
    text: str | None = None
    output_tokens: int | None = None
    finish_reason: str | None = None
    cached_tokens: int | None = None
    ttft: float | None = None
    itl: float | None = None
    hang: Hang | None = None
    hang_after: int | None = None
    die_after: int | None = None
    die_how: Death | None = None
    malformed: Malformed | None = None
    split: Split | None = None
    no_usage: bool | None = None
