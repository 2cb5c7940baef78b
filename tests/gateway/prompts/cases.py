"""Bodies whose prompts are compared with what vLLM makes of them."""

from __future__ import annotations

_TOOL = {
    "type": "function",
    "function": {
        "parameters": {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}, "a": {}}},
        "name": "weather",
        "unknown": 1,
    },
}
_STRICT = {"type": "function", "function": {"name": "now", "description": "tells the <time> & 'date'", "strict": True}}
_CALL = {
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Zürich", "a": [1, 2.50]}'},
    "id": "call_1",
}
_USER = {"role": "user", "content": "What is the capital of France?"}
_SYSTEM = {"role": "system", "content": "  You answer briefly.\n"}
_ANSWER = {"role": "assistant", "content": " Paris. "}
_DATE = {"chat_template_kwargs": {"date_string": "26 Jul 2024"}}


def _parts(*texts: str) -> list[dict[str, object]]:
    return [{"type": "text", "text": text} for text in texts]


CHATS: dict[str, dict[str, object]] = {
    "one question": {"messages": [_USER]},
    "a conversation": {"messages": [_SYSTEM, _USER, _ANSWER, {"role": "user", "content": "And of Italy? 😀é"}]},
    "content in parts": {"messages": [_SYSTEM, {"role": "user", "content": [*_parts("one", "two"), "three"]}]},
    "parts with fields of their own": {
        "messages": [{"role": "user", "content": [{**_parts("one")[0], "cache_control": {"type": "ephemeral"}}]}]
    },
    "refusals and null texts": {
        "messages": [_USER, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, _USER]
    },
    "tools": {"messages": [_USER], "tools": [_TOOL, _STRICT]},
    "tools that may not be called": {"messages": [_USER], "tools": [_TOOL], "tool_choice": "none"},
    "a tool's answer": {
        "messages": [
            _USER,
            {"role": "assistant", "content": None, "tool_calls": [_CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": _parts("rain", "wind")},
        ],
        "tools": [_TOOL],
    },
    "two calls, one of them garbled": {
        "messages": [
            _USER,
            {
                "role": "assistant",
                "content": "Wait.",
                "tool_calls": [
                    _CALL,
                    {"id": "call_2", "type": "function", "function": {"name": "now", "arguments": "{"}},
                ],
            },
            {"role": "tool", "tool_call_id": "call_2", "content": "noon"},
        ]
    },
    "no calls": {"messages": [_USER, {"role": "assistant", "content": "Yes.", "tool_calls": []}, _USER]},
    "reasoning": {"messages": [_USER, {"role": "assistant", "content": "Hm.", "reasoning_content": "\nthink\n"}]},
    "reasoning, by its other name": {
        "messages": [_USER, {"role": "assistant", "content": "Hm.", "reasoning": "why", "reasoning_content": "old"}]
    },
    "no thinking": {"messages": [_USER], "chat_template_kwargs": {"enable_thinking": False}},
    "no effort": {"messages": [_USER], "reasoning_effort": "none"},
    "a developer": {"messages": [{"role": "developer", "content": "Be kind."}, _SYSTEM, _USER]},
    "names": {"messages": [{**_USER, "name": "bob"}, {**_ANSWER, "name": "eve"}, {**_USER, "name": "bob"}]},
    "documents": {"messages": [_USER], "documents": [{"title": "A", "text": "b"}]},
    "no generation prompt": {"messages": [_USER, _ANSWER], "add_generation_prompt": False},
    "a message to continue": {
        "messages": [_USER, {"role": "assistant", "content": "The capital is "}],
        "add_generation_prompt": False,
        "continue_final_message": True,
    },
    "parts to continue": {
        "messages": [_USER, {"role": "assistant", "content": _parts("The", "capital is")}],
        "add_generation_prompt": False,
        "continue_final_message": True,
    },
    "special tokens in what the user wrote": {
        "messages": [{"role": "user", "content": "a<|im_end|>\n<|eot_id|> <s>[INST]</s ><|im_end<tool_call> b"}]
    },
    "special tokens around": {"messages": [_USER], "add_special_tokens": True},
    "a header that changes": {
        "messages": [{"role": "system", "content": "x-anthropic-billing-header: cch=1;\nBe kind."}, _USER]
    },
}
"""Chat bodies by what they are about; each gets the date, which is not to be that of the day."""

TEXTS: dict[str, dict[str, object]] = {
    "a text": {"prompt": "Once upon a time"},
    "a text without a beginning": {"prompt": "Once upon a time", "add_special_tokens": False},
    "a rendered chat": {"prompt": "<|im_start|>user\n hi<|im_end|>\n<|im_start|>assistant\n"},
}
"""Bodies of completions."""


def chat(name: str) -> dict[str, object]:
    body = CHATS[name]
    extra = body.get("chat_template_kwargs")
    kwargs = _DATE["chat_template_kwargs"] | (extra if isinstance(extra, dict) else {})
    return {"model": "tiny", **body, "chat_template_kwargs": kwargs}
