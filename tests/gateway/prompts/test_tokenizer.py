"""Tokenizers and chat templates as they lie in a model's folder."""

from __future__ import annotations

import json
import shutil
import sys
from array import array
from datetime import datetime
from pathlib import Path

import pytest

from engines.base import Operation
from gateway.prompts.tokenizer import ChatTokenizer, NoTokenizer, load_tokenizer
from tests.gateway.prompts.test_body import HOSTILE

TINY = Path(__file__).parent / "data/tiny"
CHAT = {"messages": [{"role": "user", "content": "hello"}]}
FOREVER = float("inf")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(TINY, tmp_path, dirs_exist_ok=True)
    return tmp_path


def load(folder: Path, template: Path | None = None) -> ChatTokenizer:
    return load_tokenizer(folder, template, 100_000)


def decoded(tokens: ChatTokenizer, body: object, operation: Operation = Operation.CHAT) -> str | None:
    from tokenizers import Tokenizer

    encoded = tokens.encode(operation, json.dumps(body).encode(), FOREVER)
    if encoded is None:
        return None
    text = Tokenizer.from_file(str(TINY / "tokenizer.json")).decode(
        list(array("I", encoded.ids)), skip_special_tokens=False
    )
    assert isinstance(text, str)
    return text


def configure(folder: Path, **fields: object) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_the_template_stands_in_the_config_or_in_a_file_which_comes_first(folder: Path) -> None:
    assert decoded(load(folder), CHAT) is None
    (folder / "chat_template.json").write_text('{"chat_template": "processor"}')
    assert decoded(load(folder), CHAT) == "processor"
    configure(folder, chat_template="config")
    assert decoded(load(folder), CHAT) == "config"
    (folder / "chat_template.jinja").write_text("file")
    assert decoded(load(folder), CHAT) == "file"
    (folder / "other.jinja").write_text("argument")
    assert decoded(load(folder, folder / "other.jinja"), CHAT) == "argument"


def test_tools_may_have_a_template_of_their_own(folder: Path) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    tools = {**CHAT, "tools": [{"type": "function", "function": {"name": "f"}}]}
    configure(folder, chat_template=named)
    assert [decoded(load(folder), body) for body in (CHAT, tools)] == ["plain", "tools"]
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/tool_use.jinja").write_text("more")
    (folder / "additional_chat_templates/odd.jinja").write_text("{{ broken")
    assert decoded(load(folder), tools) == "more"


def test_templates_see_special_tokens_however_they_are_written(folder: Path) -> None:
    configure(folder, chat_template="{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ add_bos_token }}", pad_token=None)
    (folder / "special_tokens_map.json").write_text('{"pad_token": {"content": "</s>"}, "eos_token": "older"}')
    assert decoded(load(folder), CHAT) == "<s></s></s>"


@pytest.mark.parametrize(
    ("flags", "ids"),
    [
        ({}, "<s>hi"),
        ({"add_bos_token": False}, "hi"),
        ({"add_bos_token": True, "add_eos_token": True}, "<s>hi</s>"),
        ({"add_eos_token": True}, "hi</s>"),
    ],
)
def test_the_config_says_what_goes_around_a_text(folder: Path, flags: dict[str, object], ids: str) -> None:
    configure(folder, **flags)
    assert decoded(load(folder), {"prompt": "hi"}, Operation.COMPLETIONS) == ids


def test_chats_that_vllm_renders_by_code_of_its_own_have_no_ids(folder: Path) -> None:
    configure(folder, chat_template="x")
    (folder / "config.json").write_text('{"model_type": "gpt_oss"}')
    assert decoded(load(folder), CHAT) is None
    assert decoded(load(folder), {"prompt": "hi"}, Operation.COMPLETIONS) == "<s>hi"
    (folder / "config.json").write_text('{"model_type": "llama"}')
    assert decoded(load(folder), CHAT) == "x"
    (folder / "tekken.json").write_text("{}")
    assert decoded(load(folder), CHAT) is None


def test_the_date_is_that_of_the_day(folder: Path) -> None:
    configure(folder, chat_template="{{ strftime_now('%Y') }}")
    assert decoded(load(folder), CHAT) == str(datetime.now().astimezone().year)


def test_json_in_a_template_is_not_escaped_for_html(folder: Path) -> None:
    configure(folder, chat_template="{{ messages[0].content | tojson }}")
    assert decoded(load(folder), {"messages": [{"role": "user", "content": "<é'>"}]}) == '"<é\'>"'


def test_a_template_that_never_ends_well_is_the_engines_to_refuse(folder: Path) -> None:
    configure(folder, chat_template="{{ messages.__class__.__mro__ }}{{ raise_exception('no') }}")
    assert decoded(load(folder), CHAT) is None
    configure(folder, chat_template="{{ messages.nothing.more }}")
    assert decoded(load(folder), CHAT) is None
    configure(folder, chat_template="{{ messages[0].content.strip() }}!")
    body = {**CHAT, "continue_final_message": True, "add_generation_prompt": False}
    assert decoded(load(folder), body) == "hello"
    configure(folder, chat_template="dropped content")
    assert decoded(load(folder), body) is None


def test_whoever_truncates_a_prompt_decides_alone_where_it_begins(folder: Path) -> None:
    assert decoded(load(folder), {"prompt": "a b c", "truncate_prompt_tokens": 1}, Operation.COMPLETIONS) is None


def test_the_file_itself_may_be_named(folder: Path) -> None:
    assert decoded(load(folder / "tokenizer.json"), {"prompt": "hi"}, Operation.COMPLETIONS) == "<s>hi"
    (folder / "tokenizer_config.json").unlink()
    tokens = load(folder)
    assert decoded(tokens, {"prompt": "hi"}, Operation.COMPLETIONS) == "<s>hi"
    assert repr(tokens).startswith("<ChatTokenizer templates=[] <SegmentEncoder whole ")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("tokenizer.json", "{}", "tokenizer.json"),
        ("tokenizer_config.json", "[]", "Expected `object`"),
        ("tokenizer_config.json", '{"bos_token": 3}', "Expected"),
        ("chat_template.jinja", "{% if %}", "the chat template cannot be compiled"),
        ("chat_template.jinja", b"\xff", "decode"),
    ],
)
def test_files_that_cannot_be_read_are_named(folder: Path, file: str, content: str | bytes, said: str) -> None:
    (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(NoTokenizer, match=said) as raised:
        load(folder)
    assert str(folder) in str(raised.value)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoTokenizer, match=str(tmp_path)):
        load(tmp_path)


def test_without_the_package_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(NoTokenizer, match=r'pip install "headrace\[tokenizer\]"'):
        load(folder)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_raises_nothing(name: str) -> None:
    tokens = load_tokenizer(TINY, TINY.parent / "templates/parts.jinja", 100_000)
    for operation in (Operation.CHAT, Operation.COMPLETIONS, Operation.EMBEDDINGS):
        tokens.encode(operation, HOSTILE[name], FOREVER)
