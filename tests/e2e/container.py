"""A compose project where no container engine runs: each service as compose.yaml and the Dockerfile have it.

bubblewrap gives it the command, user, environment, mounts, read-only root and process 1 that it has in its container.
All services share one network namespace with nothing but a loopback, on which they find each other by name.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_SYSTEM = ("ssl", "ca-certificates.conf", "ld.so.cache", "ld.so.conf", "nsswitch.conf", "resolv.conf", "alternatives")
_USER = "setpriv --reuid={} --regid={} --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all --"


@dataclass(frozen=True)
class Image:
    """What a service's image adds. `files`: folders of this machine, by their place in the container."""

    files: Mapping[str, Path] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin"})
    user: str = "0:0"
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    health: Sequence[str] = ()
    workdir: str = "/"
    volumes: Sequence[str] = ()


class Network:
    """A namespace with a loopback of its own; `hosts` are names of it."""

    def __init__(self, folder: Path, hosts: Sequence[str]) -> None:
        self.hosts = folder / "hosts"
        self.hosts.write_text(f"127.0.0.1 localhost {' '.join(hosts)}\n")
        up = "ip link set lo up && echo up && exec sleep infinity"
        self._holder = subprocess.Popen(["unshare", "--net", "sh", "-c", up], stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"up\n", "no network namespace"
        self._thread = ThreadPoolExecutor(1, initializer=self._enter)

    @property
    def path(self) -> str:
        return f"/proc/{self._holder.pid}/ns/net"

    def inside(self, do: Callable[[], T]) -> T:
        """Call something whose sockets are to be in the namespace."""
        return self._thread.submit(do).result(120)

    def close(self) -> None:
        self._thread.shutdown()
        assert self._holder.stdout is not None
        self._holder.stdout.close()
        self._holder.kill()
        self._holder.wait()

    def _enter(self) -> None:
        # Of this thread alone: a thread has a network namespace of its own.
        with Path(self.path).open() as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")


class Container:
    """A running service. `pid`: of its process 1, as seen from here; `log`: the file with its output."""

    def __init__(self, process: subprocess.Popen[bytes], pid: int, env: Mapping[str, str], user: str, log: Path):
        self.process, self.pid, self.log = process, pid, log
        self._env, self._user = env, user

    def run(self, command: Sequence[str], timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
        """As `docker exec` would: another process in the container."""
        env = [f"{name}={value}" for name, value in self._env.items()]
        into = ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--ipc", "--uts", "--", "env", "-i"]
        whole = [*into, *env, *_as(self._user), *command]
        return subprocess.run(whole, capture_output=True, text=True, timeout=timeout_s, check=False)

    def stop(self, timeout_s: float = 45.0) -> int:
        """As `docker stop` would: SIGTERM to process 1, SIGKILL after a while. Returns the exit status."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def status(self, name: str) -> str:
        """A line of /proc/PID/status."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:"))


@contextmanager
def started(
    name: str, service: Mapping[str, Any], image: Image, folder: Path, network: Network | None
) -> Iterator[Container]:
    """Start a service of `docker compose config`; stop it at the end. `network` None: that of this machine."""
    user = service.get("user") or image.user
    env = {**image.env, **{key: value for key, value in (service.get("environment") or {}).items() if value}}
    entrypoint = service.get("entrypoint") or image.entrypoint
    command = service.get("command") or (image.command if not service.get("entrypoint") else ())
    log = folder / f"{name}.log"
    read_end, write_end = os.pipe()
    outer = ["nsenter", f"--net={network.path}"] if network else []
    inner = [*_box(name, service, image, folder, network, write_end), *_environment(env), "--", *_as(user)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*outer, *inner, *entrypoint, *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            pass_fds=(write_end,),
        )
    os.close(write_end)
    with os.fdopen(read_end, "rb") as info:
        text = info.read()
    assert text, log.read_text()
    container = Container(process, json.loads(text)["child-pid"], env, user, log)
    try:
        yield container
    finally:
        container.stop()


def root(hosts: Path | None, files: Mapping[str, Path]) -> list[str]:
    """bubblewrap's arguments for a root file system with this machine's programs, and `files`."""
    box = ["--tmpfs", "/", "--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev", "--ro-bind", "/sys", "/sys"]
    for link in ("bin", "lib", "lib64", "sbin"):
        box += ["--symlink", f"usr/{link}", f"/{link}"]
    box += _parents("/etc/hosts")
    for target, source in sorted(files.items()):
        box += [*_parents(target), "--ro-bind", str(source), target]
    for place in (f"/etc/{name}" for name in _SYSTEM):
        if place not in files:
            box += ["--ro-bind-try", place, place]
    return [*box, "--ro-bind", str(hosts or "/etc/hosts"), "/etc/hosts"]


def _box(
    name: str, service: Mapping[str, Any], image: Image, folder: Path, network: Network | None, info: int
) -> list[str]:
    box = ["bwrap", "--unshare-pid", "--as-pid-1", "--unshare-ipc", "--unshare-uts", "--hostname", name]
    box += ["--die-with-parent", "--info-fd", str(info), "--chdir", image.workdir]
    box += root(network.hosts if network else None, image.files)
    for target in (entry.partition(":")[0] for entry in service.get("tmpfs", ())):
        box += ["--perms", "1777", "--tmpfs", target]
    mounts = {mount["target"]: mount for mount in service.get("volumes", ())}
    for target in image.volumes:
        mounts.setdefault(target, {"type": "volume", "source": f"of-{name}", "target": target})
    for target, mount in mounts.items():
        source = Path(mount["source"])
        if mount["type"] == "volume":
            source = folder / "volumes" / mount["source"]
            if not source.is_dir():
                source.mkdir(parents=True)
                os.chown(source, *map(int, (service.get("user") or image.user).split(":")))
        box += [*_parents(target), "--ro-bind" if mount.get("read_only") else "--bind", str(source), target]
    if service.get("read_only"):
        box += ["--remount-ro", "/"]
    # What changing the user takes; setpriv drops it.
    assert service["cap_drop"] == ["ALL"]
    box += ["--cap-drop", "ALL"]
    return [*box, *(part for name in ("SETUID", "SETGID", "SETPCAP") for part in ("--cap-add", f"CAP_{name}"))]


def _parents(target: str) -> list[str]:
    """Folders on the way to a mount that everybody may pass; bubblewrap would make them for root alone."""
    above = [str(folder) for folder in reversed(Path(target).parents) if folder != Path("/")]
    return [part for folder in above for part in ("--perms", "0755", "--dir", folder)]


def _environment(env: Mapping[str, str]) -> list[str]:
    return ["--clearenv", *(part for key, value in env.items() for part in ("--setenv", key, value))]


def _as(user: str) -> list[str]:
    uid, _, gid = user.partition(":")
    return _USER.format(uid, gid).split()


def health_command(service: Mapping[str, Any], image: Image) -> list[str]:
    """What is run in the container to learn its health; empty if nothing is."""
    check = service.get("healthcheck", {})
    if check.get("disable"):
        return []
    test = list(check.get("test") or ["CMD", *image.health])
    return ["/bin/sh", "-c", test[1]] if test[0] == "CMD-SHELL" else test[1:]


@dataclass
class Stage:
    """A stage of a Dockerfile: instructions with their text, in order."""

    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def last(self, instruction: str) -> str:
        return [text for name, text in self.steps if name == instruction][-1]

    def all(self, instruction: str) -> list[str]:
        return [text for name, text in self.steps if name == instruction]

    @property
    def env(self) -> dict[str, str]:
        return dict(word.split("=", 1) for text in self.all("ENV") for word in shlex.split(text))


def read_dockerfile(text: str) -> list[Stage]:
    """The stages of a Dockerfile that has no heredocs and no escapes but at ends of lines."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    stages: list[Stage] = []
    for line in lines.replace("\\\n", " ").splitlines():
        instruction, _, rest = line.strip().partition(" ")
        if instruction == "FROM":
            stages.append(Stage(rest.partition(" AS ")[2]))
        elif instruction and stages:
            stages[-1].steps.append((instruction, " ".join(rest.split()) if instruction != "RUN" else rest))
    return stages
