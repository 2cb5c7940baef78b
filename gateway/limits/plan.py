"""Which limits a call meets: those of its organisation, team, key and deployment, and of any combination of these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple
from urllib.parse import quote

from gateway.config import Config
from gateway.config.limit_options import LimitOptions, LimitRule, Subject, limits_of
from gateway.directory.entries import NO_LIMITS, Limits, OrganisationEntry, TeamEntry
from gateway.identity import Caller
from gateway.limits.seam import Meter
from gateway.limits.units import UNIT_NAMES, UNLIMITED, WINDOWS, limit_in

Organisations = Callable[[str], OrganisationEntry | None]
Teams = Callable[[str, str], TeamEntry | None]
"""By organisation and name."""

MAX_PLANS: Final = 10_000
"""Kept at most; what is one too many empties the shelf."""
OPEN: Final = "open"
CLOSED: Final = "closed"
SLICE: Final = "slice"


class Line:
    """One limit that a call meets.

    unit:    one of `gateway.limits.units`. soft: units past which it is told of, no more; 0: there is no such limit.
    setting: its name, for messages. whose: who shares it, for messages.
    """

    __slots__ = ("meter", "setting", "soft", "unit", "whose")

    def __init__(self, meter: Meter, unit: int, soft: int, setting: str, whose: str) -> None:
        self.meter = meter
        self.unit = unit
        self.soft = soft
        self.setting = setting
        self.whose = whose

    def __repr__(self) -> str:
        return f"<Line {self.meter.key} {self.meter.limit}{f' soft={self.soft}' if self.soft else ''}>"


class Cap:
    """How long one prompt or answer may be, in tokens."""

    __slots__ = ("setting", "tokens", "whose")

    def __init__(self, tokens: int, setting: str, whose: str) -> None:
        self.tokens = tokens
        self.setting = setting
        self.whose = whose


class Plan:
    """All limits of the calls of one caller to one deployment.

    of_key:          the key's own, as they were when this was made.
    prompt, answer:  the smallest of the caps that apply; None: there is none.
    counts_tokens:   whether any line takes knowing how many tokens a call needs. counts_money: or what they cost.
    when_store_lost: open, closed or slice.
    """

    __slots__ = ("answer", "counts_money", "counts_tokens", "lines", "of_key", "prompt", "tenant", "when_store_lost")

    def __init__(
        self,
        tenant: str,
        of_key: Limits,
        lines: tuple[Line, ...],
        prompt: Cap | None,
        answer: Cap | None,
        when_store_lost: str,
    ) -> None:
        self.tenant = tenant
        self.of_key = of_key
        self.lines = lines
        self.prompt = prompt
        self.answer = answer
        self.when_store_lost = when_store_lost
        self.counts_money = any(UNIT_NAMES[line.unit] == "usd" for line in lines)
        self.counts_tokens = self.counts_money or any(UNIT_NAMES[line.unit] == "tokens" for line in lines)

    @property
    def is_free(self) -> bool:
        """Whether nothing has to be reserved or counted."""
        return not self.lines and self.prompt is None

    def __repr__(self) -> str:
        return f"<Plan {self.tenant} {list(self.lines)} {self.when_store_lost}>"


class _Grounds(NamedTuple):
    """Limits, and why a call meets them. subject: what all calls that share them have in common."""

    limits: Limits
    subject: str
    setting: str
    whose: str


class Planner:
    """Knows the limits of the configuration and of the directory, and keeps what it has found for a caller.

    organisation, team: what the directory has by that name.
    """

    def __init__(
        self,
        config: Config,
        organisation: Organisations = lambda name: None,
        team: Teams = lambda organisation, name: None,
    ) -> None:
        self._organisation = organisation
        self._team = team
        self._tenants = config.tenants
        self._limits = {name: limits_of(one.limits) for name, one in config.tenants.items()}
        self._teams = {
            (name, team): limits_of(options.limits)
            for name, one in config.tenants.items()
            for team, options in one.teams.items()
        }
        self._deployments = {name: limits_of(one.limits) for name, one in config.deployments.items()}
        self._rules = [(limits_of(rule), rule) for rule in config.limits]
        self._plans: dict[tuple[str, str, str, str, str], Plan] = {}

    def __repr__(self) -> str:
        return f"<Planner plans={len(self._plans)}>"

    def plan(self, caller: Caller, deployment: str) -> Plan:
        """What a call meets. Found once for each caller and deployment, until `forget`."""
        key = (caller.key_id, caller.key_name, caller.tenant, caller.team, deployment)
        plan = self._plans.get(key)
        if plan is None or (plan.of_key is not caller.limits and plan.of_key != caller.limits):
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            plan = self._plans[key] = self._make(caller, deployment)
        return plan

    def forget(self) -> None:
        """Organisations or teams have changed."""
        self._plans.clear()

    def _make(self, caller: Caller, deployment: str) -> Plan:
        found = list(self._grounds(caller, deployment))
        lines: dict[str, Line] = {}
        for grounds in found:
            for line in _lines(grounds):
                known = lines.get(line.meter.key)
                lines[line.meter.key] = line if known is None else _tighter(known, line)
        return Plan(
            caller.tenant,
            caller.limits,
            tuple(lines.values()),
            _cap([(one.limits.input_tokens, "input_tokens", one) for one in found]),
            _cap([(one.limits.output_tokens, "output_tokens", one) for one in found]),
            self._when_store_lost(caller.tenant),
        )

    def _when_store_lost(self, tenant: str) -> str:
        options = self._tenants.get(tenant)
        if options is not None and "when_store_lost" in options.model_fields_set:
            return options.when_store_lost
        entry = self._organisation(tenant)
        return SLICE if entry is None else entry.when_store_lost

    def _grounds(self, caller: Caller, deployment: str) -> Iterator[_Grounds]:
        """All limits that apply, in the order in which they are told of."""
        yield from self._of_key(caller)
        tenant, team = caller.tenant, caller.team
        subject = _subject(tenant=tenant)
        whose = f"organisation {tenant!r}"
        yield _Grounds(self._limits.get(tenant, NO_LIMITS), subject, f"tenants.{tenant}.limits.", whose)
        organisation = self._organisation(tenant)
        if organisation is not None:
            yield _Grounds(organisation.limits, subject, "the organisation's ", whose)
        if team:
            subject, whose = _subject(tenant=tenant, team=team), f"team {team!r} of organisation {tenant!r}"
            setting = f"tenants.{tenant}.teams.{team}.limits."
            yield _Grounds(self._teams.get((tenant, team), NO_LIMITS), subject, setting, whose)
            entry = self._team(tenant, team)
            if entry is not None:
                yield _Grounds(entry.limits, subject, "the team's ", whose)
        limits = self._deployments.get(deployment, NO_LIMITS)
        subject = _subject(deployment=deployment)
        yield _Grounds(limits, subject, f"deployments.{deployment}.limits.", f"all callers of {deployment!r}")
        for number, (limits, rule) in enumerate(self._rules):
            if _applies(rule.match, caller, deployment):
                subject = _rule_subject(rule, caller, deployment)
                yield _Grounds(
                    limits, subject, f"limits[{number}].", f"the calls that limits[{number}] counts together"
                )

    def _of_key(self, caller: Caller) -> Iterator[_Grounds]:
        """`max_parallel` is another name for `limits.parallel`."""
        subject, whose = _key_subject(caller), f"key {caller.key_name!r}"
        setting = "the key's " if caller.key_id else "auth.keys[].limits."
        yield _Grounds(caller.limits, subject, setting, whose)
        if caller.max_parallel is not None:
            yield _Grounds(Limits(parallel=caller.max_parallel), subject, "auth.keys[].max_", whose)


def has_limits(config: Config) -> bool:
    """Whether the configuration itself limits anybody."""
    limits: list[LimitOptions] = [*config.limits]
    limits += [one.limits for one in config.tenants.values()]
    limits += [team.limits for one in config.tenants.values() for team in one.teams.values()]
    limits += [one.limits for one in config.deployments.values()]
    limits += [key.limits for key in config.auth.keys]
    return any(limits_of(one) != NO_LIMITS for one in limits) or any(key.max_parallel for key in config.auth.keys)


def _lines(grounds: _Grounds) -> Iterator[Line]:
    if grounds.limits == NO_LIMITS:
        return
    for name, unit, span in WINDOWS:
        hard, soft = limit_in(grounds.limits, name)
        if hard is not None or soft is not None:
            meter = Meter(f"{grounds.subject}|{UNIT_NAMES[unit]}|{span.value}", hard or UNLIMITED, span)
            yield Line(meter, unit, soft or 0, grounds.setting + name, grounds.whose)


def _tighter(one: Line, other: Line) -> Line:
    """One line for what is counted alike."""
    hard = one if one.meter.limit <= other.meter.limit else other
    soft = min((line.soft for line in (one, other) if line.soft), default=0)
    return Line(hard.meter, hard.unit, soft, hard.setting, hard.whose)


def _cap(given: list[tuple[int | None, str, _Grounds]]) -> Cap | None:
    caps = [Cap(tokens, one.setting + name, one.whose) for tokens, name, one in given if tokens is not None]
    return min(caps, key=lambda cap: cap.tokens, default=None)


def _applies(match: Subject, caller: Caller, deployment: str) -> bool:
    return (
        match.tenant in (None, caller.tenant)
        and match.team in (None, caller.team)
        and match.key in (None, caller.key_name)
        and match.deployment in (None, deployment)
    )


def _rule_subject(rule: LimitRule, caller: Caller, deployment: str) -> str:
    """Two rules that count the same calls have the same, and share it with whom the calls are limited by otherwise."""
    match, per = rule.match, rule.per
    fixed: dict[str, str] = {}
    if match.tenant is not None or "tenant" in per or "team" in per:
        fixed["tenant"] = caller.tenant
    if match.team is not None or "team" in per:
        fixed["team"] = caller.team
    if match.deployment is not None or "deployment" in per:
        fixed["deployment"] = deployment
    parts = [_subject(**fixed)] if fixed else []
    if "key" in per:
        parts.append(_key_subject(caller))
    elif match.key is not None:
        parts.append(_subject(keys=match.key))
    return ",".join(parts) or "all"


def _key_subject(caller: Caller) -> str:
    """A key that replaces another one has its name, and goes on where that one was."""
    return _subject(tenant=caller.tenant, key=caller.key_name)


def _subject(**parts: str) -> str:
    """Readable, and nothing that anybody may choose can be taken for a separator or for a hash tag."""
    return ",".join(f"{name}={quote(value, safe='@:+/')}" for name, value in parts.items())
