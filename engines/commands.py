"""How the engines that the gateway runs itself are started: configuration values in, `LaunchSpec` out."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from .launcher import LaunchSpec


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on right now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.bind((host, 0))
        return int(listener.getsockname()[1])


def llamacpp_command(
    name: str,
    *,
    model: Path,
    alias: str,
    port: int,
    host: str = "127.0.0.1",
    context_tokens: int = 8192,
    slots: int = 8,
    threads: int | None = None,
) -> LaunchSpec:
    """Run the embedded llama.cpp server on a GGUF file; it answers to the model name `alias`."""
    argv = [sys.executable, "-m", "engines.llamacpp_server"]
    argv += ["--model", str(model), "--alias", alias, "--host", host, "--port", str(port)]
    argv += ["--context-tokens", str(context_tokens), "--slots", str(slots)]
    if threads is not None:
        argv += ["--threads", str(threads)]
    return LaunchSpec(name, argv, ready_url=f"{_base_url(host, port)}/health")


def fake_command(name: str, *, model: str, port: int, host: str = "127.0.0.1", args: Sequence[str] = ()) -> LaunchSpec:
    """Run the fake engine; `args` are more of its own options."""
    argv = [
        sys.executable,
        "-m",
        "engines.fake",
        "--host",
        host,
        "--port",
        str(port),
        "--model",
        model,
        *args,
    ]
    return LaunchSpec(name, argv, ready_url=f"{_base_url(host, port)}/health", ready_timeout_s=60.0)


def _base_url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
