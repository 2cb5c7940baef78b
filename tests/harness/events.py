"""What is in an event stream."""

from __future__ import annotations

import json


def events_in(body: bytes) -> list[str]:
    """The data of each event, the way an SDK reads a stream: comments and blank lines are nothing."""
    blocks = body.decode().replace("\r\n", "\n").split("\n\n")
    found = ["\n".join(data_of(line) for line in block.split("\n") if line.startswith("data:")) for block in blocks]
    return [data for data in found if data]


def data_of(line: str) -> str:
    return line.removeprefix("data:").removeprefix(" ")


def text_in(body: bytes) -> str:
    """What the model said in a chat stream."""
    chunks = [json.loads(data) for data in events_in(body) if data != "[DONE]"]
    return "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk.get("choices") or [])
