"""What the options of `headrace simulate` mean; each function ends the command where a value is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import typer

from gateway.cli.output import say
from gateway.simulator.plan import Price
from gateway.simulator.trace import BadTrace, Trace
from gateway.simulator.traces import read_trace
from router.policies import POLICIES

REPLICAS = 8
"""If nothing says otherwise."""
_LEAST_SPEED = 1e-3


def wrong(message: str) -> NoReturn:
    """Say it and leave with 1."""
    say(message)
    raise typer.Exit(1)


def policies(given: str) -> list[str]:
    """`all`, or names separated by commas."""
    if given == "all":
        return sorted(POLICIES)
    names = list(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))
    unknown = next((name for name in names if name not in POLICIES), None if names else given)
    if unknown is not None:
        wrong(f"--policy: {unknown!r} is no policy; known: {', '.join(sorted(POLICIES))}")
    return names


def engines(
    replicas: int | None, speeds: str, rtts: str, prices: str
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[Price, ...]]:
    """Per engine the speed, the round trip and, if given, the price."""
    given = {"--speeds": speeds.split(","), "--rtts": rtts.split(","), "--prices": prices.split(",") if prices else []}
    longest = max(len(values) for values in given.values())
    count = replicas or (longest if longest > 1 else REPLICAS)
    speed_of, rtt_of, price_of = (_one_each(flag, values, count) for flag, values in given.items())
    return (
        tuple(_number("--speeds", one, least=_LEAST_SPEED) for one in speed_of),
        tuple(_number("--rtts", one) for one in rtt_of),
        tuple(_price(one) for one in price_of),
    )


def trace_in(path: Path, limit: int | None, kv_tokens: int) -> Trace:
    try:
        trace = read_trace(path, limit)
    except BadTrace as error:
        wrong(str(error))
    if kv_tokens < trace.block_tokens:
        wrong(f"--kv-tokens {kv_tokens} is less than one block of the trace, {trace.block_tokens} tokens")
    return trace


def _one_each(flag: str, values: list[str], count: int) -> list[str]:
    if len(values) == 1:
        return values * count
    if values and len(values) != count:
        wrong(f"{flag} has {len(values)} values for {count} engines; give one for all, or one for each")
    return values


def _price(text: str) -> Price:
    into, _, out = text.partition(":")
    return Price(_number("--prices", into), _number("--prices", out or into))


def _number(flag: str, text: str, least: float = 0.0) -> float:
    try:
        value = float(text)
    except ValueError:
        wrong(f"{flag}: {text!r} is not a number")
    if not least <= value < 1e6:
        wrong(f"{flag}: {text.strip()} is not between {least:g} and 1,000,000")
    return value
