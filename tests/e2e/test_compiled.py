"""What the image runs: the way of a request compiled. All tests must pass on it as they do on the sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "cache", "engines", "gateway", "loadtest", "router")
BESIDE_THE_SOURCES = "tests/gateway/test_reference.py"
"""Looks for the documentation where the code is."""
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


def test_every_test_passes_on_the_compiled_package(tmp_path: Path) -> None:
    package = _compiled(tmp_path)
    env = {**os.environ, "PYTHONPATH": str(package)}
    origin = [sys.executable, "-P", "-c", "import gateway.relay; print(gateway.relay.__file__)"]
    told = subprocess.run(origin, env=env, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert told.startswith(str(package)) and told.strip().endswith(".so")
    # The program and not `python -m pytest`, which would put the sources first.
    tests = [str(Path(sys.executable).with_name("pytest")), "-q", "-n", "2", "-m", "not e2e", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        [*tests, "--ignore", BESIDE_THE_SOURCES, "tests"],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]


def _compiled(folder: Path) -> Path:
    """The wheel's content. Built from a copy: mypyc leaves modules beside the sources, where they would go stale."""
    source, package = folder / "source", folder / "package"
    source.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)]
    subprocess.run(build, env={**os.environ, "HATCH_BUILD_HOOK_ENABLE_MYPYC": "true"}, check=True)
    (wheel,) = folder.glob("headrace-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(package)
    return package
