"""The engines that the configuration asks the gateway to run: which, and by what command."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import SecretStr

from engines.commands import (
    fake_command,
    gpu_environment,
    gpu_slice,
    llamacpp_command,
    onnx_command,
    ray_command,
    transformers_command,
    vllm_command,
)
from engines.launcher import LaunchError, LaunchSpec
from gateway.config import Config, Pool
from gateway.process.machine import state_folder

RAY_START_S = 60.0
"""For Ray itself, and for a node that is yet to come."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One engine to run. Two equal plans are the same engine, which therefore outlives a change of configuration.

    names: the model names that it is asked for.
    gpus: the only ones that it is to see; None: it sees all.
    start_timeout_s: None: as its kind usually takes.
    """

    pool: str
    name: str
    kind: str
    model: str
    names: tuple[str, ...]
    context_tokens: int
    slots: int
    threads: int | None
    args: tuple[str, ...]
    python: str | None = None
    env: tuple[tuple[str, SecretStr], ...] = ()
    gpus: tuple[int | str, ...] | None = None
    start_timeout_s: float | None = None
    ray: tuple[str, ...] | None = None
    """For a whole pool on a Ray cluster: more flags of its controller."""

    @property
    def urls_file(self) -> Path:
        """Where the URLs of a pool on a Ray cluster stand."""
        return state_folder() / "ray" / f"{self.pool.replace('/', '-')}-{os.getpid()}.json"

    @property
    def what(self) -> str:
        where = "" if not self.gpus else f" on GPU {', '.join(map(str, self.gpus))}"
        return (self.model or ", ".join(self.names)) + where

    def spec(self, port: int, model_file: Path | None) -> LaunchSpec:
        """The command that serves on `port`. model_file: the GGUF file that llama.cpp is to run.

        Raises:
            LaunchError: a GPU is named that the gateway itself may not use.
        """
        spec = self._command(port, model_file)
        try:
            gpus = {} if self.gpus is None else gpu_environment(self.gpus)
        except ValueError as error:
            raise LaunchError(f"{self.name}: {error}") from None
        given = {key: value.get_secret_value() for key, value in self.env}
        limit_s = self.start_timeout_s or spec.ready_timeout_s
        spec = replace(spec, env={**spec.env, **gpus, **given}, ready_timeout_s=limit_s)
        if self.ray is None:
            return spec
        flags = (*self.ray, "--start-timeout", str(limit_s))
        spec = ray_command(self.name, spec, port=port, urls_file=self.urls_file, flags=flags)
        return replace(spec, ready_timeout_s=limit_s + RAY_START_S)

    def _command(self, port: int | str, model_file: Path | None) -> LaunchSpec:
        if self.ray is not None:
            return self._engine_command("{port}", "{host}", model_file)
        return self._engine_command(port, "127.0.0.1", model_file)

    def _engine_command(self, port: int | str, host: str, model_file: Path | None) -> LaunchSpec:
        match self.kind:
            case "onnx":
                return onnx_command(
                    self.name,
                    model=self.model,
                    alias=self.names[0],
                    port=port,
                    host=host,
                    python=self.python,
                    slots=self.slots,
                )
            case "vllm":
                return vllm_command(
                    self.name,
                    model=self.model,
                    names=self.names,
                    port=port,
                    host=host,
                    python=self.python,
                    args=self.args,
                )
            case "transformers":
                return transformers_command(
                    self.name, model=self.model, port=port, host=host, python=self.python, args=self.args
                )
            case "fake":
                more = [part for name in self.names[1:] for part in ("--model", name)]
                return fake_command(self.name, model=self.names[0], port=port, host=host, args=[*more, *self.args])
        assert model_file is not None
        return llamacpp_command(
            self.name,
            model=model_file,
            alias=self.names[0],
            port=port,
            host=host,
            context_tokens=self.context_tokens,
            slots=self.slots,
            threads=self.threads,
        )


def plans_of(config: Config) -> list[Plan]:
    started = [(name, pool) for name, pool in config.pools.items() if pool.started_here]
    return [plan for name, pool in started for plan in _pool_plans(name, pool, config)]


def _pool_plans(name: str, pool: Pool, config: Config) -> Iterator[Plan]:
    engine = pool.engine
    names = tuple(dict.fromkeys(_names_asked_for(name, config))) or (name,)
    whole = Plan(
        pool=name,
        name=name,
        kind=engine.kind,
        model=engine.model or "",
        names=names,
        context_tokens=engine.context_tokens,
        slots=engine.slots,
        threads=engine.threads,
        args=tuple(engine.args),
        python=engine.python,
        env=tuple(engine.env.items()),
        start_timeout_s=engine.start_timeout_s if "start_timeout_s" in engine.model_fields_set else None,
    )
    if engine.launcher == "ray":
        # One plan for all replicas: Ray says where each runs.
        yield replace(whole, ray=_ray_flags(pool))
        return
    for index in range(pool.replicas):
        gpus = None if engine.gpus is None else gpu_slice(engine.gpus, index, pool.replicas)
        yield replace(whole, name=f"{name}-{index}", gpus=gpus)


def _ray_flags(pool: Pool) -> tuple[str, ...]:
    engine, ray = pool.engine, pool.engine.ray
    flags = ["--address", ray.address, "--min", str(pool.replicas), "--max", str(ray.max_replicas or pool.replicas)]
    flags += ["--target", str(ray.target_in_flight), "--idle", str(ray.idle_s), "--strategy", ray.strategy]
    flags += ["--cpus", str(ray.cpus), "--gpus", str(engine.gpus if isinstance(engine.gpus, int) else 0)]
    flags += [part for key, amount in ray.resources.items() for part in ("--resource", f"{key}={amount:g}")]
    return tuple(flags)


def _names_asked_for(pool: str, config: Config) -> Iterable[str]:
    for deployment_name, deployment in config.deployments.items():
        for variant in deployment.variants.values():
            if pool in variant.pools:
                yield variant.model or deployment_name
