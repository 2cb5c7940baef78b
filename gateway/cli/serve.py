"""`headrace serve`: from a file, from engine URLs, or from nothing but a model's name."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gateway.cli.output import refuse, say, show_problems

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.config.problems import KeyPath

DEFAULT_MODEL = "smollm2-135m-instruct"
USUAL_FILE = Path("headrace.yaml")


class LogFormat(enum.StrEnum):
    JSON = "json"
    PRETTY = "pretty"
    OFF = "off"


def serve(
    config: Path | None = typer.Option(
        None,
        "--config",
        "-c",
        envvar="HEADRACE_CONFIG",
        help="Configuration file; by default headrace.yaml, if it is here. Without one a model is served at once.",
    ),
    model: str | None = typer.Option(
        None,
        help="Without a file: what the embedded llama.cpp runs, a name from `headrace models list`, a GGUF path or "
        f"hf:owner/repo/file.gguf. With --engine-url: the model's name there.  [default: {DEFAULT_MODEL}]",
    ),
    engine_url: list[str] = typer.Option(
        [], help="Without a file: serve what runs at this URL, such as http://127.0.0.1:8000. May be repeated."
    ),
    host: str | None = typer.Option(None, help="Address to bind. Overrides server.host."),
    port: int | None = typer.Option(None, help="TCP port; 0 takes a free one. Overrides server.port."),
    workers: int | None = typer.Option(None, help="Worker processes; 0: one per core. Overrides server.workers."),
    tls_cert: str | None = typer.Option(None, help="Certificate chain, PEM. Overrides server.tls.cert."),
    tls_key: str | None = typer.Option(None, help="Private key, PEM. Overrides server.tls.key."),
    log_format: LogFormat | None = typer.Option(None, help="Access log. Overrides telemetry.access_log.format."),
    drain: float | None = typer.Option(None, help="Seconds that answers may take to finish. Overrides server.drain_s."),
) -> None:
    """Start the gateway, and the engines that its configuration asks it to run.

    SIGTERM and Ctrl-C let answers in flight finish. Exit status 0: stopped when told to; 1: could not start.
    """
    if config is not None and (engine_url or model is not None):
        raise typer.BadParameter("--model and --engine-url are for serving without --config")
    if config is None and not engine_url and model is None and USUAL_FILE.is_file():
        config = USUAL_FILE
    if config is None and (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("--tls-cert and --tls-key go together")
    overrides: dict[KeyPath, object] = {
        ("server", "host"): host,
        ("server", "port"): port,
        ("server", "workers"): workers,
        ("server", "tls", "cert"): tls_cert,
        ("server", "tls", "key"): tls_key,
        ("telemetry", "access_log", "format"): log_format.value if log_format else None,
        ("server", "drain_s"): drain,
    }
    given = {path: value for path, value in overrides.items() if value is not None}
    given = {path: value for path, value in overrides.items() if value is not None}
    result = _configured(config, model, engine_url, given)
    from gateway.process.supervisor import run

    raise typer.Exit(run(result, config, given))


def _configured(file: Path | None, model: str | None, urls: list[str], overrides: dict[KeyPath, object]) -> Config:
    from gateway.config.load import load, override
    from gateway.config.problems import ConfigError

    try:
        if file is not None:
            loaded = load(file)
            base = loaded.config
            show_problems(loaded.warnings)
        else:
            base = engines_config(urls, model) if urls else embedded_config(model or DEFAULT_MODEL)
            if sys.stdout.isatty():
                overrides = {("telemetry", "access_log", "format"): "pretty", **overrides}
        return override(base, overrides)
    except ConfigError as error:
        refuse(error)


def embedded_config(model: str) -> Config:
    """One llama.cpp engine, and a deployment of the model's name."""
    from gateway.config import Config

    name = _name(Path(model).stem if model.endswith(".gguf") else model)
    return Config.model_validate(
        {
            "pools": {"local": {"engine": {"kind": "llamacpp", "model": model}}},
            "deployments": {name: {"variants": {"default": {"pools": ["local"]}}}},
        }
    )


def engines_config(urls: list[str], model: str | None) -> Config:
    """A pool for each set of URLs that serve the same model, asked of them unless `model` names it.

    Raises:
        ConfigError: a URL is not one.
        typer.Exit: an engine does not say what it serves.
    """
    from gateway.config import Config, without_version
    from gateway.config.load import override

    bases = list(dict.fromkeys(without_version(url) for url in urls))
    serving: dict[str, list[str]] = {}
    for base in bases:
        for name in [model] if model else _models_at(base):
            serving.setdefault(name, []).append(base)
    groups = list(dict.fromkeys(tuple(group) for group in serving.values()))
    pool_names = {group: "engines" if len(groups) == 1 else f"engines-{index}" for index, group in enumerate(groups, 1)}
    return override(
        Config(),
        {
            ("pools",): {pool_names[group]: {"urls": list(group)} for group in groups},
            ("deployments",): {
                _name(name): {"variants": {"default": {"pools": [pool_names[tuple(group)]], "model": name}}}
                for name, group in serving.items()
            },
        },
    )


def _models_at(base: str) -> list[str]:
    import httpx

    try:
        answer = httpx.get(f"{base}/v1/models", timeout=5.0)
        answer.raise_for_status()
        names = [str(entry["id"]) for entry in answer.json()["data"]]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        say(f"{base}/v1/models gives no list of models: {str(error) or type(error).__name__}")
        say("start the engine first, or say what it serves with --model")
        raise typer.Exit(1) from None
    if not names:
        say(f"{base} serves no model; load one there, or name it with --model")
        raise typer.Exit(1)
    return names


def _name(text: str) -> str:
    """The text as a deployment may be called."""
    kept = "".join(char if char.isascii() and (char.isalnum() or char in "._:/@+-") else "-" for char in text)
    return kept.lstrip("._:/@+-")[:128] or "model"
