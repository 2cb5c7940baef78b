"""A model's own tokenizer and chat template, from its folder: the token ids that its engine computes for a prompt."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from jinja2 import TemplateError

from engines.base import Operation
from gateway.prompts.body import id_bytes
from gateway.prompts.conversation import Unrenderable
from gateway.prompts.segments import Encoded, SegmentEncoder
from gateway.prompts.template import ChatTemplate

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_RENDERED_OTHERWISE = frozenset({"gpt_oss", "deepseek_v32", "deepseek_v4", "deepseek_v41", "kimi_k3", "inkling"})
"""Model types whose chats vLLM renders by code of its own, not by the folder's template."""
_TEKKEN = "tekken.json"
"""Mistral's own tokenizer; where it lies vLLM takes it and its own rendering."""


class NoTokenizer(Exception):
    """There is none to be had; the message says why."""


class _TokenObject(msgspec.Struct):
    content: str


class _NamedTemplate(msgspec.Struct):
    name: str
    template: str


class _ModelConfig(msgspec.Struct):
    model_type: str = ""


class _ProcessorTemplate(msgspec.Struct):
    chat_template: str | None = None


class _TokenizerConfig(msgspec.Struct):
    chat_template: str | list[_NamedTemplate] | None = None
    add_bos_token: bool | None = None
    add_eos_token: bool | None = None


class ChatTokenizer:
    """Not thread-safe: one thread at a time has it to itself.

    tokenizer: as it is in the folder.
    templates: by name; `default`, and perhaps `tool_use`. Empty: chats cannot be rendered.
    max_bytes: memory for what was encoded before.
    now_s: the clock that deadlines are on; by default the thread's own CPU time.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        templates: Mapping[str, ChatTemplate],
        special: Mapping[str, str],
        max_bytes: int,
        now_s: Callable[[], float] = time.thread_time,
    ) -> None:
        self._templates = templates
        sources = "".join(template.source for template in templates.values())
        added = (token.content for token in tokenizer.get_added_tokens_decoder().values())
        cut_behind = [one for one in added if one in sources or one in special.values()]
        self._encoder = SegmentEncoder(tokenizer, cut_behind, max_bytes, now_s)
        self._frame = _frame(tokenizer)

    def __repr__(self) -> str:
        return f"<ChatTokenizer templates={sorted(self._templates)} {self._encoder!r}>"

    def encode(
        self, operation: Operation, body: bytes, deadline_s: float, most_chars: int | None = None
    ) -> Encoded | None:
        """The ids of the body's prompt, of several the first's; None: they cannot be known here.

        What there is no time for until `deadline_s`, on the clock `now_s`, is left out; `Encoded.rest_chars` says so.
        So it is with a prompt of which more than `most_chars` are not remembered.
        """
        try:
            fields = msgspec.json.decode(body, type=dict[str, object])
            if fields.get("truncate_prompt_tokens") is not None:
                return None
            if operation is Operation.CHAT or (operation is Operation.EMBEDDINGS and "messages" in fields):
                text = self._render(fields)
            else:
                text = _first_text(fields.get("prompt" if operation is Operation.COMPLETIONS else "input"))
        except (Unrenderable, ValueError, RecursionError):
            return None
        frame = fields.get("add_special_tokens", operation is not Operation.CHAT)
        return self._framed(self._encoder.encode(text, deadline_s, most_chars), framed=frame is True)

    def _render(self, fields: dict[str, object]) -> str:
        template = self._templates.get("tool_use") if fields.get("tools") is not None else None
        template = template or self._templates.get("default")
        if template is None:
            raise Unrenderable("no template")
        return template.render(fields)

    def _framed(self, encoded: Encoded, *, framed: bool) -> Encoded:
        if not framed:
            return encoded
        before, after = self._frame
        return Encoded(before + encoded.ids + (b"" if encoded.rest_chars else after), encoded.rest_chars)


def load_tokenizer(path: Path, chat_template: Path | None, max_bytes: int) -> ChatTokenizer:
    """The tokenizer in a folder, or in a `tokenizer.json`. Reads files and takes up to seconds.

    Args:
        path: where it lies.
        chat_template: a Jinja file that the engine was started with; None: the folder's.
        max_bytes: memory for what was encoded before.

    Raises:
        NoTokenizer: the package is not installed, a file is missing or cannot be read.
    """
    file = path if path.is_file() else path / "tokenizer.json"
    folder = file.parent
    if not file.is_file():
        raise NoTokenizer(f"there is no {file}")
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError:
        raise NoTokenizer('the package "tokenizers" is not installed: pip install "headrace[tokenizer]"') from None
    try:
        config_file = folder / "tokenizer_config.json"
        written = config_file.read_bytes() if config_file.is_file() else b"{}"
        config = msgspec.json.decode(written, type=_TokenizerConfig)
        special = _special_tokens(folder, written)
        tokenizer = _open(Tokenizer, file)
        _add_frame(tokenizer, config, special)
        sources = _sources(folder, config, chat_template)
        templates = {name: ChatTemplate(source, special) for name, source in sources.items()}
        return ChatTokenizer(tokenizer, templates, special, max_bytes)
    except (OSError, ValueError) as error:
        raise NoTokenizer(f"{folder}: {error}") from None
    except TemplateError as error:
        raise NoTokenizer(f"{folder}: the chat template cannot be compiled: {error}") from None


def _open(kind: type[Tokenizer], file: Path) -> Tokenizer:
    try:
        tokenizer = kind.from_file(str(file))
    except Exception as error:  # the package raises bare Exceptions
        raise NoTokenizer(f"{file}: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _special_tokens(folder: Path, config: bytes) -> dict[str, str]:
    """`bos_token` and its like, as the template sees them."""
    found: dict[str, str] = {}
    older = folder / "special_tokens_map.json"
    for written in (older.read_bytes() if older.is_file() else b"{}", config):
        for name, raw in msgspec.json.decode(written, type=dict[str, msgspec.Raw]).items():
            if not name.endswith("_token") or bytes(raw) in (b"true", b"false", b"null"):
                continue
            token = msgspec.json.decode(raw, type=str | _TokenObject)
            found[name] = token if isinstance(token, str) else token.content
    return found


def _sources(folder: Path, config: _TokenizerConfig, chat_template: Path | None) -> dict[str, str]:
    """The templates of the folder, by name; none where vLLM uses something else."""
    if chat_template is not None:
        return {"default": chat_template.read_text()}
    model = folder / "config.json"
    if (folder / _TEKKEN).is_file() or (
        model.is_file() and msgspec.json.decode(model.read_bytes(), type=_ModelConfig).model_type in _RENDERED_OTHERWISE
    ):
        return {}
    found: dict[str, str] = {}
    processor = folder / "chat_template.json"
    if processor.is_file():
        source = msgspec.json.decode(processor.read_bytes(), type=_ProcessorTemplate).chat_template
        found |= {} if source is None else {"default": source}
    if isinstance(config.chat_template, str):
        found["default"] = config.chat_template
    elif config.chat_template is not None:
        found |= {one.name: one.template for one in config.chat_template}
    for file in (folder / "additional_chat_templates").glob("*.jinja"):
        found[file.stem] = file.read_text()
    own = folder / "chat_template.jinja"
    if own.is_file():
        found["default"] = own.read_text()
    return {name: source for name, source in found.items() if name in ("default", "tool_use")}


def _add_frame(tokenizer: Tokenizer, config: _TokenizerConfig, special: Mapping[str, str]) -> None:
    """`add_bos_token` and `add_eos_token` say what goes around a text, whatever the tokenizer's file says."""
    if config.add_bos_token is None and config.add_eos_token is None:
        return
    from tokenizers.processors import TemplateProcessing

    before = special.get("bos_token") if config.add_bos_token else None
    after = special.get("eos_token") if config.add_eos_token else None
    around = [(token, tokenizer.token_to_id(token)) for token in (before, after) if token is not None]
    single = " ".join(f"{part}:0" for part in (before, "$A", after) if part is not None)
    pair = " ".join([single, *(f"{part}:1" for part in (before, "$B", after) if part is not None)])
    tokenizer.post_processor = TemplateProcessing(single=single, pair=pair, special_tokens=around)


def _frame(tokenizer: Tokenizer) -> tuple[bytes, bytes]:
    """What the tokenizer puts before and after each text."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    framed = tokenizer.encode("a", add_special_tokens=True).ids
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            return id_bytes(framed[:start]), id_bytes(framed[start + len(bare) :])
    return b"", b""


def _first_text(prompt: object) -> str:
    first = prompt[0] if isinstance(prompt, list) and prompt else prompt
    if not isinstance(first, str):
        raise Unrenderable("no text")
    return first
