"""Why an engine process ended, as one sentence for a person. Pure."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass

PERMANENT_CODES = frozenset({os.EX_USAGE, os.EX_CONFIG, 126, 127})
"""Exit codes by which a program says that starting it again the same way cannot help."""

_QUOTE_CHARS = 300
_SCANNED_LINES = 60

_GPU_MEMORY = "the GPU has too little free memory; use a smaller model or context (`context_tokens`), or free the GPU"
_MEMORY = "too little memory; lower `context_tokens`, or use a smaller model"
_PORT = "its port is taken by another process"
_DRIVER = "no usable GPU: the NVIDIA driver is missing, or too old for this engine"
_MODEL = "the model file is missing or cannot be read"

_KNOWN_TEXTS: tuple[tuple[str, str], ...] = (
    ("cuda out of memory", _GPU_MEMORY),
    ("torch.OutOfMemoryError", _GPU_MEMORY),
    ("cudaMalloc failed: out of memory", _GPU_MEMORY),
    ("OutOfDeviceMemory", _GPU_MEMORY),
    ("No available memory for the cache blocks", _GPU_MEMORY),
    ("is less than desired GPU memory utilization", _GPU_MEMORY),
    ("std::bad_alloc", _MEMORY),
    ("cannot allocate memory", _MEMORY),
    ("failed to allocate", _MEMORY),
    ("unable to allocate", _MEMORY),
    ("MemoryError", _MEMORY),
    ("address already in use", _PORT),
    ("couldn't bind", _PORT),
    ("failed to bind", _PORT),
    ("no CUDA-capable device", _DRIVER),
    ("CUDA driver version is insufficient", _DRIVER),
    ("found no NVIDIA driver", _DRIVER),
    ("no space left on device", "the disk is full"),
    ("No module named", "a Python package that it needs is not installed"),
    ("no such command", "its program is not installed"),
    ("no such file or directory", _MODEL),
    ("failed to load model", _MODEL),
    ("error loading model", _MODEL),
    ("failed to open GGUF", _MODEL),
    ("permission denied", "it lacks the permission for a file or a port"),
)
"""Text in a line, in any case, and what it means. The first that fits counts."""

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


def explain_exit(returncode: int, lines: Sequence[str]) -> ExitReason:
    """Say why a process ended.

    Args:
        returncode: as `subprocess` gives it: negative for a signal.
        lines: the last lines that the process wrote, oldest first.
    """
    how = _how(returncode)
    found = _known_text(lines)
    if found is not None:
        meaning, quote = found
        sentence = f"{how}: {meaning} ({_quoted(quote)})"
    else:
        last = next((line for line in reversed(lines) if line.strip()), None)
        unasked = -returncode in (signal.SIGKILL, signal.SIGTERM)  # it had no time for last words
        sentence = how if last is None or unasked else f"{how}; its last line: {_quoted(last)}"
    return ExitReason(sentence, permanent=returncode in PERMANENT_CODES)


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
    for line in reversed(lines[-_SCANNED_LINES:]):
        folded = line.lower()
        for text, meaning in _KNOWN_TEXTS:
            if text.lower() in folded:
                return meaning, line
    return None


def _quoted(line: str) -> str:
    text = line.strip()
    return text if len(text) <= _QUOTE_CHARS else text[:_QUOTE_CHARS] + "…"
