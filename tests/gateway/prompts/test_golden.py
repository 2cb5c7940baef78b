"""Token ids as vLLM computes them: `data/golden.json` is what vLLM itself made of the same bodies (`record.py`)."""

from __future__ import annotations

import json
from array import array
from pathlib import Path

import pytest

from engines.base import Operation
from gateway.prompts.tokenizer import ChatTokenizer, load_tokenizer
from tests.gateway.prompts.cases import CHATS, TEXTS, chat

DATA = Path(__file__).parent / "data"
GOLDEN = json.loads((DATA / "golden.json").read_text())
TEMPLATES = sorted(file.stem for file in (DATA / "templates").glob("*.jinja"))


def tokenizer(template: str) -> ChatTokenizer:
    return load_tokenizer(DATA / "tiny", DATA / "templates" / f"{template}.jinja", 1_000_000)


def ids_of(tokens: ChatTokenizer, operation: Operation, body: dict[str, object]) -> str | None:
    encoded = tokens.encode(operation, json.dumps(body).encode(), float("inf"))
    return None if encoded is None else " ".join(map(str, array("I", encoded.ids)))


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_ids_of_every_chat_are_those_that_vllm_computes(template: str) -> None:
    tokens = tokenizer(template)
    wrong = []
    for name in (*CHATS, *CHATS):  # the second time from memory
        wanted = GOLDEN[template][name]
        if ids_of(tokens, Operation.CHAT, chat(name)) != (wanted and wanted["ids"]):
            wrong.append(name)
    assert wrong == []


@pytest.mark.parametrize("template", TEMPLATES)
def test_what_vllm_refuses_has_no_ids(template: str) -> None:
    refused = [name for name in CHATS if GOLDEN[template][name] is None]
    assert refused == (["two calls, one of them garbled"] if template == "headers" else [])


@pytest.mark.parametrize("name", TEXTS)
def test_the_ids_of_a_completion_are_those_that_vllm_computes(name: str) -> None:
    assert ids_of(tokenizer("chatml"), Operation.COMPLETIONS, TEXTS[name]) == GOLDEN["texts"][name]["ids"]
    embedding = {("input" if key == "prompt" else key): value for key, value in TEXTS[name].items()}
    assert ids_of(tokenizer("chatml"), Operation.EMBEDDINGS, embedding) == GOLDEN["texts"][name]["ids"]
