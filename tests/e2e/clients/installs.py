"""Interpreters and Node modules of clients that stay out of the project's own environment, kept between runs."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NODE = Path(__file__).with_name("node")
INSTALL_S = 300.0


def cache() -> Path:
    """Where the installs are kept; they may be deleted at any time between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "headrace-tests"


def python_with(*requirements: str, base: str = sys.executable) -> Path:
    """An interpreter that has `requirements`, and what they leave open as the tests' own interpreter has it.

    base: the interpreter that it is made from; one of another version finds nothing of the tests' own.
    """
    name = re.sub(r"[^\w.]+", "-", requirements[0])
    folder = _folder(name, (*requirements, sys.version, sys.prefix, base))
    python = folder / "bin/python"
    with _made_once(folder) as missing:
        if missing:
            _run([base, "-m", "venv", str(folder)], "make a virtual environment")
            _run([str(python), "-m", "pip", "install", "--quiet", *requirements], "install from the package index")
            ours = sysconfig.get_path("purelib")
            theirs = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
            # Read last, so that what was installed above comes first.
            (Path(theirs) / "zz_of_the_tests.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    return python


def node_modules() -> Path:
    """A `node_modules` folder with what `node/package.json` asks for."""
    manifest = (NODE / "package.json").read_text()
    version = _run(["node", "--version"], "run Node.js, which these tests need (20 or newer)")
    folder = _folder("node", (manifest, version))
    with _made_once(folder) as missing:
        if missing:
            folder.mkdir(parents=True)
            (folder / "package.json").write_text(manifest)
            options = ["--prefix", str(folder), "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"]
            _run(["npm", "install", *options], "install from the npm registry")
    return folder / "node_modules"


def run_suite(python: Path, *files: str, **environment: str) -> str:
    """Run test files of this project with another interpreter. Returns what pytest said; fails the test if they do."""
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=180, check=False
    )
    if done.returncode:
        pytest.fail(f"{' '.join(command)} failed:\n{done.stdout[-8000:]}{done.stderr[-2000:]}", pytrace=False)
    return done.stdout


def _folder(name: str, parts: Sequence[str]) -> Path:
    return cache() / f"{name}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"


@contextmanager
def _made_once(folder: Path) -> Iterator[bool]:
    """Whether `folder` is to be made now: by one process at a time, and again if it was not made to its end."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    complete = folder.with_name(folder.name + ".complete")
    with folder.with_name(folder.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = not (complete.exists() and folder.exists())
        if missing:
            complete.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
        yield missing
        complete.touch()


def _run(command: list[str], purpose: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.fail(f"could not {purpose}: {error}", pytrace=False)
    if done.returncode:
        pytest.fail(f"could not {purpose}: {' '.join(command)} said\n{done.stderr[-3000:]}", pytrace=False)
    return done.stdout
