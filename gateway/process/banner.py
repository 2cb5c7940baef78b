"""What a person sees of a start, and a log collector of the same: where what runs, what becomes ready, what fails."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    from gateway.config import Config

logger = logging.getLogger("headrace")

KEY_VARIABLE = "HEADRACE_KEY"
_ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}
_GREEN, _BOLD, _DIM = "32", "1", "2"


class Console:
    """Lines for a person on a terminal, or messages for a log collector; both on standard error.

    how: `pretty` or `json`, also for the messages of the workers.
    """

    def __init__(self, how: Literal["json", "pretty"], stream: TextIO | None = None) -> None:
        self.how = how
        self._stream = stream or sys.stderr
        self._colour = self._stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    @classmethod
    def suiting(cls, config: Config) -> Console:
        """As the access log's format says; where nobody chose one, pretty in a terminal and JSON elsewhere."""
        log = config.telemetry.access_log
        chosen = log.format if "format" in log.model_fields_set else "off"
        if chosen == "off":
            chosen = "pretty" if sys.stderr.isatty() else "json"
        return cls(chosen)

    def hello(self) -> None:
        name = f"headrace {importlib.metadata.version('headrace')}"
        self.tell(f"{self._paint(_BOLD, name)} starts, process {os.getpid()}")

    def tell(self, text: str) -> None:
        """One or more lines of good news."""
        if self.how == "json":
            for line in text.splitlines():
                logger.info("%s", line.strip())
            return
        try:
            print(text, file=self._stream, flush=True)
        except OSError:
            self._go_silent()

    def warn(self, text: str) -> None:
        logger.warning("%s", text)

    def fail(self, text: str) -> None:
        logger.error("%s", text)

    def overview(self, config: Config, url: str, workers: int) -> None:
        """What leads where. `config`: with the URLs of the engines that are started here."""
        plural = "" if workers == 1 else "s"
        self.tell(f"gateway on {self._paint(_GREEN, url)} with {workers} worker{plural}")
        if not config.auth.keys and not config.auth.jwt and config.database is None:
            self.tell("no keys are configured (auth.keys): everybody on this machine may call")
        self.tell("\n".join(f"  {line}" for line in _routes(config)) or "  there are no deployments yet")

    def engine_loads(self, name: str, what: str) -> None:
        self.tell(f"engine {name}: loading {what}…")

    def engine_ready(self, name: str, after_s: float, pid: int | None) -> None:
        self.tell(f"engine {name}: {self._paint(_GREEN, 'ready')} in {after_s:.1f} s, process {pid}")

    def engine_ended(self, name: str, reason: str, last_lines: Sequence[str], log: Path | None) -> None:
        """`reason`: a sentence, with what happens next."""
        quoted = "".join(f"\n    {line}" for line in last_lines)
        where = f"\n    all of its output: {log}" if log else ""
        self.warn(f"engine {name}: {reason}{quoted}{where}")

    def examples(self, config: Config, url: str) -> None:
        """Two ways to call the first deployment, to be pasted. For people only."""
        if self.how == "json":
            self.tell("ready")
            return
        model = next(iter(config.deployments), None)
        self.tell(f"\n{self._paint(_GREEN, 'ready')}" + (". Try it:\n" if model else ""))
        if model is not None:
            keyed = bool(config.auth.keys or config.auth.jwt or config.database)
            self.tell(f"{curl_example(url, model, keyed=keyed)}\n\n{python_example(url, model, keyed=keyed)}\n")

    def _go_silent(self) -> None:
        """Nobody reads any more: the terminal is closed, or the pipe. That is no reason to stop serving."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


def shown_url(host: str, port: int, *, tls: bool) -> str:
    """The gateway's URL as somebody on this machine calls it."""
    bare = host.strip("[]")
    reachable = _ANY_HOST.get(bare) or (f"[{bare}]" if ":" in bare else bare)
    return f"{'https' if tls else 'http'}://{reachable}:{port}"


def curl_example(url: str, model: str, *, keyed: bool) -> str:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}]})
    key = f' -H "authorization: Bearer ${KEY_VARIABLE}"' if keyed else ""
    return f"curl {url}/v1/chat/completions{key} -H 'content-type: application/json' -d '{body}'"


def python_example(url: str, model: str, *, keyed: bool) -> str:
    key = f'os.environ["{KEY_VARIABLE}"]' if keyed else '"none"'
    messages = '[{"role": "user", "content": "Hello"}]'
    return "\n".join(
        [
            "import openai" + (", os" if keyed else ""),
            f'client = openai.OpenAI(base_url="{url}/v1", api_key={key})',
            f'answer = client.chat.completions.create(model="{model}", messages={messages})',
            "print(answer.choices[0].message.content)",
        ]
    )


def _routes(config: Config) -> Iterable[str]:
    """Deployment → variant → pool: engine kind and URLs, or where they are found; a line for each pool."""
    for name, deployment in config.deployments.items():
        for variant_name, variant in deployment.variants.items():
            for pool_name in variant.pools:
                pool = config.pools[pool_name]
                urls = ", ".join(_without_credentials(url) for url in pool.urls)
                yield f"{name} → {variant_name} → {pool_name}: {pool.engine.kind} on {urls or pool.source}"


def _without_credentials(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
