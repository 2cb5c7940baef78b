"""Files from the network to the disk: resumed, verified, one at a time, and never half there."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import certifi
import httpx

_CHUNK_BYTES = 256 * 1024
_TRIES = 5
_RETRY_PAUSE_S = 0.5
_SPARE_DISK_BYTES = 64 * 1024 * 1024
_RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_CA_VARIABLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


OFFLINE_HINT = "Without a network, give the path of a GGUF file in place of the model's name"


class ModelError(Exception):
    """A model cannot be had; the message says why and what to do about it."""


class Progress(Protocol):
    """Hears how a fetch goes on. Called from the thread that fetches."""

    def begin(self, what: str, total_bytes: int | None, done_bytes: int) -> None:
        """A transfer starts, or starts again; `done_bytes` are already here."""
        ...

    def advance(self, count_bytes: int) -> None: ...

    def note(self, text: str) -> None:
        """Something else happens that takes a while."""
        ...


class Silent:
    """A `Progress` that says nothing."""

    def begin(self, what: str, total_bytes: int | None, done_bytes: int) -> None:
        pass

    def advance(self, count_bytes: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """Where a file is, and what it must be. None: not known, so not checked. `name` is for people."""

    name: str
    url: str
    size_bytes: int | None
    sha256: str | None
    headers: Mapping[str, str] = field(default_factory=dict)


def http_client(timeout_s: float = 30.0) -> httpx.Client:
    """A client that goes through the proxy, and trusts the authorities, that this machine is set up for.

    Trusted are the system's, certifi's, and those of SSL_CERT_FILE, SSL_CERT_DIR, PIP_CERT,
    REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE; proxies are those of HTTPS_PROXY, HTTP_PROXY and NO_PROXY.
    """
    context = ssl.create_default_context()
    for bundle in (certifi.where(), *(os.environ.get(name, "") for name in _CA_VARIABLES)):
        if Path(bundle).is_file():
            context.load_verify_locations(cafile=bundle)
    return httpx.Client(verify=context, follow_redirects=True, timeout=timeout_s)


def shown_url(url: str | httpx.URL) -> str:
    """The URL without its credentials and without its query, where signatures stand."""
    return str(httpx.URL(url).copy_with(username=None, password=None, query=None))


def fetch(
    client: httpx.Client,
    remote: RemoteFile,
    target: Path,
    progress: Progress,
    *,
    pause_s: float = _RETRY_PAUSE_S,
) -> None:
    """Put `remote` at `target`, going on from what an interrupted fetch left.

    Raises:
        ModelError: no network, no disk, a refusal, or content with another checksum twice.
    """
    part = target.with_name(f"{target.name}.{(remote.sha256 or 'unverified')[:12]}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    if remote.sha256 is None:
        part.unlink(missing_ok=True)  # nothing would tell whether the two halves belong together
    for last in (False, True):
        _transfer(client, remote, part, progress, pause_s)
        problem = _mismatch(remote, part, progress)
        if problem is None:
            move_into_place(part, target)
            return
        part.unlink()
        if not last:
            progress.note(f"{remote.name}: {problem}; fetching it again")
    raise ModelError(f"{shown_url(remote.url)} is not the file it should be: {problem}")


def move_into_place(part: Path, target: Path) -> None:
    """Atomic, and on the disk before it has its name."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_space(folder: Path, needed_bytes: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes + _SPARE_DISK_BYTES:
        raise ModelError(
            f"{folder} has {megabytes(free_bytes)} free, {megabytes(needed_bytes + _SPARE_DISK_BYTES)} are "
            "needed; HEADRACE_CACHE names another folder"
        )


def megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"


@contextlib.contextmanager
def only_one(path: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of `path` against other processes; wait for it if need be. It ends with its process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.note(f"{path.name}: another process is fetching it; waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _mismatch(remote: RemoteFile, part: Path, progress: Progress) -> str | None:
    size_bytes = part.stat().st_size
    if remote.size_bytes is not None and size_bytes != remote.size_bytes:
        return f"it has {size_bytes} bytes, not {remote.size_bytes}"
    if remote.sha256 is None:
        return None
    progress.note("verifying the checksum")
    digest = sha256_of(part)
    return None if digest == remote.sha256 else f"its SHA-256 is {digest}, not {remote.sha256}"


def _transfer(client: httpx.Client, remote: RemoteFile, part: Path, progress: Progress, pause_s: float) -> None:
    """Bring `part` to its full length, over as many connections as it takes while each brings something."""
    failures = 0
    while True:
        before_bytes = part.stat().st_size if part.exists() else 0
        try:
            _receive(client, remote, part, progress)
            return
        except (httpx.TransportError, _RetryStatus) as error:
            grown = part.exists() and part.stat().st_size > before_bytes
            failures = 1 if grown else failures + 1
            if failures >= _TRIES:
                raise unreachable(remote.url, error) from error
            progress.note(f"{remote.name}: {describe(error)}; trying again")
            time.sleep(pause_s * 2**failures)


def _receive(client: httpx.Client, remote: RemoteFile, part: Path, progress: Progress) -> None:
    have_bytes = part.stat().st_size if part.exists() else 0
    if remote.size_bytes is not None:
        if have_bytes == remote.size_bytes:
            return
        require_space(part.parent, max(0, remote.size_bytes - have_bytes))
    # A compressed answer would make byte ranges and sizes mean something else.
    headers = {**remote.headers, "accept-encoding": "identity"}
    if have_bytes:
        headers["range"] = f"bytes={have_bytes}-"
    with client.stream("GET", remote.url, headers=headers) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()
            raise _RetryStatus("the server has a shorter file than the interrupted fetch")
        check_status(response)
        resumed = response.headers.get("content-range", "").startswith(f"bytes {have_bytes}-")
        if not resumed:
            have_bytes = 0
        length = response.headers.get("content-length")
        total_bytes = remote.size_bytes or (have_bytes + int(length) if length else None)
        progress.begin(remote.name, total_bytes, have_bytes)
        with part.open("ab" if resumed else "wb") as file:
            for chunk in response.iter_bytes(_CHUNK_BYTES):
                file.write(chunk)
                progress.advance(len(chunk))


class _RetryStatus(Exception):
    pass


def check_status(response: httpx.Response) -> None:
    """Raises ModelError for an answer that will stay as it is, another error for one that may change."""
    status, url = response.status_code, shown_url(response.request.url)
    if response.is_success:
        return
    if status in _RETRIED_STATUS:
        raise _RetryStatus(f"{url} answered {status}")
    hint = {
        401: "; set HF_TOKEN if it is a private or gated Hugging Face model",
        403: "; accept the model's terms on its page, and set HF_TOKEN",
        404: "; check the name and the revision",
    }.get(status, "")
    raise ModelError(f"{url} answered {status}{hint}")


def unreachable(url: str | httpx.URL, error: Exception) -> ModelError:
    return ModelError(f"cannot fetch {shown_url(url)}: {describe(error)}. {OFFLINE_HINT}")


def describe(error: Exception) -> str:
    return str(error) or type(error).__name__
