"""A translator's two ends in one line, and botocore's opinion of what is sent."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from botocore.model import Shape
from botocore.session import Session
from botocore.validate import ParamValidator

from engines.adapter import CannotSay, Translator
from engines.aws.bedrock import BedrockTranslator
from engines.base import EngineRequest, Operation

Json = dict[str, Any]
MODEL = "eu.anthropic.claude-sonnet-4-v1:0"


@cache
def shape(name: str) -> Shape:
    return Session().get_service_model("bedrock-runtime").shape_for(name)


def request(operation: Operation = Operation.CHAT, *, stream: bool = False, **fields: Any) -> EngineRequest:
    return EngineRequest(operation, json.dumps({"model": MODEL, **fields}).encode(), stream)


def chat(*messages: Json, stream: bool = False, **fields: Any) -> EngineRequest:
    asked = list(messages) or [{"role": "user", "content": "hello"}]
    return request(stream=stream, messages=asked, **fields)


def converse(*messages: Json, **fields: Any) -> Json:
    """What becomes of a chat. botocore's model of the service finds nothing wrong with it."""
    body: Json = json.loads(BedrockTranslator().begin(chat(*messages, **fields)).wire.body)
    report = ParamValidator().validate({"modelId": MODEL, **body}, shape("ConverseRequest"))
    assert not report.has_errors(), report.generate_report()
    return body


def refused(asked: EngineRequest, translator: Translator | None = None) -> CannotSay:
    with pytest.raises(CannotSay) as error:
        (translator or BedrockTranslator()).begin(asked)
    return error.value


def user(content: object) -> Json:
    return {"role": "user", "content": content}


def said(text: str) -> Json:
    return {"role": "user", "content": [{"text": text}]}


def function(name: str = "weather", **fields: Any) -> Json:
    return {"type": "function", "function": {"name": name, **fields}}
