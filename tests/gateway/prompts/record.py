"""Writes `data/golden.json`: what vLLM makes of the cases. For an interpreter that has vLLM, at the repository's root:

PYTHON -m tests.gateway.prompts.record
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

from tests.gateway.prompts.cases import CHATS, TEXTS, chat

DATA = Path(__file__).parent / "data"


def main() -> None:
    import transformers  # type: ignore[import-not-found, unused-ignore]
    import vllm  # type: ignore[import-not-found, unused-ignore]

    golden: dict[str, object] = {"vllm": vllm.__version__, "transformers": transformers.__version__}
    for file in sorted((DATA / "templates").glob("*.jinja")):
        golden[file.stem] = {name: record_chat(DATA / "tiny", file.read_text(), chat(name)) for name in CHATS}
    golden["texts"] = {name: record_text(DATA / "tiny", body) for name, body in TEXTS.items()}
    (DATA / "golden.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")


def record_chat(folder: Path, template: str | None, body: dict[str, object]) -> object:
    """`{"text": …, "ids": "1 2 …"}`; None: vLLM refuses the request."""
    from vllm.entrypoints.openai.chat_completion.protocol import (  # type: ignore[import-not-found, unused-ignore]
        ChatCompletionRequest,
    )
    from vllm.renderers import chat_utils, hf  # type: ignore[import-not-found, unused-ignore]
    from vllm.renderers.params import merge_kwargs  # type: ignore[import-not-found, unused-ignore]

    tokenizer = _tokenizer(folder)
    model = SimpleNamespace(
        multimodal_config=None,
        enable_prompt_embeds=False,
        hf_config=SimpleNamespace(model_type="llama"),
        allowed_local_media_path="",
        allowed_media_domains=None,
        tokenizer_revision=None,
        revision=None,
        code_revision=None,
        trust_remote_code=False,
        tokenizer="none",
        model="none",
        max_model_len=100_000,
    )
    try:
        request = ChatCompletionRequest(**json.loads(json.dumps(body)))
        tools = None if request.tools is None else [tool.model_dump() for tool in request.tools]
        params = request.build_chat_params(template, "auto").with_defaults(
            merge_kwargs(None, {"tools": tools, "tokenize": False})
        )
        content_format = hf.resolve_chat_template_content_format(
            chat_template=params.chat_template,
            tools=tools,
            given_format="auto",
            tokenizer=tokenizer,
            model_config=model,
        )
        turns, _, _ = chat_utils.parse_chat_messages(request.messages, model, content_format=content_format)
        text = hf.safe_apply_chat_template(model, tokenizer, turns, **params.get_apply_chat_template_kwargs())
        kwargs = request.build_tok_params(model).get_encode_kwargs()
    except Exception as error:
        print(f"refused: {error}"[:200], file=sys.stderr)
        return None
    return {"text": text, "ids": _written(tokenizer(text, **kwargs)["input_ids"])}


def record_text(folder: Path, body: dict[str, object]) -> object:
    from vllm.entrypoints.openai.completion.protocol import (  # type: ignore[import-not-found, unused-ignore]
        CompletionRequest,
    )

    request = CompletionRequest(model="tiny", **body)
    kwargs = request.build_tok_params(SimpleNamespace(max_model_len=100_000)).get_encode_kwargs()
    return {"text": body["prompt"], "ids": _written(_tokenizer(folder)(body["prompt"], **kwargs)["input_ids"])}


def _written(ids: list[int]) -> str:
    return " ".join(map(str, ids))


_TOKENIZERS: dict[Path, object] = {}


def _tokenizer(folder: Path):  # type: ignore[no-untyped-def]  # transformers is not typed here
    if folder not in _TOKENIZERS:
        from transformers import AutoTokenizer

        _TOKENIZERS[folder] = AutoTokenizer.from_pretrained(folder)
    return _TOKENIZERS[folder]


if __name__ == "__main__":
    main()
