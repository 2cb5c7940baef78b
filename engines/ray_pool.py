"""A pool of engines on a Ray cluster: `python -m engines.ray_pool … -- COMMAND`, run by the supervisor.

Ray chooses the nodes and gives each engine its GPUs. The URLs of those that serve stand in a file, which the gateway's
workers follow. Replicas are added and taken away by what the engines say they have to do. When this process ends,
however it ends, Ray ends the engines with it.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import logging
import os
import re
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.scaler import Bounds, Scaler

logger = logging.getLogger("headrace.ray")

EVERY_S = 1.0
ASK_S = 2.0
STOP_S = 10.0
NOTICED_S = 10.0
"""Until every worker has seen that a URL is gone from the file."""
DRAIN_S = 120.0
"""For an engine that does not say what it has to do."""
LONGEST_ANSWER_S = 3600.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
_LOAD = re.compile(
    rb"^(?:vllm:num_requests_(?:running|waiting)|sglang:num_(?:running|queue)_reqs"
    rb"|llamacpp:requests_(?:processing|deferred))(?:\{[^}]*\})? ([0-9.eE+-]+)$",
    re.MULTILINE,
)


@dataclass(slots=True, eq=False)
class Replica:
    """One engine.

    ready:     its health path has answered.
    left_s:    when its URL was taken out of the file.
    in_flight: requests running and waiting; None: it does not say.
    """

    actor: Any
    began_s: float
    url: str = ""
    ready: bool = False
    left_s: float | None = None
    in_flight: float | None = None
    ended: str = ""

    @property
    def leaving(self) -> bool:
        return self.left_s is not None


@dataclass(frozen=True, slots=True)
class Placement:
    """What one engine takes of a node, by Ray's names, and how engines are spread over nodes."""

    cpus: float = 1.0
    gpus: float = 0.0
    resources: dict[str, float] = field(default_factory=dict)
    strategy: str = "SPREAD"


class RayPool:
    """Keeps the pool as it should be until `stopped` is set."""

    def __init__(self, ray: Any, options: argparse.Namespace) -> None:
        self._ray = ray
        self._options = options
        self._scaler = Scaler(Bounds(options.min, options.max, options.target, options.idle))
        self._replicas: list[Replica] = []
        self._threads = ThreadPoolExecutor(max_workers=16)
        self._written: list[str] | None = None
        self._failures = 0
        self._not_before_s = 0.0
        self.stopped = threading.Event()

    @property
    def serves(self) -> bool:
        return bool(self._written)

    def run(self) -> None:
        """Until `stopped` is set, and the engines have been told to end."""
        try:
            while not self.stopped.is_set():
                self.turn(time.monotonic())
                self.stopped.wait(EVERY_S)
        finally:
            self._publish([])
            list(self._threads.map(self._end, self._replicas))
            self._threads.shutdown()

    def turn(self, now_s: float) -> None:
        """Look at every engine, drop the dead, publish those that serve, then add or take away."""
        list(self._threads.map(lambda replica: self._look(replica, now_s), self._replicas))
        for replica in [r for r in self._replicas if r.ended]:
            self._replicas.remove(replica)
            if not replica.leaving:
                self._failed(replica, now_s)
            self._end(replica)
        staying = [r for r in self._replicas if not r.leaving]
        wanted = self._scaler.wanted(now_s, len(staying), sum(r.in_flight or 0.0 for r in self._replicas))
        for replica in staying[wanted:][::-1]:
            replica.left_s = now_s
            logger.info("%s is taken away: fewer are enough", replica.url or "an engine that was starting")
        if now_s >= self._not_before_s:
            self._replicas += [self._begin(now_s) for _ in range(wanted - len(staying))]
        self._publish(sorted(r.url for r in self._replicas if r.ready and not r.leaving))

    def _begin(self, now_s: float) -> Replica:
        options, placement = self._options, self._options.placement
        actor_class = self._ray.remote(options.actor_class).options(
            num_cpus=placement.cpus,
            num_gpus=placement.gpus,
            resources=placement.resources or None,
            scheduling_strategy=placement.strategy,
            max_concurrency=4,
        )
        return Replica(
            actor_class.remote(options.command, {name: os.environ[name] for name in options.env}, options.host), now_s
        )

    def _look(self, replica: Replica, now_s: float) -> None:
        try:
            status, lines = self._ray.get(
                [replica.actor.ended.remote(), replica.actor.new_lines.remote()], timeout=ASK_S
            )
        except self._ray.exceptions.GetTimeoutError:
            if not replica.url and now_s - replica.began_s > self._options.start_timeout:
                replica.ended = f"Ray found no place for it within {self._options.start_timeout:g} s: {self._asked()}"
            return
        except self._ray.exceptions.RayError as error:
            replica.ended = f"its node or its actor is gone: {str(error).splitlines()[0]}"
            return
        for line in lines:
            print(line, flush=True)  # noqa: T201 - the engine's own output, for its log
        if status is not None:
            replica.ended = f"it ended with status {status}"
        elif not replica.ready:
            self._greet(replica, now_s)
        else:
            replica.in_flight = _in_flight(replica.url)
            if replica.left_s is not None and now_s - replica.left_s > _drained_after_s(replica.in_flight):
                replica.ended = "it is idle"

    def _greet(self, replica: Replica, now_s: float) -> None:
        replica.url = replica.url or self._ray.get(replica.actor.url.remote(), timeout=ASK_S)
        if replica.leaving:
            replica.ended = "it is not needed any more"
        elif _fetched(replica.url + self._options.health) is not None:
            replica.ready = True
            self._failures = 0
            logger.info("%s serves", replica.url)
        elif now_s - replica.began_s > self._options.start_timeout:
            replica.ended = f"it was not ready within {self._options.start_timeout:g} s"

    def _failed(self, replica: Replica, now_s: float) -> None:
        self._failures += 1
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._failures - 1, 10))
        self._not_before_s = now_s + pause_s
        logger.error("%s: %s; another is started in %.0f s", replica.url or "an engine", replica.ended, pause_s)

    def _asked(self) -> str:
        placement = self._options.placement
        return f"cpus={placement.cpus:g} gpus={placement.gpus:g} resources={placement.resources}"

    def _end(self, replica: Replica) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):  # the actor is gone already
            self._ray.get(replica.actor.stop.remote(STOP_S), timeout=STOP_S + ASK_S)
        self._ray.kill(replica.actor)

    def _publish(self, urls: list[str]) -> None:
        if urls == self._written:
            return
        path: Path = self._options.urls_file
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_text(json.dumps(urls), encoding="utf-8")
        fresh.replace(path)
        self._written = urls


def answer_health(pool: RayPool, port: int) -> None:
    """Answer GET with 200 while the pool serves and with 503 while it does not, in a thread."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if pool.serves else 503)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - so is this one's
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def _fetched(url: str) -> bytes | None:
    """The body of a 2xx, or None."""
    try:
        with urllib.request.urlopen(url, timeout=ASK_S) as response:  # noqa: S310 - the URL is an engine's
            body: bytes = response.read()
            return body
    except (OSError, urllib.error.URLError, ValueError):
        return None


def _in_flight(url: str) -> float | None:
    """Requests running and waiting, as the engine's metrics have it."""
    found = _LOAD.findall(_fetched(f"{url}/metrics") or b"")
    return sum(float(value) for value in found) if found else None


def _drained_after_s(in_flight: float | None) -> float:
    """How long after its URL was taken out an engine with so much to do may be ended."""
    if in_flight is None:
        return DRAIN_S
    return NOTICED_S if in_flight == 0 else LONGEST_ANSWER_S


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m engines.ray_pool", description=__doc__)
    parser.add_argument("--urls-file", type=Path, required=True, help="where the URLs are written, as a JSON list")
    parser.add_argument("--port", type=int, help="answers /health on 127.0.0.1: 200 as soon as a replica serves")
    parser.add_argument("--address", default="auto", help="of the Ray cluster; `local` starts one of its own")
    parser.add_argument("--min", type=int, default=1)
    parser.add_argument("--max", type=int, default=1)
    parser.add_argument("--target", type=float, default=8.0, help="requests in flight per replica")
    parser.add_argument("--idle", type=float, default=120.0, help="seconds before one too many is taken away")
    parser.add_argument("--cpus", type=float, default=1.0)
    parser.add_argument("--gpus", type=float, default=0.0)
    parser.add_argument("--resource", type=_pair, action="append", default=[], metavar="NAME=AMOUNT")
    parser.add_argument("--strategy", choices=("SPREAD", "DEFAULT"), default="SPREAD")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME", help="a variable of ours that engines get"
    )
    parser.add_argument("--host", default="", help="what engines bind; none: their node's address")
    parser.add_argument("--health", default="/health")
    parser.add_argument("--start-timeout", type=float, default=600.0)
    parser.add_argument("command", nargs="+", help="with {host} and {port} where they go")
    options = parser.parse_args(argv)
    if options.max < options.min:
        parser.error(f"--max {options.max} is below --min {options.min}")
    resources = {name: float(amount) for name, amount in options.resource}
    options.placement = Placement(options.cpus, options.gpus, resources, options.strategy)
    return options


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        import ray
    except ImportError:
        logger.error("Ray is not installed: pip install 'headrace[ray]'")
        return 1
    from engines import ray_actor

    ray.cloudpickle.register_pickle_by_value(ray_actor)  # Headrace need not be on the nodes
    options.actor_class = ray_actor.EngineActor
    where = None if options.address == "local" else options.address
    ray.init(address=where, include_dashboard=False, configure_logging=False, log_to_driver=False)
    pool = RayPool(ray, options)
    if options.port is not None:
        answer_health(pool, options.port)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: pool.stopped.set())
    pool.run()
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
