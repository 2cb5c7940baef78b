"""`python -m loadtest URL --model M`: load on an OpenAI endpoint, and what came of it."""

from __future__ import annotations

import enum
import itertools
import resource

import typer
import uvloop

from loadtest.asks import chat_asks, completion_asks
from loadtest.client import Arrivals, Load, Target
from loadtest.report import Slo, summarize, table
from loadtest.results import Results


class Kind(enum.StrEnum):
    POISSON = "poisson"
    CONSTANT = "constant"


POISSON = typer.Option(Kind.POISSON, help="How an open loop's requests are spread.")


def bench(
    url: str = typer.Argument(help="Base URL, such as http://127.0.0.1:8080, or that of an endpoint."),
    model: str = typer.Option(..., "--model", "-m", help="Model to ask for."),
    requests: int | None = typer.Option(
        None, "--requests", "-n", min=1, help="Stop after this many.  [default: 100, if --duration does not say]"
    ),
    duration: float | None = typer.Option(
        None, "--duration", "-d", min=0.0, help="Start no more after this many seconds."
    ),
    concurrency: int = typer.Option(8, "--concurrency", "-c", min=1, help="Closed loop: requests kept under way."),
    rate: float | None = typer.Option(
        None, "--rate", "-r", min=0.001, help="Open loop: requests started per second, whether or not others ended."
    ),
    arrivals: Kind = POISSON,
    stream: bool = typer.Option(True, help="Ask for streams, or for whole answers."),
    completions: bool = typer.Option(False, "--completions", help="Use /v1/completions, not chat."),
    max_tokens: int = typer.Option(128, min=1, help="Of each answer."),
    prompt_words: int = typer.Option(50, min=2, help="Of each prompt."),
    key: str | None = typer.Option(None, envvar="OPENAI_API_KEY", help="API key."),
    keep_alive: bool = typer.Option(True, help="Use connections again, or a new one for each request."),
    timeout: float = typer.Option(600.0, min=0.001, help="Seconds for each request."),
    seed: int = typer.Option(0, help="Of prompts and arrivals."),
    slo_ttft: float | None = typer.Option(None, help="Goodput: longest time to first token, in seconds."),
    slo_tpot: float | None = typer.Option(None, help="Goodput: longest time per output token, in seconds."),
    slo_e2e: float | None = typer.Option(None, help="Goodput: longest whole answer, in seconds."),
    as_json: bool = typer.Option(False, "--json", help="The report as one line of JSON."),
) -> None:
    """Put load on an OpenAI endpoint and report times, rates and failures.

    TTFT: sent to first non-empty content. ITL: each gap between content chunks. TPOT: (e2e - TTFT) / (tokens - 1).
    Exit status 1: not one request succeeded.
    """
    if not url.startswith(("http://", "https://")):
        raise typer.BadParameter(f"{url} is no URL; it begins with http:// or https://", param_hint="URL")
    if requests is None and duration is None:
        requests = 100
    make = completion_asks if completions else chat_asks
    asks = make(model, stream=stream, prompt_words=prompt_words, max_tokens=max_tokens, seed=seed)
    path = "/v1/completions" if completions else "/v1/chat/completions"
    target = Target(url, path, key, timeout_s=timeout, keep_alive=keep_alive)

    async def run() -> Results:
        load = Load(target, itertools.islice(asks, requests))
        if rate is None:
            return await load.closed(concurrency, duration)
        return await load.open(Arrivals(rate, arrivals.value, seed), duration)

    _raise_file_limit()
    report = summarize(uvloop.run(run()), Slo(slo_ttft, slo_tpot, slo_e2e))
    typer.echo(report.json() if as_json else table(report))
    if not report.succeeded:
        raise typer.Exit(1)


def _raise_file_limit() -> None:
    """A descriptor for each connection."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    typer.run(bench)
