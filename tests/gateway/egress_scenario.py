"""What leaves the gateway's processes, seen from below them. Run as a program in a network namespace of its own.

Every address there is the loopback device's, so that nothing gets out, and a packet socket sees each packet of every
process, whichever library sent it. Writes what it found to standard output as JSON.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from engines.fake import FakeEngine, FakeOptions
from tests.gateway.several import OPERATIONS, falling_back, several
from tests.gateway.supervised import client, served
from tests.harness import Json

CLOUD_ADDRESS = "203.0.113.7"
ROUNDS = 4
SOL_PACKET, PACKET_STATISTICS = 263, 6
ETH_P_ALL, IPV4, IPV6 = 0x0003, 0x0800, 0x86DD


class Capture:
    """Every packet in the namespace whose destination is not loopback."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        self._socket.setblocking(False)
        self.destinations: set[str] = set()
        self.bytes = bytearray()

    def drain(self) -> None:
        for packet, protocol in self._packets():
            if protocol not in (IPV4, IPV6):
                continue
            raw = packet[16:20] if protocol == IPV4 else packet[24:40]
            destination = ipaddress.ip_address(raw)
            if not destination.is_loopback:
                self.destinations.add(str(destination))
                self.bytes += packet

    def _packets(self) -> Iterator[tuple[bytes, int]]:
        while True:
            try:
                packet, address = self._socket.recvfrom(1 << 17)
            except BlockingIOError:
                return
            yield packet, address[1]

    def finding(self) -> Json:
        """What was seen since the last one. `lost`: packets that the kernel could not hand over."""
        self.drain()
        _, lost = struct.unpack("II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        found = {"destinations": sorted(self.destinations), "secret": b"Marrow" in self.bytes, "lost": lost}
        self.destinations.clear()
        self.bytes.clear()
        return found


def close_off() -> None:
    for line in ("link set lo up", "route add local 0.0.0.0/0 dev lo"):
        subprocess.run(["ip", *line.split()], check=True)
    subprocess.run(["ip", "-6", "route", "add", "local", "::/0", "dev", "lo"], check=False, stderr=subprocess.DEVNULL)


def configured(home: FakeEngine, shaky: FakeEngine, cloud: str, away: Json) -> Json:
    reasons = falling_back("only")
    near: Json = {"probe": {"every_s": 0.05, "idle_s": 0.05}, "warm_up": {}}
    hedge = {"after": 0.01, "max_share": 1.0}
    config = several(
        m={"engines": [home], "pool": near, "pools": ["only"], "hedge": hedge, "fallbacks": reasons},
        shaky={"engines": [shaky], "pool": near, "pools": ["only"], "hedge": hedge, "fallbacks": reasons},
        only={"engines": [cloud], "pool": {"site": "cloud", **away}},
    )
    return config | {"server": {"port": 0, "workers": 2}}


async def ask(url: str, sensitivity: str, models: tuple[str, ...]) -> dict[str, list[int]]:
    """The statuses that each deployment gave."""
    found: dict[str, list[int]] = {model: [] for model in models}
    async with client(url, headers={"x-headrace-sensitivity": sensitivity}) as http:
        for model in models:
            for path, body in OPERATIONS * ROUNDS:
                answer = await http.post(path, json=body | {"model": model})
                found[model].append(answer.status_code)
    return {model: sorted(set(statuses)) for model, statuses in found.items()}


async def scenario(folder: Path, away: Json) -> Json:
    def engine(**options: object) -> FakeEngine:
        return FakeEngine(msgspec.convert({"models": ("m",), **options}, FakeOptions))

    capture = Capture()
    async with (
        engine(ttft_s=0.03) as home,
        engine(error_rate=0.7) as shaky,
        engine(host=CLOUD_ADDRESS) as cloud,
        served(folder, configured(home, shaky, cloud.url, away)) as gateway,
    ):
        await gateway.ready()

        async def seen(sensitivity: str, *models: str) -> Json:
            statuses = await ask(gateway.url, sensitivity, models)
            return capture.finding() | {"statuses": statuses}

        return {
            "restricted": await seen("restricted", "m", "shaky", "only"),
            "public": await seen("public", "only"),
            "hedged": await seen("public", "m"),
            "fallen back": await seen("public", "shaky"),
        }


async def main() -> None:
    close_off()
    away: Json = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(await scenario(Path(folder), away)))


if __name__ == "__main__":
    asyncio.run(main())
