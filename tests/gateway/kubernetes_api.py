"""The part of a Kubernetes API server that EndpointSlices need: list, and watch from a resource version on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.harness import Json, framed, whole

TOKEN = "secret-token"


def endpoint(address: str, uid: str = "", **conditions: Any) -> Json:
    found: Json = {"addresses": [address], "conditions": conditions}
    return found | ({"targetRef": {"kind": "Pod", "uid": uid}} if uid else {})


def slice_of(name: str, endpoints: Iterable[Json], port: int, family: str = "IPv4", port_name: str = "http") -> Json:
    ports = [{"name": "metrics", "port": 9, "protocol": "TCP"}] * (port_name != "http")
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "default"},
        "addressType": family,
        "endpoints": list(endpoints),
        "ports": [*ports, {"name": port_name, "port": port, "protocol": "TCP"}],
    }


class KubernetesApi:
    """Objects by name, each change with a resource version of its own. Watches replay what came after theirs.

    forgotten: versions below this one are too old to watch from: 410.
    refuses:   the status of every answer; 0: it answers.
    """

    def __init__(self) -> None:
        self.url = ""
        self.version = 0
        self.forgotten = 0
        self.refuses = 0
        self.lists = 0
        self.queries: list[dict[str, list[str]]] = []
        self.paths: list[str] = []
        self._watches: set[asyncio.StreamWriter] = set()
        self._objects: dict[str, Json] = {}
        self._log: list[tuple[int, Json]] = []
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    async def put(self, one: Json) -> None:
        name = one["metadata"]["name"]
        await self._record("MODIFIED" if name in self._objects else "ADDED", one)

    async def delete(self, name: str) -> None:
        await self._record("DELETED", self._objects[name])

    async def bookmark(self) -> None:
        await self._record("BOOKMARK", {"kind": "EndpointSlice", "metadata": {}})

    @property
    def watches(self) -> list[asyncio.StreamWriter]:
        """Those that are open."""
        return [writer for writer in self._watches if not writer.transport.is_closing()]

    async def say(self, event: Json) -> None:
        """Anything, on every watch that is open."""
        for writer in self.watches:
            writer.write(framed(json.dumps(event).encode() + b"\n"))

    async def cut(self) -> None:
        """End every watch, as an API server does after a while."""
        for writer in self.watches:
            writer.write(b"0\r\n\r\n")
        await self._forget()

    async def reset(self) -> None:
        for writer in self.watches:
            writer.transport.abort()
        await self._forget()

    async def _forget(self) -> None:
        self._watches.clear()
        async with self._changed:
            self._changed.notify_all()

    async def _record(self, kind: str, one: Json) -> None:
        self.version += 1
        one["metadata"]["resourceVersion"] = str(self.version)
        copied = json.loads(json.dumps(one))
        if kind == "DELETED":
            del self._objects[one["metadata"]["name"]]
        elif kind != "BOOKMARK":
            self._objects[one["metadata"]["name"]] = copied
        async with self._changed:
            self._log.append((self.version, {"type": kind, "object": copied}))
            self._changed.notify_all()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                await self._answer(head, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> None:
        target = urlsplit(head.split(" ")[1])
        query = parse_qs(target.query)
        self.paths.append(target.path)
        self.queries.append(query)
        if self.refuses or f"authorization: bearer {TOKEN}" not in head.lower():
            code = self.refuses or 401
            writer.write(whole(_status(code, "no"), f"{code} No"))
        elif "watch" not in query:
            self.lists += 1
            listed = {"metadata": {"resourceVersion": str(self.version)}, "items": list(self._objects.values())}
            writer.write(whole(json.dumps(listed).encode()))
        elif int(query["resourceVersion"][0]) < self.forgotten:
            writer.write(whole(_status(410, "too old resource version"), "410 Gone"))
        else:
            await self._watch(int(query["resourceVersion"][0]), writer)

    async def _watch(self, since: int, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        self._watches.add(writer)
        while writer in self.watches:
            for version, event in [entry for entry in self._log if entry[0] > since]:
                # Cut in the middle of a line, as networks do.
                line = json.dumps(event).encode() + b"\n"
                writer.write(framed(line[:20]) + framed(line[20:]))
                since = version
            async with self._changed:
                if writer in self.watches and self.version == since:
                    await self._changed.wait()

    async def aclose(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _status(code: int, message: str) -> bytes:
    return json.dumps({"kind": "Status", "status": "Failure", "message": message, "code": code}).encode()


@asynccontextmanager
async def kubernetes_api() -> AsyncIterator[KubernetesApi]:
    api = KubernetesApi()
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0)
    api.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield api
    finally:
        server.close()
        await api.aclose()


def gone_event() -> Json:
    status: dict[str, Any] = json.loads(_status(410, "expired"))
    return {"type": "ERROR", "object": status}
