"""What a server is, from what it answered to a handful of GETs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """`server`: a name of `engines.kinds.SERVERS`; `evidence`: what says so."""

    server: str
    version: str
    evidence: tuple[str, ...]


class ModelCard(msgspec.Struct, frozen=True):
    """`context_tokens`: 0 where it is not told."""

    id: str
    context_tokens: int = 0


class _Meta(msgspec.Struct):
    n_ctx: int | None = None
    n_ctx_train: int | None = None


class _Card(msgspec.Struct):
    id: str
    owned_by: str | None = None
    max_model_len: int | None = None
    context_length: int | None = None
    context_window: int | None = None
    meta: _Meta | None = None


class _Cards(msgspec.Struct):
    data: list[_Card] = []


class _Version(msgspec.Struct):
    version: str = ""
    name: str = ""


class _Props(msgspec.Struct):
    total_slots: int
    build_info: str = ""


class _Info(msgspec.Struct):
    """Of TGI."""

    model_id: str
    version: str = ""
    max_total_tokens: int | None = None
    max_input_tokens: int | None = None


class _ServerInfo(msgspec.Struct):
    """Of SGLang."""

    version: str
    context_length: int | None = None
    max_req_input_len: int | None = None


class _FakeStats(msgspec.Struct):
    connected: int


class _Api(msgspec.Struct):
    paths: dict[str, msgspec.Raw] = {}


def identify(seen: Mapping[str, Seen]) -> Identity:
    """The first recognition that fits; without any, it is a server like all others."""
    for recognize in _RECOGNIZERS:
        found = recognize(seen)
        if found is not None:
            return found
    server = seen["/v1/models"].headers.get("server", "") if "/v1/models" in seen else ""
    return Identity("openai", "", (f"server: {server}",) if server else ())


def models_in(seen: Mapping[str, Seen], identity: Identity) -> list[ModelCard]:
    """What `/v1/models` lists, with the context length that it or another page tells."""
    elsewhere = _context_elsewhere(seen) if identity.server in ("sglang", "tgi") else 0
    return [ModelCard(card.id, _context_of(card) or elsewhere) for card in _cards(seen)]


def _context_of(card: _Card) -> int:
    meta = card.meta or _Meta()
    told = (card.max_model_len, card.context_length, card.context_window, meta.n_ctx, meta.n_ctx_train)
    return next((length for length in told if length), 0)


def _context_elsewhere(seen: Mapping[str, Seen]) -> int:
    tgi = _page(seen, "/info", _Info)
    if tgi is not None:
        return tgi.max_total_tokens or tgi.max_input_tokens or 0
    sglang = _page(seen, "/get_server_info", _ServerInfo)
    return (sglang.context_length or sglang.max_req_input_len or 0) if sglang is not None else 0


def _fake(seen: Mapping[str, Seen]) -> Identity | None:
    return Identity("fake", "", ("/fake/stats",)) if _page(seen, "/fake/stats", _FakeStats) is not None else None


def _vllm(seen: Mapping[str, Seen]) -> Identity | None:
    evidence = _evidence(seen, owner="vllm", prefix="vllm:")
    return Identity("vllm", _version(seen, "/version"), evidence) if evidence else None


def _llamacpp(seen: Mapping[str, Seen]) -> Identity | None:
    evidence = _evidence(seen, owner="llamacpp", prefix="llamacpp:")
    if any(one.headers.get("server", "").lower() == "llama.cpp" for one in seen.values()):
        evidence += ("server: llama.cpp",)
    props = _page(seen, "/props", _Props)
    if not evidence and props is None:
        return None
    return Identity("llamacpp", props.build_info if props else "", evidence or ("/props: total_slots",))


def _sglang(seen: Mapping[str, Seen]) -> Identity | None:
    info = _page(seen, "/get_server_info", _ServerInfo)
    evidence = _evidence(seen, owner="sglang", prefix="sglang:")
    if info is None and not evidence:
        return None
    return Identity("sglang", info.version if info else "", evidence or ("/get_server_info",))


def _tgi(seen: Mapping[str, Seen]) -> Identity | None:
    info = _page(seen, "/info", _Info)
    return Identity("tgi", info.version, (f"/info: {info.model_id}",)) if info is not None else None


def _tensorrt(seen: Mapping[str, Seen]) -> Identity | None:
    evidence = _evidence(seen, owner="tensorrt_llm", prefix="trtllm_")
    return Identity("tensorrt-llm", _version(seen, "/version"), evidence) if evidence else None


def _triton(seen: Mapping[str, Seen]) -> Identity | None:
    page = _page(seen, "/v2", _Version)
    if page is None or not page.name:
        return None
    return Identity("triton", page.version, (f"/v2: {page.name}",)) if "triton" in page.name.lower() else None


def _ollama(seen: Mapping[str, Seen]) -> Identity | None:
    version = _version(seen, "/api/version")
    return Identity("ollama", version, ("/api/version",)) if version else None


def _lm_studio(seen: Mapping[str, Seen]) -> Identity | None:
    evidence = _evidence(seen, owner="organization_owner", prefix=None)
    return Identity("lm-studio", "", evidence) if evidence else None


def _onnx(seen: Mapping[str, Seen]) -> Identity | None:
    evidence = _evidence(seen, owner="onnxruntime-genai", prefix="onnx:")
    return Identity("onnx", "", evidence) if evidence else None


def _transformers(seen: Mapping[str, Seen]) -> Identity | None:
    api = _page(seen, "/openapi.json", _Api)
    if api is None or not {"/load_model", "/reset", "/v1/chat/completions"} <= api.paths.keys():
        return None
    return Identity("transformers", "", ("/openapi.json: /load_model",))


_RECOGNIZERS: Sequence[Callable[[Mapping[str, Seen]], Identity | None]] = (
    _fake,
    _sglang,
    _llamacpp,
    _tgi,
    _tensorrt,
    _vllm,
    _triton,
    _ollama,
    _lm_studio,
    _onnx,
    _transformers,
)
"""Those that others imitate come after those who imitate them."""
_NOTHING = Seen(0, {}, b"")


def _evidence(seen: Mapping[str, Seen], *, owner: str, prefix: str | None) -> tuple[str, ...]:
    found = [f"/v1/models: owned_by {card.owned_by}" for card in _cards(seen)[:1] if card.owned_by == owner]
    metrics = seen.get("/metrics", _NOTHING)
    if (
        prefix is not None
        and metrics.status == 200
        and any(line.startswith(prefix.encode()) for line in metrics.body.split(b"\n"))
    ):
        found.append(f"/metrics: {prefix}")
    return tuple(found)


def _cards(seen: Mapping[str, Seen]) -> list[_Card]:
    page = _page(seen, "/v1/models", _Cards)
    return page.data if page is not None else []


def _version(seen: Mapping[str, Seen], path: str) -> str:
    page = _page(seen, path, _Version)
    return page.version if page is not None else ""


def _page(seen: Mapping[str, Seen], path: str, kind: type[_T]) -> _T | None:
    """What a page says, if it is there and of that form."""
    answer = seen.get(path, _NOTHING)
    if answer.status != 200:
        return None
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
