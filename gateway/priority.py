"""In which class a request waits: that of its key, else of its tenant, or a lower one that it asks for."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.config.queue_options import LOWEST_CLASS, QueueOptions
from gateway.errors import InvalidRequest

PRIORITY = b"x-headrace-priority"
OBJECTIVE = b"x-gateway-inference-objective"


def priority_of(key_name: str, headers: Mapping[bytes, bytes], options: QueueOptions, usual: int = 0) -> int:
    """The class; a lower number goes first.

    usual: that of the tenant, for keys of which the queue says nothing.

    Raises:
        InvalidRequest: `x-headrace-priority` is no class.
    """
    own = options.classes.get(key_name, usual)
    asked = headers.get(PRIORITY)
    if asked is None:
        objective = headers.get(OBJECTIVE)
        return own if objective is None else max(own, options.objectives.get(objective.decode("latin-1"), own))
    if not asked.isdigit() or len(asked) > 3 or int(asked) > LOWEST_CLASS:
        given = asked[:100].decode("latin-1")
        raise InvalidRequest(f"`x-headrace-priority` is {given!r}; it takes a class from 0 to {LOWEST_CLASS}.")
    return max(own, int(asked))
