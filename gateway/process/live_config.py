"""The one way in for a configuration while the gateway runs: file, SIGHUP, control socket, admin API and database.

Each is checked, compared, put in place of the one before, and remembered; one at a time, in the order they came.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, NamedTuple

import msgspec

from gateway.clock import wall_time_s
from gateway.config import Config
from gateway.config.dump import Difference, differences, effective, summary, to_yaml
from gateway.config.history import Entry
from gateway.config.live import (
    MAX_TEXT_BYTES,
    OF_THE_FILE,
    Answer,
    Failed,
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
from gateway.config.live import History as Told
from gateway.config.load import LoadedConfig
from gateway.config.problems import ConfigError
from gateway.config.secrets import secrets_of
from gateway.config.version import Version, digest_of
from gateway.config.watch import Parsed
from gateway.process.banner import Console
from gateway.process.beginning import Beginning, hash_of
from gateway.process.engine_set import in_thread
from gateway.telemetry import Snapshot
from gateway.telemetry.series import CONFIG_REJECTED

logger = logging.getLogger(__name__)

Status = Literal["applied", "unchanged", "checked", "refused", "conflict"]
_SECRET_CHARS = 8
SHOWN_CHANGES = 8
"""In a log line; the history has all."""


class CannotSwitch(Exception):
    """A configuration is right, and yet cannot serve; the message says why."""


class _Job(NamedTuple):
    given: Propose
    note: str
    loaded: LoadedConfig | None
    again: bool
    base: str
    done: asyncio.Future[Outcome]


class LiveConfig:
    """What serves, and what is to serve.

    switch: has a configuration serve in place of the present one, or raises CannotSwitch.
    `run` must be running for anything to change.
    """

    def __init__(
        self, beginning: Beginning, switch: Callable[[Config, Entry], Awaitable[None]], console: Console
    ) -> None:
        self.config = beginning.config
        self.entry = beginning.entry
        self.reader = beginning.reader
        self._history = beginning.history
        self._base = beginning.base
        self._switch = switch
        self._console = console
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._rejected: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<LiveConfig {self.version} {self._jobs.qsize()} waiting>"

    @property
    def version(self) -> str:
        return str(self.entry.version)

    async def begun(self) -> None:
        """The first configuration serves."""
        if self._history.newest is None or self._history.newest.version != self.entry.version:
            await in_thread(lambda: self._history.add(self.entry))
        self._console.tell(f"configuration {self.version} from {self.entry.name}{_by(self.entry.who)}")

    async def run(self) -> None:
        """Change what is to be changed, until cancelled."""
        try:
            while True:
                job = await self._jobs.get()
                try:
                    job.done.set_result(await self._change(job))
                except Exception as error:
                    logger.exception("the configuration could not be changed, the old one stays")
                    job.done.set_result(self._refused(job.given, [f"{type(error).__name__}: {error}"]))
                except BaseException:
                    job.done.cancel()
                    raise
        finally:
            while not self._jobs.empty():
                self._jobs.get_nowait().done.cancel()

    async def propose(
        self, given: Propose, *, note: str = "", loaded: LoadedConfig | None = None, again: bool = False, base: str = ""
    ) -> Outcome:
        """Have a configuration serve, or hear why not. Being cancelled changes nothing of what becomes of it.

        loaded: what the text comes to, where that is known already.
        again:  also if it is as it was, because files that it names may have changed.
        base:   a hash of the gateway's own file, if this is what is in it.
        """
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._jobs.put_nowait(_Job(given, note, loaded, again, base, done))
        return await asyncio.shield(done)

    async def reread(self, known: Callable[[str], None] = lambda text: None) -> Outcome:
        """SIGHUP: read the file again. If it is as it was, what serves stays, whoever brought that.

        known: hears what is in it.
        """
        try:
            text = await in_thread(self.reader.text)
        except ConfigError as error:
            return self._refused(Propose(text="", origin="signal"), [str(error)])
        known(text)
        base = hash_of(text)
        if base == self._base:
            given = Propose(text=self.entry.text, name=self.entry.name, origin="signal")
        else:
            given = Propose(text=text, name=str(self.reader.file), origin="signal")
        return await self.propose(given, again=True, base=base)

    async def changed(self, parsed: Parsed) -> None:
        """The file is another one than before."""
        if parsed.error is not None:
            self._refused(Propose(text="", origin="file"), [str(problem) for problem in parsed.error.problems])
        elif parsed.loaded is not None:
            given = Propose(text=parsed.text, name=str(self.reader.file), origin="file")
            await self.propose(given, loaded=parsed.loaded, base=hash_of(parsed.text))

    async def answer(self, question: Question) -> Answer:
        match question:
            case Propose():
                return await self.propose(question)
            case Rollback():
                return await self._roll_back(question)
            case Show():
                return await self._shown(question)
            case ShowHistory():
                past = [_past(entry) for entry in reversed(self._history.entries)]
                return Told(running=self.version, past=past)
            case ShowText(number=number):
                entry = self._history.find(number)
                return Text(text=entry.text, name=entry.name) if entry else _unknown(number)

    async def metrics(self) -> bytes:
        """A snapshot for `merge`."""
        rows: list[tuple[tuple[str, ...], list[float]]] = [
            ((origin,), [float(count)]) for origin, count in self._rejected.items()
        ]
        return msgspec.msgpack.encode(Snapshot({CONFIG_REJECTED.name: rows} if rows else {}))

    # One change

    async def _change(self, job: _Job) -> Outcome:
        given = job.given
        if problem := too_long(given.text):
            return self._refused(given, [problem])
        if given.expected not in ("", self.version):
            problem = f"{given.expected} was to be replaced, but {self.version} serves meanwhile"
            return self._outcome("conflict", problems=[problem])
        if given.given_at and self._said_more_since(given):
            return self._outcome("unchanged")
        try:
            loaded = await self._loaded(job)
        except ConfigError as error:
            return self._refused(given, [str(problem) for problem in error.problems])
        config, warnings = loaded.config, [str(problem) for problem in loaded.warnings]
        if given.origin not in OF_THE_FILE and any(
            len(s) >= _SECRET_CHARS and s in given.text for s in secrets_of(config)
        ):
            warnings.append(
                f"{given.name}: warning: it has secrets in it, and is kept as it is: name variables (${{VAR}})"
            )
        found = differences(self.config, config)
        if given.dry_run:
            return self._outcome("checked", found, warnings)
        named = given.version not in ("", self.version)
        if config == self.config and not named and not (job.again and names_files(config)):
            self._base = job.base or self._base
            self._tell_unchanged(given)
            return self._outcome("unchanged", problems=warnings)
        entry = await self._entry(job, config, found)
        try:
            await self._switch(config, entry)
        except CannotSwitch as error:
            return self._refused(given, [str(error)])
        await self._adopt(job, config, entry)
        for warning in warnings:
            self._console.warn(warning)
        self._tell_applied(given, found)
        return self._outcome("applied", found, warnings)

    def _outcome(self, status: Status, found: Sequence[Difference] = (), problems: Sequence[str] = ()) -> Outcome:
        return Outcome(
            status=status,
            version=self.version,
            base=self._base if self.reader.file is not None else "",
            differences=list(found),
            problems=list(problems),
        )

    def _said_more_since(self, given: Propose) -> bool:
        """Whether what another gateway once had is old news here: it has served, or what serves is newer and does not
        come from the very file that it was applied over."""
        if given.version in {str(entry.version) for entry in self._history.entries}:
            return True
        return self.entry.at >= given.given_at and given.base != self._base

    async def _loaded(self, job: _Job) -> LoadedConfig:
        if job.loaded is not None:
            return job.loaded
        text, name = job.given.text, job.given.name
        return await in_thread(lambda: self.reader.load(text, name))

    async def _entry(self, job: _Job, config: Config, found: list[Difference]) -> Entry:
        given = job.given
        if config == self.config and not given.version:
            return self.entry
        if given.version:
            number, _, digest = given.version.partition("-")
            version = Version(int(number), digest)
        else:
            version = Version(await in_thread(self._history.next_number), digest_of(config, self._history.salt))
        return Entry(
            version=version,
            at=wall_time_s(),
            origin=given.origin,
            who=given.who,
            text=given.text,
            name=given.name,
            file=self.reader.name,
            base=job.base or self._base,
            note=job.note,
            differences=found,
        )

    async def _adopt(self, job: _Job, config: Config, entry: Entry) -> None:
        fresh = entry is not self.entry
        self.config, self.entry, self._base = config, entry, job.base or self._base
        if fresh:
            await in_thread(lambda: self._history.add(entry))

    async def _roll_back(self, asked: Rollback) -> Answer:
        entry = self._before() if asked.number is None else self._history.find(asked.number)
        if entry is None:
            return _unknown(asked.number)
        given = Propose(
            text=entry.text,
            name=entry.name,
            who=asked.who,
            origin=asked.origin,
            dry_run=asked.dry_run,
            expected=asked.expected,
        )
        return await self.propose(given, note=f"back to {entry.version}")

    def _before(self) -> Entry | None:
        """What served before that which serves, as far as it was another one."""
        found = False
        for entry in reversed(self._history.entries):
            if found and entry.version.digest != self.entry.version.digest:
                return entry
            found = found or entry.version == self.entry.version
        return None

    # What is told

    async def _shown(self, asked: Show) -> Shown:
        entry = self.entry
        text = to_yaml(effective(self.config)) if asked.effective else ""
        beside = await in_thread(self._beside) if self.reader.file is not None else ""
        return Shown(
            version=self.version,
            at=entry.at,
            origin=entry.origin,
            who=entry.who,
            name=entry.name,
            file=self.reader.name,
            beside=beside,
            effective=text,
        )

    def _beside(self) -> str:
        file = self.reader.file
        try:
            text = self.reader.text()
            if self.reader.load_file(text).config == self.config:
                return ""
        except ConfigError as error:
            return f"{file} is not usable, so that it does not serve: {error.problems[0]}"
        if hash_of(text) == self._base:
            return (
                f"{file} is as it was when this was applied over it, and does not serve; a change of it replaces this"
            )
        if not self.config.server.watch_config:
            return f"{file} has changed, and is read on SIGHUP (server.watch_config is false)"
        return f"{file} has changed, and does not serve, or not yet; the log says why"

    def _refused(self, given: Propose, problems: list[str]) -> Outcome:
        if not given.dry_run:
            self._rejected[given.origin] += 1
            listed = "\n".join(problems)
            apart = "\n" if len(problems) > 1 else " "
            self._console.fail(f"{self._label(given)}: the configuration is refused, the old one stays:{apart}{listed}")
        return self._outcome("refused", problems=problems)

    def _tell_unchanged(self, given: Propose) -> None:
        if given.origin == "signal":
            self._console.tell("SIGHUP: log files are opened anew; the configuration is as it was")
        elif given.origin != "database":
            self._console.tell(f"{self._label(given)}: the configuration is as it was, {self.version}")

    def _tell_applied(self, given: Propose, found: list[Difference]) -> None:
        changed = summary(found, SHOWN_CHANGES) if found else "nothing differs but files that it names"
        self._console.tell(
            f"{self._label(given)}: the new configuration serves as {self.version}; the old workers finish what they "
            f"have begun; {changed}"
        )

    def _label(self, given: Propose) -> str:
        match given.origin:
            case "signal":
                return "SIGHUP"
            case "file":
                return f"{self.reader.file} has changed"
            case "database":
                return f"{given.name} from another gateway{_by(given.who)}"
            case "api":
                return f"{given.name} through the admin API{_by(given.who)}"
            case _:
                return f"{given.name}{_by(given.who)}"


def names_files(config: Config) -> bool:
    """Whether it leans on files that may have changed under the same names."""
    return config.server.tls is not None or any(pool.engine.ca_file for pool in config.pools.values())


def too_long(text: str) -> str:
    """Why a text is not taken; empty: it is."""
    size = len(text.encode("utf-8", "surrogatepass"))
    return (
        f"the configuration is {size} bytes long; at most {MAX_TEXT_BYTES} are taken" if size > MAX_TEXT_BYTES else ""
    )


def _past(entry: Entry) -> Past:
    return Past(
        version=str(entry.version),
        at=entry.at,
        origin=entry.origin,
        who=entry.who,
        name=entry.name,
        note=entry.note,
        differences=entry.differences,
    )


def _unknown(number: int | None) -> Failed:
    if number is None:
        return Failed(message="nothing else has served before; `headrace config history` lists what has")
    return Failed(message=f"there is no version {number} any more; `headrace config history` lists those that are kept")


def _by(who: str) -> str:
    return f", by {who}" if who else ""
