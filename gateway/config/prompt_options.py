"""How the gateway reads the prompts of a variant, to route them to where their prefix is cached."""

from __future__ import annotations

from gateway.config.base import Section

NO_TOKENIZER = "none"
TIKTOKEN_SUFFIX = ".tiktoken"
TIKTOKEN_NAMES = ("cl100k_base", "o200k_base")
"""Encodings that are known; a file has the name of its encoding."""


class PromptOptions(Section):
    """What engines make of a prompt."""

    tokenizer: str | None = None
    """Folder with the model's `tokenizer.json` and chat template, so that prompts are known token by token (needs the
    extra `tokenizer`); or OpenAI's `o200k_base.tiktoken` or `cl100k_base.tiktoken`, by which the prompts of limited
    callers are counted (needs the extra `tiktoken`); `none`: by their bytes alone. Not set: the folder that
    `engine.model` names, if the gateway starts the engines."""
    chat_template: str | None = None
    """Jinja file with the chat template that the engines were started with; none: that of the tokenizer's folder."""
    adapter: str | None = None
    """LoRA adapter of this variant, by the engines' name for it. Adapters share no cached prefixes with each other or
    with their model."""
