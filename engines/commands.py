"""How the engines that the gateway runs itself are started: configuration values in, `LaunchSpec` out."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from .launcher import LaunchSpec

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Honoured by CUDA, and by ROCm as well."""
_ORDER = "CUDA_DEVICE_ORDER"


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
    port: int | str,
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


def vllm_command(
    name: str,
    *,
    model: str,
    names: Sequence[str],
    port: int | str,
    host: str = "127.0.0.1",
    python: str | None = None,
    args: Sequence[str] = (),
) -> LaunchSpec:
    """Run vLLM's server; it answers to each of `names`. `args` are more of its own options."""
    # Not `vllm serve`, which fails where the distribution is not called vllm: that for CPUs is not.
    argv = [_interpreter(python), "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    argv += ["--served-model-name", *names, "--host", host, "--port", str(port), *args]
    return LaunchSpec(name, argv, ready_url=f"{_base_url(host, port)}/health")


def transformers_command(
    name: str,
    *,
    model: str,
    port: int | str,
    host: str = "127.0.0.1",
    python: str | None = None,
    args: Sequence[str] = (),
) -> LaunchSpec:
    """Run `transformers serve` with the one model, to which it answers by this very name."""
    argv = [_interpreter(python), "-m", "transformers.cli.transformers", "serve", model]
    argv += ["--host", host, "--port", str(port), *args]
    return LaunchSpec(name, argv, ready_url=f"{_base_url(host, port)}/health")


def onnx_command(
    name: str,
    *,
    model: str,
    alias: str,
    port: int | str,
    host: str = "127.0.0.1",
    python: str | None = None,
    slots: int = 8,
) -> LaunchSpec:
    """Run ONNX Runtime GenAI on a model's folder; it answers to the model name `alias`."""
    argv = [_interpreter(python), "-m", "engines.onnx", "--model", str(Path(model).expanduser()), "--alias", alias]
    argv += ["--host", host, "--port", str(port), "--slots", str(slots)]
    return LaunchSpec(name, argv, ready_url=f"{_base_url(host, port)}/health")


def ray_command(name: str, engine: LaunchSpec, *, port: int, urls_file: Path, flags: Sequence[str] = ()) -> LaunchSpec:
    """Run a pool of `engine` on a Ray cluster; `{host}` and `{port}` in its command stand for what a replica gets."""
    argv = [sys.executable, "-m", "engines.ray_pool", "--port", str(port), "--urls-file", str(urls_file), *flags]
    argv += [part for key in engine.env for part in ("--env", key)]
    return LaunchSpec(name, [*argv, "--", *engine.argv], env=engine.env, ready_url=f"http://127.0.0.1:{port}/health")


def fake_command(
    name: str, *, model: str, port: int | str, host: str = "127.0.0.1", args: Sequence[str] = ()
) -> LaunchSpec:
    """Run the fake engine; `args` are more of its own options."""
    argv = [sys.executable, "-m", "engines.fake", "--host", host, "--port", str(port), "--model", model, *args]
    return LaunchSpec(name, argv, ready_url=f"{_base_url(host, port)}/health", ready_timeout_s=60.0)


def gpu_slice(gpus: int | Sequence[int | str], replica: int, replicas: int) -> tuple[int | str, ...]:
    """The GPUs of one replica: `gpus` of them each, counted from the first; or its even share of those listed."""
    if isinstance(gpus, int):
        return tuple(range(replica * gpus, (replica + 1) * gpus))
    each = len(gpus) // replicas
    return tuple(gpus[replica * each : (replica + 1) * each])


def gpu_environment(gpus: Sequence[int | str], outside: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What makes a process see these GPUs alone. An index counts those that this process may use itself.

    Raises:
        ValueError: the index is beyond them.
    """
    allowed = [name.strip() for name in outside.get(VISIBLE, "").split(",") if name.strip()]
    chosen: list[str] = []
    for gpu in gpus:
        if not allowed or isinstance(gpu, str):
            chosen.append(str(gpu))
        elif gpu < len(allowed):
            chosen.append(allowed[gpu])
        else:
            raise ValueError(f"`gpus` names GPU {gpu}, but {VISIBLE}={','.join(allowed)} allows {len(allowed)} only")
    # Without a list from outside, indices are to be those that `nvidia-smi` shows.
    order = {} if allowed or _ORDER in outside else {_ORDER: "PCI_BUS_ID"}
    return {VISIBLE: ",".join(chosen), **order}


def _interpreter(python: str | None) -> str:
    return str(Path(python).expanduser()) if python else sys.executable


def _base_url(host: str, port: int | str) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
