"""Which tokenizer a variant's prompts are read with, as the configuration says it."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import shutil
from pathlib import Path

import pytest

from gateway.config import Config, Pool, Variant
from gateway.config.prompt_checks import prompt_findings
from gateway.prompts import Lengths, PromptFacts, PromptThread, open_reader
from gateway.prompts.tokenizer import NoTokenizer
from gateway.prompts.variants import tokenizer_of
from tests.gateway.prompts.bodies import chat

TINY = Path(__file__).parent / "data/tiny"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(TINY, tmp_path, dirs_exist_ok=True)
    return tmp_path


def pool(model: Path | str, *args: str, kind: str = "vllm", **fields: object) -> Pool:
    return Pool.model_validate({"engine": {"kind": kind, "model": str(model), "args": [*args]}, **fields})


def found(variant: dict[str, object], **pools: Pool) -> tuple[Path, Path | None] | None:
    return tokenizer_of(Variant.model_validate({"pools": [*pools], **variant}), pools)


@pytest.mark.parametrize("kind", ["vllm", "transformers", "onnx"])
def test_the_folder_of_an_engine_that_the_gateway_starts_is_the_default(folder: Path, kind: str) -> None:
    assert found({}, a=pool(folder, kind=kind)) == (folder, None)
    assert found({}, a=pool(folder), b=pool(folder)) == (folder, None)


def test_an_engine_elsewhere_or_of_another_kind_has_no_folder_here(folder: Path) -> None:
    assert found({}, a=pool(folder, urls=["http://127.0.0.1:1"])) is None
    assert found({}, a=pool(folder, kind="llamacpp")) is None
    assert found({}, a=pool("owner/name")) == (Path("owner/name"), None)
    assert found({}, a=Pool.model_validate({"engine": {"kind": "vllm"}})) is None
    assert found({}, a=pool(folder), b=pool(folder, urls=["http://127.0.0.1:1"])) is None


def test_the_engines_own_arguments_are_heeded(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(TINY, other, dirs_exist_ok=True)
    template = folder / "t.jinja"
    assert found({}, a=pool(folder, "--tokenizer", str(other))) == (other, None)
    assert found({}, a=pool(folder, "--seed", "1", f"--chat-template={template}")) == (folder, template)
    assert found({}, a=pool(folder, "--chat-template")) == (folder, None)
    assert found({}, a=pool(folder), b=pool(folder, "--tokenizer", str(other))) is None
    mine = folder / "mine.jinja"
    assert found({"chat_template": str(mine)}, a=pool(folder, "--chat-template", str(template))) == (folder, mine)


def test_what_the_variant_says_comes_first(folder: Path) -> None:
    remote = pool("m", urls=["http://127.0.0.1:1"])
    assert found({"tokenizer": str(folder)}, a=remote) == (folder, None)
    assert found({"tokenizer": "~/model", "chat_template": "~/t"}, a=remote) == (
        Path.home() / "model",
        Path.home() / "t",
    )
    assert found({"tokenizer": "none"}, a=pool(folder)) is None


async def test_a_variants_reader_has_its_tokenizer_and_its_adapter(folder: Path) -> None:
    thread = PromptThread(10.0)
    variant = Variant.model_validate({"pools": ["a"], "tokenizer": str(folder), "adapter": "sql"})
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    reader = open_reader(thread, Lengths(), "chat/main", variant, {})
    await asyncio.wrap_future(thread.load(folder))
    facts = reader.read(chat("hello"), {})
    assert isinstance(facts, PromptFacts)
    assert (facts.exact, facts.adapter) == (True, "sql")
    thread.close()


async def test_a_default_that_is_no_folder_is_worth_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    thread = PromptThread(10.0)
    with caplog.at_level(logging.INFO):
        reader = open_reader(thread, Lengths(), "chat/main", Variant(pools=["a"]), {"a": pool("owner/name")})
        with pytest.raises(NoTokenizer):
            await asyncio.wrap_future(thread.load(Path("owner/name")))
    assert isinstance(reader.read(chat("hello"), {}), PromptFacts)
    told = [(one.levelname, one.message) for one in caplog.records if one.name.startswith("gateway.prompts")]
    why = "there is no owner/name/tokenizer.json (setting `tokenizer`)"
    assert told == [("INFO", f"chat/main: its prompts are keyed by their bytes: {why}")]
    thread.close()


def findings(variant: dict[str, object]) -> list[str]:
    config = Config.model_validate(
        {
            "pools": {"a": {"urls": ["http://127.0.0.1:1"]}},
            "deployments": {"chat": {"variants": {"main": {"pools": ["a"], **variant}}}},
        }
    )
    return [f"{'.'.join(map(str, one.path))}: {one.message}" for one in prompt_findings(config)]


def test_files_that_are_not_there_are_found_before_the_start(folder: Path) -> None:
    assert findings({}) == findings({"tokenizer": "none"}) == []
    assert findings({"tokenizer": str(folder)}) == findings({"tokenizer": str(folder / "tokenizer.json")}) == []
    assert findings({"tokenizer": "/nowhere", "chat_template": "/no/t"}) == [
        'deployments.chat.variants.main.chat_template: there is no file "/no/t"',
        'deployments.chat.variants.main.tokenizer: there is no tokenizer.json in "/nowhere"',
    ]


def test_a_missing_extra_is_found_before_the_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = "deployments.chat.variants.main.tokenizer: `tokenizer` needs a library that is not installed"
    assert findings({"tokenizer": str(folder)}) == [said]
