"""Routes that show what configuration serves, and change it: here first, then on every gateway of the database."""

from __future__ import annotations

import re
from typing import Annotated, Literal, NoReturn, TypeVar

import msgspec
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from gateway.config.dump import Difference
from gateway.config.live import (
    MAX_TEXT_BYTES,
    Failed,
    History,
    Origin,
    Outcome,
    Past,
    Propose,
    Question,
    Rollback,
    Show,
    ShowHistory,
    Shown,
    ShowText,
    Text,
)
from gateway.directory.roles import Role
from gateway.errors import Conflict, Forbidden, InternalError, InvalidRequest, NotFound, Overloaded
from gateway.office.api.access import Actor, needs
from gateway.office.api.state import OfficeState
from gateway.office.published import newest, publish

T = TypeVar("T", Outcome, Shown, History, Text)

Reader = Annotated[Actor, needs(Role.ADMIN, Role.OPERATOR, Role.VIEWER)]
Writer = Annotated[Actor, needs(Role.ADMIN, Role.OPERATOR)]
_of_admins = re.compile(r"(auth|admin|database)\b").match
"""Sections that say who is let in: whoever could change them could make itself an admin."""


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")

    dry_run: bool = Field(False, description="Only say what would change.")
    expected: str = Field("", max_length=64, description="The version that must be serving; another gets 409.")


class ConfigProposal(_Asked):
    text: str = Field(max_length=MAX_TEXT_BYTES, description="The configuration as YAML, with `${VAR}` for secrets.")
    name: str = Field("<admin API>", max_length=256, description="What the text is called in messages.")


class ConfigRollback(_Asked):
    number: int | None = Field(
        None, ge=1, description="The number of a version; by default that before the present one."
    )


class ConfigOutcome(BaseModel):
    status: Literal["applied", "unchanged", "checked"]
    version: str
    """What serves now."""
    differences: list[Difference]
    warnings: list[str]


class ConfigShown(BaseModel):
    version: str
    at: float
    """Unix time in seconds."""
    origin: Origin
    who: str
    name: str
    file: str
    beside: str
    """What there is to say of the gateway's own file, where it is not what serves."""
    effective: str
    """The whole configuration as YAML, secrets masked."""


class ConfigPast(BaseModel):
    version: str
    at: float
    origin: Origin
    who: str
    name: str
    note: str
    differences: list[Difference]


class ConfigHistory(BaseModel):
    running: str
    past: list[ConfigPast]


def add_routes(api: FastAPI, state: OfficeState) -> None:
    @api.get("/config", tags=["config"])
    async def get_config(actor: Reader) -> ConfigShown:
        """What configuration serves on this gateway, and who brought it."""
        shown = await _ask(state, Show(effective=True), Shown)
        return ConfigShown(**{name: getattr(shown, name) for name in ConfigShown.model_fields})

    @api.get("/config/history", tags=["config"])
    async def get_history(actor: Reader) -> ConfigHistory:
        """The configurations that have served on this gateway, the newest first."""
        history = await _ask(state, ShowHistory(), History)
        return ConfigHistory(running=history.running, past=[_past(one) for one in history.past])

    @api.post("/config", tags=["config"])
    async def apply_config(actor: Writer, asked: ConfigProposal) -> ConfigOutcome:
        """Check a configuration, have this gateway serve it, and then every other one of the database.

        One that is not right gets 400 `config_refused` with every place and reason, and nothing changes.
        """
        given = Propose(
            text=asked.text,
            name=asked.name,
            who=actor.name,
            origin="api",
            dry_run=asked.dry_run,
            expected=asked.expected,
        )
        return await _change(state, actor, given)

    @api.post("/config/rollback", tags=["config"])
    async def roll_back(actor: Writer, asked: ConfigRollback) -> ConfigOutcome:
        """Have an earlier configuration serve again, here and on every other gateway of the database."""
        given = Rollback(
            number=asked.number, who=actor.name, origin="api", dry_run=asked.dry_run, expected=asked.expected
        )
        return await _change(state, actor, given)


async def _change(state: OfficeState, actor: Actor, given: Propose | Rollback) -> ConfigOutcome:
    if not given.dry_run:
        await state.work(newest)  # refused while the database is away: the others would not hear of it
        if actor.role is not Role.ADMIN:
            given = await _within_reach(state, given)
    outcome = await _ask(state, given, Outcome)
    if not outcome.good:
        _refuse(outcome)
    if not given.dry_run:
        number = int(outcome.version.partition("-")[0])
        text = await _ask(state, ShowText(number=number), Text)
        await state.work(publish, actor.audited, outcome, text.text, text.name, outcome.differences)
    return ConfigOutcome(
        status=outcome.status if outcome.status in ("applied", "unchanged") else "checked",
        version=outcome.version,
        differences=outcome.differences,
        warnings=outcome.problems,
    )


async def _within_reach(state: OfficeState, given: Propose | Rollback) -> Propose | Rollback:
    """What is given, if it changes nothing that only an admin may change; for the version that serves now.

    Raises:
        Forbidden: it does.
    """
    found = await _ask(state, msgspec.structs.replace(given, dry_run=True), Outcome)
    if not found.good:
        _refuse(found)
    beyond = [one.key for one in found.differences if _of_admins(one.key)]
    if beyond:
        named = ", ".join(beyond[:5])
        message = f"Only an admin may change who is let in, and this would change {named}."
        raise Forbidden(message, code="role_not_allowed")
    return msgspec.structs.replace(given, expected=found.version)


async def _ask(state: OfficeState, question: Question, wanted: type[T]) -> T:
    try:
        answer = await state.ask_config(question)
    except TimeoutError:
        raise Overloaded(
            "The configuration was not put in place in time; its history tells what became of it."
        ) from None
    if isinstance(answer, Failed):
        raise NotFound(answer.message)
    if not isinstance(answer, wanted):
        raise InternalError
    return answer


def _refuse(outcome: Outcome) -> NoReturn:
    text = "\n".join(outcome.problems)
    if outcome.status == "conflict":
        raise Conflict(text)
    raise InvalidRequest(
        f"The configuration is refused, {outcome.version} goes on serving:\n{text}", code="config_refused"
    )


def _past(one: Past) -> ConfigPast:
    return ConfigPast(**{name: getattr(one, name) for name in ConfigPast.model_fields})
