"""What a call needs of a variant, read cheaply from its body, and what a variant offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec

from gateway.config.spill_options import OfferOptions
from gateway.errors import InvalidRequest
from gateway.prompts.body import MEDIA_TOKENS
from gateway.upstream import BYTES_PER_TOKEN
from gateway.wire import Call

_NOTHING = msgspec.Raw(b"")
_EMPTY = (b"", b"null", b"[]", b"{}")
_MEDIA = {
    "image_url": "vision",
    "input_image": "vision",
    "image": "vision",
    "input_audio": "audio",
    "audio_url": "audio",
    "audio": "audio",
}
"""Types of message parts, and the capability that each takes."""
_WORDS = {"tools": "function calls", "vision": "images", "audio": "sounds", "json_schema": "answers by a JSON schema"}


@dataclass(frozen=True, slots=True)
class Needs:
    """capabilities: names of `variants.*.capabilities`. tokens: of prompt and answer, estimated from the size of the
    text."""

    capabilities: frozenset[str] = frozenset()
    tokens: int = 0


NO_NEEDS = Needs()


@dataclass(frozen=True, slots=True)
class Offer:
    """capabilities: None: all. max_context_tokens: None: no limit is known. step_down: only for stepping down to."""

    capabilities: frozenset[str] | None = None
    max_context_tokens: int | None = None
    step_down: bool = False

    @property
    def restricts(self) -> bool:
        return self.capabilities is not None or self.max_context_tokens is not None

    def can(self, needs: Needs) -> bool:
        return self.capabilities is None or needs.capabilities <= self.capabilities

    def holds(self, needs: Needs) -> bool:
        return self.max_context_tokens is None or needs.tokens <= self.max_context_tokens


class Named(Protocol):
    """A variant."""

    @property
    def name(self) -> str: ...


V = TypeVar("V", bound=Named)


class Menu:
    """What the variants of a deployment offer, by their names."""

    __slots__ = ("_offers", "_restricts")

    def __init__(self, variants: Mapping[str, OfferOptions]) -> None:
        self._offers = {name: _offer(options) for name, options in variants.items()}
        self._restricts = any(offer.restricts for offer in self._offers.values())

    def __repr__(self) -> str:
        return f"<Menu {self._offers}>"

    def __getitem__(self, name: str) -> Offer:
        return self._offers[name]

    def needs_of(self, call: Call) -> Needs:
        """What to ask `fitting` for. Where no variant restricts anything, the body is not read for it."""
        return read_needs(call) if self._restricts else NO_NEEDS

    def fitting(self, variants: Sequence[V], needs: Needs) -> Sequence[V]:
        """Those that can serve a call. None at all: it needs what none can do.

        Tokens are estimated, so a call that seems too long for all is the engine's to judge: those with the largest
        context remain.
        """
        if not self._restricts:
            return variants
        able = [variant for variant in variants if self._offers[variant.name].can(needs)]
        roomy = [variant for variant in able if self._offers[variant.name].holds(needs)]
        if roomy or not able:
            return roomy
        most = max(self._context(variant) for variant in able)
        return [variant for variant in able if self._context(variant) == most]

    def refusal(self, deployment: str, needs: Needs) -> InvalidRequest:
        """Of a call that no variant can serve."""
        lacking = {
            one
            for one in needs.capabilities
            if all(one not in (offer.capabilities or ()) for offer in self._offers.values())
        }
        what = " and ".join(_WORDS[one] for one in sorted(lacking or needs.capabilities))
        message = f"No variant of {deployment!r} may be sent {what}; see `deployments.*.variants.*.capabilities`."
        return InvalidRequest(message, code="unsupported_operation")

    def _context(self, variant: Named) -> int:
        return self._offers[variant.name].max_context_tokens or 0


def _offer(options: OfferOptions) -> Offer:
    capabilities = None if options.capabilities is None else frozenset[str](options.capabilities)
    return Offer(capabilities, options.max_context_tokens, options.step_down)


class _Part(msgspec.Struct):
    type: str = ""
    text: msgspec.Raw = _NOTHING


class _Message(msgspec.Struct):
    content: msgspec.Raw = _NOTHING


class _Format(msgspec.Struct):
    type: str = ""


class _Body(msgspec.Struct):
    messages: list[_Message] = []
    prompt: msgspec.Raw = _NOTHING
    input: msgspec.Raw = _NOTHING
    tools: msgspec.Raw = _NOTHING
    functions: msgspec.Raw = _NOTHING
    response_format: _Format | None = None
    max_tokens: msgspec.Raw = _NOTHING
    max_completion_tokens: msgspec.Raw = _NOTHING


_decode_body = msgspec.json.Decoder(_Body).decode
_decode_parts = msgspec.json.Decoder(list[str | _Part]).decode


def read_needs(call: Call) -> Needs:
    """Of a body that cannot be read: none. It is the engine's to refuse."""
    try:
        return _needs(_decode_body(call.body))
    except (ValueError, RecursionError):  # msgspec's are ValueErrors
        return NO_NEEDS


def _needs(body: _Body) -> Needs:
    found: set[str] = set()
    tools = len(body.tools) + len(body.functions)
    if bytes(body.tools) not in _EMPTY or bytes(body.functions) not in _EMPTY:
        found.add("tools")
    if body.response_format is not None and body.response_format.type == "json_schema":
        found.add("json_schema")
    tokens = (len(body.prompt) + len(body.input) + tools) // BYTES_PER_TOKEN
    for message in body.messages:
        tokens += _of_content(message.content, found)
    tokens += max(_number(body.max_tokens), _number(body.max_completion_tokens))
    return Needs(frozenset(found), tokens)


def _of_content(content: msgspec.Raw, found: set[str]) -> int:
    """Its tokens; adds what its parts take to `found`."""
    raw = bytes(content)
    if not raw.startswith(b"["):
        return len(raw) // BYTES_PER_TOKEN
    tokens = 0
    for part in _decode_parts(raw):
        if isinstance(part, str):
            tokens += len(part.encode()) // BYTES_PER_TOKEN
            continue
        capability = _MEDIA.get(part.type)
        if capability is not None:
            found.add(capability)
            tokens += MEDIA_TOKENS
        tokens += len(part.text) // BYTES_PER_TOKEN
    return tokens


def _number(raw: msgspec.Raw) -> int:
    digits = bytes(raw)
    return int(digits) if digits.isdigit() and len(digits) < 10 else 0
