"""The embedded llama.cpp engine: `python -m engines.llamacpp_server --model FILE.gguf --port 9001`.

One process around xllamacpp's OpenAI-compatible server (C++, continuous batching, one KV cache for all slots).
Exits with 78 (EX_CONFIG) when starting it again the same way cannot help.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import xllamacpp

_GGUF_MAGIC = b"GGUF"
_METADATA_BYTES = 16 * 1024 * 1024
"""Metadata stand before the weights; vocabularies are the largest of them."""
_SPARE_HTTP_THREADS = 256
"""Each open connection holds a thread: beyond the slots there must be some for waiting calls and for /health."""


def main(argv: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(argv)
    options.model = _located(options.model)
    _check_model(options.model)
    server = _start(options)
    print(f"llama.cpp serves {options.alias} on {server.listening_address}", flush=True)  # noqa: T201
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    while True:
        signal.pause()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engines.llamacpp_server", description=__doc__)
    parser.add_argument("--model", required=True, help="GGUF file, or what `headrace models pull` was given for it")
    parser.add_argument("--alias", default="model", help="the model name it answers to")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--context-tokens", type=int, default=8192, help="KV cache shared by all slots")
    parser.add_argument("--slots", type=int, default=8, help="requests decoded together")
    parser.add_argument("--threads", type=int, help="default: one per core")
    return parser


def _located(model: str) -> Path:
    """The file that is meant; a path is taken as it is, a name must have been fetched."""
    path = Path(model)
    if path.is_file() or (path.suffix == ".gguf" and not model.startswith("hf:")):
        return path
    from engines.models import ModelError, resolve

    try:
        found = resolve(model)
    except ModelError as error:
        _refuse(str(error))
    if found is None:
        _refuse(f"the model {model} is not on this machine yet: `headrace models pull {model}` fetches it")
    return found


def _check_model(path: Path) -> None:
    """llama.cpp's own message is a page long, and a broken file can end the process with a signal."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(_GGUF_MAGIC))
    except OSError as error:
        _refuse(f"{path}: {error.strerror}; `headrace models list` shows what is there")
    if magic != _GGUF_MAGIC:
        _refuse(f"{path} is not a GGUF file: it begins with {magic!r}")


def _start(options: argparse.Namespace) -> xllamacpp.Server:
    # OpenMP reads this when it is loaded. Spinning threads lose most of their speed beside a busy gateway.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import xllamacpp
    except ModuleNotFoundError:
        _refuse("the llama.cpp engine is not installed: pip install 'headrace[llamacpp]'")
    params = xllamacpp.CommonParams()
    params.model.path = str(options.model)
    params.model_alias = {options.alias}
    params.hostnames = [options.host]
    params.port = options.port
    params.n_ctx = options.context_tokens
    params.n_parallel = options.slots
    params.kv_unified = True
    params.endpoint_metrics = True
    params.embedding = True  # beside generation, not instead of it
    if not _has_own_pooling(options.model):
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.n_threads_http = options.slots + _SPARE_HTTP_THREADS
    params.ui = False
    params.cors_origins = ""  # only the gateway calls it, never a web page
    if options.threads is not None:
        params.cpuparams.n_threads = options.threads
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        print(f"llama.cpp did not start: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(1) from None


def _has_own_pooling(path: Path) -> bool:
    """Whether the model says how token vectors become one embedding: embedding models do, others do not."""
    with path.open("rb") as file:
        return b".pooling_type" in file.read(_METADATA_BYTES)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    # Not through the interpreter's end: destructors of the C++ server may wait for requests in flight.
    os._exit(0)


def _refuse(message: str) -> NoReturn:
    print(message, file=sys.stderr)  # noqa: T201
    raise SystemExit(os.EX_CONFIG)


if __name__ == "__main__":
    main()
