"""The embedded engine's start, with a stand-in for the C++ library; `tests/e2e/test_llamacpp.py` has the real one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engines import llamacpp_server


class Left(Exception):
    pass


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A library whose server starts at once; the process is asked to stop as soon as it waits."""
    seen = SimpleNamespace(params=None, error=None, omp="")

    def params() -> Any:
        return SimpleNamespace(model=SimpleNamespace(), cpuparams=SimpleNamespace())

    def server(params: Any) -> Any:
        seen.params, seen.omp = params, os.environ["OMP_WAIT_POLICY"]
        if seen.error:
            raise RuntimeError(seen.error)
        return SimpleNamespace(listening_address="http://127.0.0.1:1")

    pooling = SimpleNamespace(LLAMA_POOLING_TYPE_MEAN="mean")
    module = SimpleNamespace(CommonParams=params, Server=server, llama_pooling_type=pooling)
    monkeypatch.setitem(sys.modules, "xllamacpp", module)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setattr(signal, "pause", lambda: os.kill(os.getpid(), signal.SIGTERM))

    def leave(code: int) -> None:
        raise Left(code)

    monkeypatch.setattr(os, "_exit", leave)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield seen
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF....")
    return path


def test_every_option_reaches_the_library_and_sigterm_ends_it(
    library: SimpleNamespace, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--model", str(model), "--alias", "m", "--port", "9001", "--context-tokens", "512", "--slots", "2"]
    with pytest.raises(Left, match="0"):
        llamacpp_server.main([*argv, "--threads", "3"])
    params = library.params
    assert (params.model.path, params.model_alias, params.port) == (str(model), {"m"}, 9001)
    assert (params.n_ctx, params.n_parallel, params.cpuparams.n_threads) == (512, 2, 3)
    assert params.kv_unified
    assert params.pooling_type == "mean"
    assert library.omp == "passive"
    assert "llama.cpp serves m on http://127.0.0.1:1" in capsys.readouterr().out


def test_an_embedding_models_own_pooling_is_kept(library: SimpleNamespace, model: Path) -> None:
    model.write_bytes(b"GGUF....bert.pooling_type....")
    with pytest.raises(Left):
        llamacpp_server.main(["--model", str(model)])
    assert not hasattr(library.params, "pooling_type")


def test_a_library_that_cannot_start_is_worth_another_try(
    library: SimpleNamespace, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library.error = "failed to load model"
    with pytest.raises(SystemExit, match="1"):
        llamacpp_server.main(["--model", str(model)])
    assert "llama.cpp did not start: failed to load model" in capsys.readouterr().err


@pytest.mark.parametrize(("content", "message"), [(None, "No such file"), (b"PK\x03\x04", "is not a GGUF file")])
def test_a_model_that_cannot_be_is_refused_for_good(
    tmp_path: Path, content: bytes | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        llamacpp_server.main(["--model", str(path)])
    assert caught.value.code == os.EX_CONFIG
    assert f"{path}" in (text := capsys.readouterr().err)
    assert message in text


def test_without_the_library_the_message_says_how_to_get_it(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    with pytest.raises(SystemExit) as caught:
        llamacpp_server.main(["--model", str(model)])
    assert caught.value.code == os.EX_CONFIG
    assert "pip install 'headrace[llamacpp]'" in capsys.readouterr().err


def test_a_model_that_was_fetched_is_found_by_its_name(
    library: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    file = tmp_path / "models" / "hf" / "owner" / "repo" / "main" / "m.gguf"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"GGUF....")
    with pytest.raises(Left):
        llamacpp_server.main(["--model", "hf:owner/repo/m.gguf"])
    assert library.params.model.path == str(file)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("smollm2-135m-instruct", "`headrace models pull smollm2-135m-instruct` fetches it"),
        ("smollm", "unknown model 'smollm'"),
    ],
)
def test_a_name_without_a_file_is_refused_for_good(
    model: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    with pytest.raises(SystemExit) as caught:
        llamacpp_server.main(["--model", model])
    assert caught.value.code == os.EX_CONFIG
    assert message in capsys.readouterr().err
