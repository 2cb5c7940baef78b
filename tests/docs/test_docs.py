"""The pages lead somewhere, and what they show to type or to write is taken."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from gateway.cli.root import app, real_command
from gateway.config.load import load
from tests.docs.pages import DOCS, INDEX, PAGES, ROOT, Page

NOT_OURS = ("customer", "model group", "backend server", "load balancing strategy")
"""Other words for what the glossary has a word for."""
_PLACEHOLDER = "value of a variable"


def shown_commands(page: Page) -> Iterator[str]:
    """Lines of shell blocks, and code in sentences, that call `headrace`."""
    for block in page.blocks("bash", "sh"):
        yield from block.replace("\\\n", " ").splitlines()
    for block in page.blocks("console"):
        yield from (line[2:] for line in block.replace("\\\n", " ").splitlines() if line.startswith("$ "))
    yield from (code for code in re.findall(r"`(headrace [^`]+)`", page.prose))


def calls(page: Page) -> list[list[str]]:
    found = []
    for line in shown_commands(page):
        for part in re.split(r"[|;&]+|\$\(", line.partition(" #")[0]):
            words = [Path(word).name if word.endswith("/headrace") else word for word in shlex.split(part.strip(" )"))]
            if words[:1] == ["headrace"]:
                found.append(words[1:])
    return found


CALLS = [(page, words) for page in PAGES for words in calls(page)]
CONFIGS = [
    pytest.param(block, id=f"{page}-{number}")
    for page in PAGES
    for number, block in enumerate(page.blocks("yaml"), 1)
    if page.path.is_relative_to(DOCS) and not re.match(r"# (?!headrace)\S+\.ya?ml$", block.partition("\n")[0])
]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_somewhere(page: Page) -> None:
    for target in page.links():
        path, _, anchor = target.partition("#")
        file = (page.path.parent / path).resolve() if path else page.path
        assert file.exists(), f"{page} links to {target}, and there is no {file.relative_to(ROOT)}"
        assert not anchor or anchor in Page(file).anchors(), f"{page} links to {target}: no such heading"


def test_every_page_is_linked_from_the_index() -> None:
    linked = {(DOCS / target.partition("#")[0]).resolve() for target in INDEX.links()}
    pages = {page.path for page in PAGES if page.path.is_relative_to(DOCS) and DOCS / "adr" not in page.path.parents}
    assert pages - {INDEX.path} <= linked


@pytest.mark.parametrize(("page", "words"), CALLS, ids=[f"{page}-{' '.join(words)}" for page, words in CALLS])
def test_every_command_that_is_shown_exists(page: Page, words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    flags = {"-h", "--help"}
    for word in words:
        flags |= {flag for param in command.params if param.param_type_name == "option" for flag in param.opts}
        if word.startswith("-"):
            assert word.partition("=")[0] in flags, f"{page}: headrace {' '.join(words)}: no flag {word}"
        elif getattr(command, "commands", None) and word != "COMMAND":
            assert word in command.commands, f"{page}: headrace {' '.join(words)}: no command {word}"
            command = real_command(command.commands[word])


def test_commands_are_found_in_the_pages() -> None:
    assert {"serve", "check", "keys", "models", "import-litellm", "fake-engine"} <= {w[0] for _, w in CALLS if w}


@pytest.mark.parametrize("block", CONFIGS)
def test_every_configuration_that_is_shown_is_taken(block: str, tmp_path: Path) -> None:
    for path in re.findall(r"/etc/headrace/([\w./-]+)", block):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    file = tmp_path / "headrace.yaml"
    file.write_text(block.replace("/etc/headrace", str(tmp_path)), encoding="utf-8")
    env = dict.fromkeys(re.findall(r"\$\{([A-Z_]+)\}", block), _PLACEHOLDER)
    loaded = load(file, env)
    if block.startswith("# headrace.yaml"):
        assert loaded.warnings == ()


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_the_glossarys_words_are_used(page: Page) -> None:
    if page.path.name == "from-litellm.md":
        return
    text = page.prose.lower()
    assert [word for word in NOT_OURS if re.search(rf"\b{word}s?\b", text)] == []


def test_the_glossary_is_in_order_and_has_each_word_once() -> None:
    words = [row[0].lower() for row in Page(DOCS / "glossary.md").rows("Word ")]
    assert words == sorted(set(words))
