"""Embedders as the configuration asks for them, and the weights that they need."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from cache.embed.seam import EmbedderError, NoVector
from engines.model_fetch import Silent
from engines.models import ModelError
from gateway.caching.embedders import open_embedder
from gateway.caching.models import CATALOG, MINILM, STATIC, folder_of, list_weights, present, pull_weights
from gateway.cli.models import app
from gateway.config.cache_options import EmbedderOptions
from tests.engines.server import Peer, engine_server
from tests.weights import weights_folder


@pytest.fixture(scope="module")
def weights() -> Path:
    return weights_folder(MINILM, STATIC)


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a network and with an empty cache."""
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)


async def test_minilm_stands_behind_the_table(weights: Path) -> None:
    embedder = await open_embedder(EmbedderOptions(path=str(weights)))
    try:
        assert embedder.first is not None
        assert embedder.name == "embed-minilm@8199be6f+embed-static@64b47a2d"
        assert (embedder.second.dimensions, embedder.first.dimensions) == (384, 256)
        assert not embedder.remote
        [vector] = await embedder.second.embed(["Where is my card?"])
        assert vector.shape == (384,)
    finally:
        await embedder.aclose()


async def test_minilm_alone_does_where_the_table_is_missing(
    weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "embed-minilm").symlink_to(weights / "embed-minilm")
    with caplog.at_level(logging.WARNING):
        embedder = await open_embedder(EmbedderOptions(path=str(tmp_path)))
    await embedder.aclose()
    assert embedder.first is None
    assert "every question asks MiniLM" in caplog.text
    assert "embed-static" in caplog.text


async def test_the_table_alone_is_one_stage(weights: Path) -> None:
    embedder = await open_embedder(EmbedderOptions(kind="static", path=str(weights)))
    assert embedder.first is None
    assert embedder.second.dimensions == 256
    await embedder.aclose()


@pytest.mark.usefixtures("no_index")
async def test_without_weights_and_network_the_message_says_what_to_do() -> None:
    with pytest.raises(EmbedderError, match=r"Without a network, `cache\.semantic\.embedder\.path` names a folder"):
        await open_embedder(EmbedderOptions(kind="static"))


async def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmbedderError, match=r"there is no .*embed-minilm/model\.onnx"):
        await open_embedder(EmbedderOptions(path=str(tmp_path)))


@pytest.mark.parametrize("missing", ["url", "model"])
async def test_an_endpoint_needs_its_url_and_model(missing: str) -> None:
    given = {"url": "http://127.0.0.1:9/v1", "model": "m"}
    del given[missing]
    with pytest.raises(EmbedderError, match=rf"needs `cache\.semantic\.embedder\.{missing}`"):
        await open_embedder(EmbedderOptions.model_validate({"kind": "endpoint", **given}))


async def test_an_endpoint_is_asked_over_a_kept_connection_with_its_key() -> None:
    requests: list[bytes] = []

    async def script(peer: Peer) -> None:
        while request := await peer.request():
            requests.append(request)
            body = b'{"data": [{"index": 0, "embedding": [3, 4]}]}'
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async with engine_server(script) as url:
        options = EmbedderOptions(kind="endpoint", url=f"{url}/v1", model="bge", key=SecretStr("sk-1"), timeout_s=5)
        embedder = await open_embedder(options)
        for _ in range(2):
            [vector] = await embedder.second.embed(["question"])
            assert vector.tolist() == pytest.approx([0.6, 0.8])
        await embedder.aclose()
    assert embedder.remote
    assert embedder.name == f"bge@{url.removeprefix('http://')}"
    head, _, body = requests[1].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/embeddings HTTP/1.1\r\n")
    assert b"authorization: Bearer sk-1" in head
    assert json.loads(body) == {"input": ["question"], "model": "bge", "encoding_format": "float"}


async def test_an_endpoint_that_is_away_is_a_miss_and_the_key_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    options = EmbedderOptions(kind="endpoint", url="http://127.0.0.1:9/v1", model="m", key=SecretStr("sk-secret"))
    embedder = await open_embedder(options)
    with pytest.raises(NoVector, match=r"failed: cannot connect to 127\.0\.0\.1:9"):
        await embedder.second.embed(["question"])
    await embedder.aclose()
    assert "sk-secret" not in caplog.text
    assert "questions get no vectors from m@127.0.0.1:9" in caplog.text


# --- weights ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_index")
def test_weights_that_are_here_are_not_fetched(weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(weights / "embed-static", folder_of(STATIC), copy_function=shutil.copyfile)
    assert pull_weights(STATIC, Silent()) == present(STATIC) == folder_of(STATIC)
    assert [(one.name, one.path) for one in list_weights()] == [
        ("embed-minilm", None),
        ("embed-static", folder_of(STATIC)),
    ]
    (folder_of(STATIC) / "tokenizer.json").unlink()
    assert present(STATIC) is None, "half of them is nothing"
    with pytest.raises(ModelError):
        pull_weights(STATIC, Silent())


@pytest.mark.usefixtures("no_index")
def test_the_command_fetches_weights_by_name_and_lists_them(weights: Path) -> None:
    shutil.copytree(weights / "embed-minilm", folder_of(MINILM), copy_function=shutil.copyfile)
    result = CliRunner().invoke(app, ["pull", "embed-minilm", "--json"])
    size_bytes = sum(file.size_bytes for file in MINILM.files)
    assert json.loads(result.stdout) == {
        "model": "embed-minilm",
        "path": str(folder_of(MINILM)),
        "size_bytes": size_bytes,
    }
    rows = {row["name"]: row for row in json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)}
    assert rows["embed-minilm"] == {
        "name": "embed-minilm",
        "size_bytes": size_bytes,
        "licence": "Apache-2.0",
        "cached": True,
        "path": str(folder_of(MINILM)),
    }
    assert rows["embed-static"]["cached"] is False
    missing = CliRunner().invoke(app, ["pull", "embed-static"])
    assert missing.exit_code == 1
    assert "cannot fetch http://127.0.0.1:9/simple/wordllama/" in missing.stderr


def test_weights_have_licences_and_sizes() -> None:
    assert {name: (one.licence, one.size_bytes) for name, one in CATALOG.items()} == {
        "embed-minilm": ("Apache-2.0", 23_394_866),
        "embed-static": ("MIT", 18_226_892),
    }
