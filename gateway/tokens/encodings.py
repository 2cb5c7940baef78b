"""OpenAI's encodings, from files on this machine: nothing is fetched."""

from __future__ import annotations

import hashlib
import os
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gateway.config.prompt_options import TIKTOKEN_SUFFIX

if TYPE_CHECKING:
    from tiktoken import Encoding

FOLDER_VARIABLE = "TIKTOKEN_CACHE_DIR"
"""tiktoken's own: where it keeps what it has fetched, each file under the SHA-1 of its address."""
_ADDRESS = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"


class NoEncoding(Exception):
    """There is none to be had; the message says why."""


class _Kind(NamedTuple):
    """sha256: of the file. pattern: by which a text is cut before its pieces are encoded; as in tiktoken 0.14."""

    sha256: str
    pattern: str


ENCODINGS = {
    "cl100k_base": _Kind(
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
        r"|\s+(?!\S)|\s",
    ),
    "o200k_base": _Kind(
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
}


def encoding_of(model: str) -> str | None:
    """The encoding of one of OpenAI's models; None: it is none of theirs, or one whose encoding is not among these."""
    try:
        from tiktoken.model import encoding_name_for_model
    except ModuleNotFoundError:
        return None
    try:
        name = encoding_name_for_model(model.removeprefix("openai/"))
    except KeyError:
        return None
    return name if name in ENCODINGS else None


def usual_files(encoding: str) -> tuple[Path, ...]:
    """Where the encoding's file may be, one of them; none: nobody has said where. Looks into no folder."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return ()
    cached = hashlib.sha1(_ADDRESS.format(encoding).encode(), usedforsecurity=False).hexdigest()
    return Path(folder) / f"{encoding}{TIKTOKEN_SUFFIX}", Path(folder) / cached


def open_encoding(name: str, files: Sequence[Path]) -> Encoding:
    """An encoding from the first of these files that there is, or from the last. Takes half a second.

    Raises:
        NoEncoding: the package is not installed, or the file is missing or not what it should be.
    """
    try:
        from tiktoken import Encoding
    except ModuleNotFoundError:
        raise NoEncoding('the package "tiktoken" is not installed: pip install "headrace[tiktoken]"') from None
    kind = ENCODINGS[name]
    file = next((one for one in files[:-1] if one.is_file()), files[-1])
    try:
        data = file.read_bytes()
        ranks = {b64decode(token): int(rank) for token, rank in map(bytes.split, data.splitlines())}
    except OSError as error:
        raise NoEncoding(f"{file}: {error.strerror}") from None
    except (Base64Error, ValueError):
        raise NoEncoding(f"{file} is no list of tokens and ranks") from None
    if hashlib.sha256(data).hexdigest() != kind.sha256:
        raise NoEncoding(f"{file} is not the file of {name}: its SHA-256 should be {kind.sha256}")
    return Encoding(name, pat_str=kind.pattern, mergeable_ranks=ranks, special_tokens={})
