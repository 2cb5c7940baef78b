"""What may be used: by an organisation, a team, a key, of a deployment, or any combination of these."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal, InvalidOperation
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from gateway.config.base import Name, Section
from gateway.directory.entries import Limits

Count = Annotated[int, Field(ge=1, le=10**12)]


def _exact(value: object) -> object:
    """A number as it was written: 0.1 is a tenth, and not the nearest binary fraction."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(InvalidOperation):
            return Decimal(str(value))
    if isinstance(value, Decimal):
        return value
    raise PydanticCustomError("float_parsing", "not a number")


Usd = Annotated[Decimal, BeforeValidator(_exact), Field(gt=0, le=10**6, max_digits=15, decimal_places=9)]


class LimitOptions(Section):
    """Each is optional; what is not set is not limited. Windows slide: no 60 seconds ever hold more than a minute's
    limit. Days and months of money are calendar days and months in UTC."""

    requests_per_minute: Count | None = None
    """Requests admitted in any 60 seconds."""
    requests_per_day: Count | None = None
    """Requests admitted in any 24 hours."""
    tokens_per_minute: Count | None = None
    """Tokens of prompts and answers in any 60 seconds. Reserved before, settled to what was used."""
    tokens_per_day: Count | None = None
    """Tokens of prompts and answers in any 24 hours."""
    parallel: Count | None = None
    """Requests in flight at once, over all workers and gateways."""
    input_tokens: Count | None = None
    """Tokens of one prompt; a longer one gets 400."""
    output_tokens: Count | None = None
    """Tokens of one answer: who asks for more gets 400, who asks for none in particular gets at most so many."""
    usd_per_day: Usd | None = None
    """Money in a calendar day, UTC; past it 429 `insufficient_quota`."""
    usd_per_month: Usd | None = None
    """Money in a calendar month, UTC."""
    usd_per_day_soft: Usd | None = None
    """Past it requests go on, and a metric and a log line say so."""
    usd_per_month_soft: Usd | None = None
    """Past it requests go on, and a metric and a log line say so."""


class TeamOptions(Section):
    """A part of an organisation."""

    limits: LimitOptions = LimitOptions()
    """What all keys of the team may use together."""


class TenantOptions(Section):
    """An organisation: who is charged."""

    limits: LimitOptions = LimitOptions()
    """What all its keys may use together."""
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Its share of engines that are full, relative to others'."""
    priority: Annotated[int, Field(ge=0, le=9)] = 0
    """Its class in the queue; a lower one goes first."""
    when_store_lost: Literal["open", "closed", "slice"] = "slice"
    """While the store of the limits does not answer: `open` admits everything, `closed` nothing, `slice` the share of
    each worker."""
    log_content: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of its calls whose prompts and answers are kept; see `content_log`."""
    teams: dict[Name, TeamOptions] = {}
    """Its teams."""


class Subject(Section):
    """Whose calls a limit counts; what is not named is anybody's."""

    tenant: Name | None = None
    """Of this organisation."""
    team: Name | None = None
    """Of this team."""
    key: Name | None = None
    """Of the key with this name."""
    deployment: Name | None = None
    """To this deployment."""


class LimitRule(LimitOptions):
    """A limit on any combination."""

    match: Subject = Subject()
    """Whose calls it counts."""
    per: list[Literal["tenant", "team", "key", "deployment"]] = []
    """It is a limit for each of these by itself; empty: for all together."""


def limits_of(options: LimitOptions) -> Limits:
    """The same as keys and organisations of the database have them: money in billionths of a US dollar."""
    return Limits(
        requests_per_minute=options.requests_per_minute,
        requests_per_day=options.requests_per_day,
        tokens_per_minute=options.tokens_per_minute,
        tokens_per_day=options.tokens_per_day,
        parallel=options.parallel,
        input_tokens=options.input_tokens,
        output_tokens=options.output_tokens,
        nano_usd_per_day=_nano(options.usd_per_day),
        nano_usd_per_month=_nano(options.usd_per_month),
        nano_usd_per_day_soft=_nano(options.usd_per_day_soft),
        nano_usd_per_month_soft=_nano(options.usd_per_month_soft),
    )


def _nano(usd: Decimal | None) -> int | None:
    return None if usd is None else int(usd * 10**9)
