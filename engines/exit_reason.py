"""Why an engine process ended, as one sentence for a person. Pure."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

PERMANENT_CODES = frozenset({os.EX_USAGE, os.EX_CONFIG, 126, 127})
"""Exit codes by which a program says that starting it again the same way cannot help."""

_QUOTE_CHARS = 300
_GPU_MEMORY = (
    "the GPU has too little free memory; lower --gpu-memory-utilization or --max-model-len (llama.cpp: "
    "`context_tokens`), take more GPUs or a smaller model, or free the GPU of other processes"
)
_GPU_TAKEN = (
    "another process uses the GPU's memory; lower --gpu-memory-utilization, or give each engine its own with `gpus`"
)
_NO_CACHE = (
    "the weights leave no memory for the KV cache; raise --gpu-memory-utilization (CPU: VLLM_CPU_KVCACHE_SPACE), or "
    "take more GPUs or a smaller model"
)
_CACHE = (
    "the KV cache is too small for one request of full length; lower --max-model-len, or raise "
    "--gpu-memory-utilization (CPU: VLLM_CPU_KVCACHE_SPACE)"
)
_MEMORY = "too little memory; lower `context_tokens`, or use a smaller model"
_HELPER = "a helper process of it was killed, most often by the kernel for using too much memory; `dmesg` says so"
_PORT = "its port is taken by another process"
_DRIVER = "no usable GPU: the NVIDIA driver is missing, or too old for this engine"
_ORDINAL = "it was given a GPU that is not there; check `gpus` against `nvidia-smi`"
_TOO_FEW = "it has fewer GPUs than --tensor-parallel-size times --pipeline-parallel-size; check `gpus`"
_MODEL = "the model file is missing or cannot be read"
_NO_MODEL = "there is no such model: neither a folder nor a name on Hugging Face; check `model`"
_GATED = "the model needs an account that may read it: set HF_TOKEN in `env` of the engine, and accept its licence"
_HUB = "Hugging Face cannot be reached and the model is not in its cache; fetch it ahead of time, or set HF_ENDPOINT"
_ARCHITECTURE = "this version of the engine does not know the model's architecture; take a newer one"
_LENGTH = "--max-model-len is more than the model was made for; lower it"
_PACKAGE = "a Python package that it needs is not installed; check `python` of the engine"
_DTYPE = "the GPU is too old for bfloat16; add --dtype=half"
_ARGUMENT = "it does not know one of its arguments; check `args` against the engine's own --help"

_KNOWN_TEXTS: tuple[tuple[str, str], ...] = (
    ("cuda out of memory", _GPU_MEMORY),
    ("torch.OutOfMemoryError", _GPU_MEMORY),
    ("cudaMalloc failed: out of memory", _GPU_MEMORY),
    ("CUDA error: out of memory", _GPU_MEMORY),
    ("OutOfDeviceMemory", _GPU_MEMORY),
    ("No available memory for the cache blocks", _NO_CACHE),
    ("is larger than the available KV cache", _CACHE),
    ("is less than desired GPU memory utilization", _GPU_TAKEN),
    ("is less than desired CPU memory utilization", _MEMORY),
    ("is greater than the derived max_model_len", _LENGTH),
    ("std::bad_alloc", _MEMORY),
    ("cannot allocate memory", _MEMORY),
    ("failed to allocate", _MEMORY),
    ("unable to allocate", _MEMORY),
    ("MemoryError", _MEMORY),
    ("died unexpectedly (exit code: -9)", _HELPER),
    ("address already in use", _PORT),
    ("couldn't bind", _PORT),
    ("failed to bind", _PORT),
    ("invalid device ordinal", _ORDINAL),
    ("no CUDA-capable device", _DRIVER),
    ("CUDA driver version is insufficient", _DRIVER),
    ("found no NVIDIA driver", _DRIVER),
    ("Failed to infer device type", _DRIVER),
    ("is larger than the number of", _TOO_FEW),
    ("Bfloat16 is only supported", _DTYPE),
    ("no space left on device", "the disk is full"),
    ("No module named", _PACKAGE),
    ("Missing dependencies for serving", _PACKAGE),
    ("no such command", "its program is not installed"),
    ("are not supported for now", _ARCHITECTURE),
    ("does not recognize this architecture", _ARCHITECTURE),
    ("gated repo", _GATED),
    ("401 Client Error", _GATED),
    ("is not a valid model identifier", _NO_MODEL),
    ("Repository Not Found", _NO_MODEL),
    ("Repo id must", _NO_MODEL),
    ("does not appear to have a file named", _NO_MODEL),
    ("We couldn't connect to", _HUB),
    ("LocalEntryNotFoundError", _HUB),
    ("OfflineModeIsEnabled", _HUB),
    ("unrecognized arguments", _ARGUMENT),
    ("No such option", _ARGUMENT),
    ("no such file or directory", _MODEL),
    ("failed to load model", _MODEL),
    ("error loading model", _MODEL),
    ("failed to open GGUF", _MODEL),
    ("permission denied", "it lacks the permission for a file or a port"),
)
"""Text in a line, in any case, and what it means. The first that fits counts."""

_FOR_GOOD = frozenset({_PACKAGE, _ARCHITECTURE, _LENGTH, _ARGUMENT, _TOO_FEW})
"""What starting it again the same way cannot mend."""

_NOISE = ("leaked shared_memory", "warnings.warn(", "for further information visit")
_POINTERS = ("root cause above", "see stack trace")
"""Last lines that only point to an earlier one."""
_ERROR = re.compile(r"\b[A-Z]\w*(?:Error|Exception)\b: ")

_SIGNALS = {
    signal.SIGKILL: "killed (SIGKILL), most often by the kernel for using too much memory; "
    "`dmesg` or the container's events say so",
    signal.SIGSEGV: "crashed (SIGSEGV: a fault in native code)",
    signal.SIGILL: "crashed (SIGILL: it was built for another CPU)",
    signal.SIGABRT: "aborted (SIGABRT: native code gave up)",
    signal.SIGBUS: "crashed (SIGBUS: a mapped file was cut short, or shared memory is full)",
    signal.SIGTERM: "ended by SIGTERM that somebody else sent",
}


@dataclass(frozen=True, slots=True)
class ExitReason:
    """`permanent`: starting it again the same way cannot help."""

    sentence: str
    permanent: bool = False


def explain_exit(returncode: int, lines: Sequence[str], peak_bytes: int = 0) -> ExitReason:
    """Say why a process ended.

    Args:
        returncode: as `subprocess` gives it: negative for a signal.
        lines: the last lines that the process wrote, oldest first.
        peak_bytes: the most memory that it was seen to hold; 0: not known.
    """
    how = _how(returncode)
    if returncode == -signal.SIGKILL and peak_bytes:
        how += f"; it held up to {peak_bytes / 1e9:.1f} GB"
    meaning, quote = _known_text(lines) or ("", "")
    if meaning:
        sentence = f"{how}: {meaning} ({_quoted(quote)})"
    else:
        last = _last_words(lines)
        unasked = -returncode in (signal.SIGKILL, signal.SIGTERM)  # it had no time for last words
        sentence = how if last is None or unasked else f"{how}; its last line: {_quoted(last)}"
    return ExitReason(sentence, permanent=returncode in PERMANENT_CODES or meaning in _FOR_GOOD)


def _how(returncode: int) -> str:
    if returncode >= 0:
        return f"exited with code {returncode}"
    try:
        number = signal.Signals(-returncode)
    except ValueError:
        return f"killed by signal {-returncode}"
    return _SIGNALS.get(number, f"killed by {number.name}")


def _known_text(lines: Sequence[str]) -> tuple[str, str] | None:
    """The meaning and the line of the last line whose text is known."""
    for line in reversed(lines):
        folded = line.lower()
        for text, meaning in _KNOWN_TEXTS:
            if text.lower() in folded:
                return meaning, line
    return None


def _last_words(lines: Sequence[str]) -> str | None:
    """The last line that says something; where it only points further up, the last error before it."""
    spoken = [line for line in lines if line.strip() and not _has(line, _NOISE)]
    if not spoken or not _has(spoken[-1], _POINTERS):
        return spoken[-1] if spoken else None
    errors = [line for line in spoken if _ERROR.search(line) and not _has(line, _POINTERS)]
    return errors[-1] if errors else spoken[-1]


def _has(line: str, texts: Sequence[str]) -> bool:
    return any(text in line.lower() for text in texts)


def _quoted(line: str) -> str:
    text = line.strip()
    return text if len(text) <= _QUOTE_CHARS else text[:_QUOTE_CHARS] + "…"
