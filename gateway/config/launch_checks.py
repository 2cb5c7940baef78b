"""What is wrong or odd with the engines that the gateway is to start: settings that its kind needs, GPUs used twice."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from engines.commands import gpu_slice
from gateway.config import Config, Pool
from gateway.config.problems import Finding, KeyPath

PYTHON_KINDS = frozenset({"vllm", "transformers", "onnx"})
_OURS = {"--host": "is loopback", "--port": "is a free one", "--served-model-name": "are those of the deployments"}


def python_engine(pool: Pool, here: KeyPath) -> Iterator[Finding]:
    """A pool without `urls` of a kind that a Python interpreter runs."""
    engine = pool.engine
    if engine.model is None:
        yield Finding(
            (*here, "engine"),
            f"{engine.kind} without `urls` needs a `model` to start",
            "a name on Hugging Face, or a folder",
        )
    if (
        engine.launcher == "local"
        and engine.python is not None
        and shutil.which(str(Path(engine.python).expanduser())) is None
    ):
        yield Finding(
            (*here, "engine", "python"),
            f'there is no program "{engine.python}"',
            "the interpreter of the environment where the engine is installed: /opt/vllm/bin/python",
            value=engine.python,
        )
    for index, argument in enumerate(engine.args):
        flag = argument.partition("=")[0]
        if flag in _OURS:
            yield Finding(
                (*here, "engine", "args", index),
                f"the gateway itself sets {flag}: it {_OURS[flag]}",
                "leave it out",
                value=argument,
            )


def shared_gpus(config: Config) -> Iterator[Finding]:
    """Lists that do not share out evenly, and GPUs that two engines are given."""
    owners: dict[int | str, str] = {}
    for name, pool in config.pools.items():
        gpus = pool.engine.gpus
        if pool.urls or gpus is None:
            continue
        here: KeyPath = ("pools", name, "engine", "gpus")
        if not isinstance(gpus, int) and len(gpus) % pool.replicas:
            yield Finding(
                here, f"{len(gpus)} GPUs cannot be shared out evenly by {pool.replicas} replicas", "add or remove some"
            )
            continue
        used = [gpu for index in range(pool.replicas) for gpu in gpu_slice(gpus, index, pool.replicas)]
        twice = {
            gpu: owners.get(gpu, name) for position, gpu in enumerate(used) if gpu in owners or gpu in used[:position]
        }
        for gpu, owner in twice.items():
            other = "twice in this list" if owner == name else f'given to the pool "{owner}" as well'
            hint = "two engines on one GPU need its memory shared out between them: --gpu-memory-utilization"
            yield Finding(here, f"GPU {gpu} is {other}", hint, severity="warning")
        owners.update((gpu, name) for gpu in used)


def ray(pool: Pool, here: KeyPath) -> Iterator[Finding]:
    """What Ray decides cannot be said here as well."""
    engine = pool.engine
    if engine.launcher != "ray":
        return
    if not pool.started_here:
        yield Finding((*here, "engine", "launcher"), "Ray starts engines, but the pool names running ones", "keep one")
    if engine.kind == "llamacpp":
        hint = "vllm, transformers, onnx and fake can"
        yield Finding((*here, "engine", "launcher"), "llamacpp runs on this machine only", hint)
    if isinstance(engine.gpus, list):
        hint = "say how many each replica gets: `gpus: 1`"
        yield Finding((*here, "engine", "gpus"), "on a Ray cluster it is Ray that chooses the GPUs", hint)
    most = engine.ray.max_replicas
    if most is not None and most < pool.replicas:
        text = f"{most} is below `replicas`, of which there are at least {pool.replicas}"
        yield Finding((*here, "engine", "ray", "max_replicas"), text, "raise it, or lower `replicas`", value=str(most))
