"""Which requests may go where."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gateway.config.base import Name, Section

Site = Annotated[
    Literal["on-premise", "cloud"], BeforeValidator(lambda given: "on-premise" if given == "onprem" else given)
]
"""Where something stands; `onprem` is read as `on-premise`."""


class Residency(Section):
    """Which requests may go where. What is said of a class holds for every more sensitive one as well."""

    classes: Annotated[list[Name], Field(min_length=1)] = ["public", "internal", "confidential", "restricted"]
    """Sensitivity classes, from the least to the most sensitive."""
    default: Name = "internal"
    """The class of a request of which nothing else is known; `auth.keys[].sensitivity` comes first."""
    tenants: dict[Name, Name] = {}
    """By tenant, the class of its requests at least, whatever their key says."""
    sites: dict[Name, list[Site]] = {"confidential": ["on-premise"], "restricted": ["on-premise"]}
    """By class, the sites to which its requests may go; a class that is not named adds no limit of its own."""
    labels: dict[Name, dict[Name, str]] = {}
    """By class, labels that a pool must have to get its requests, such as `{restricted: {region: eu}}`."""
    classifier: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = None
    """A Python function, `module:function`, that gets the texts of a request as a list and returns a class or None. It
    can only make a request more sensitive. It runs in a thread."""
    classifier_timeout_s: Annotated[float, Field(gt=0, le=600)] = 5.0
    """A classifier that takes longer, fails or names no class makes the request one of the most sensitive class."""
