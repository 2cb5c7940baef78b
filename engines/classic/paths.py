"""Where in a JSON answer something stands: `outputs.0.data.0`."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

_STEP = re.compile(r"[^\s.\[\]$]+")
_INDEX = re.compile(r"-?[0-9]{1,9}")


class NotThere(Exception):
    """An answer has nothing, or nothing of use, at a path. The message says where it ends."""


class ServerFailed(NotThere):
    """An answer with status 200 that is an error."""


@dataclass(frozen=True, slots=True)
class JsonPath:
    """Keys and indices; `*` takes each element of a list. Without steps it is the whole document."""

    steps: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join(self.steps)

    @classmethod
    def parse(cls, text: str) -> JsonPath:
        """The path that `text` says; empty text is the whole document.

        Raises:
            ValueError: it is none.
        """
        steps = tuple(text.split(".")) if text else ()
        if not all(_STEP.fullmatch(step) for step in steps):
            raise ValueError(f'"{text}" is no path; one looks like "outputs.0.data.0"')
        return cls(steps)

    def find(self, document: object) -> object:
        """What stands there.

        Raises:
            NotThere: nothing does.
        """
        return self._find(document, 0)

    def _find(self, value: object, depth: int) -> object:
        if depth == len(self.steps):
            return value
        step = self.steps[depth]
        if isinstance(value, list):
            if step == "*":
                return [self._find(element, depth + 1) for element in value]
            if _INDEX.fullmatch(step) and -len(value) <= int(step) < len(value):
                return self._find(value[int(step)], depth + 1)
        elif isinstance(value, dict) and step in value:
            return self._find(value[step], depth + 1)
        raise NotThere(f'"{self}" leads nowhere: {_shape(value)} has no "{step}"')


def text_at(path: JsonPath, document: object) -> str:
    """The text at `path`; alone in a list, or in TensorFlow's base64 form, it is text as well.

    Raises:
        NotThere: nothing stands there, or something else does.
    """
    value = path.find(document)
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str):
        try:
            return base64.b64decode(value["b64"]).decode(errors="replace")
        except binascii.Error as error:
            raise NotThere(f'"{path}" has a "b64" that is no base64') from error
    if not isinstance(value, str):
        raise NotThere(f'"{path}" leads to {_shape(value)}, not to text')
    return value


def _shape(value: object) -> str:
    """What a value is, without what it says."""
    if isinstance(value, dict):
        keys = ", ".join(f'"{key}"' for key in list(value)[:8])
        return f"an object with {keys}" if keys else "an empty object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, bool):
        return "true or false"
    return {str: "a text", int: "a number", float: "a number"}.get(type(value), "null")
