"""A17: the one way in for configurations, without the processes: what is refused, remembered and taken back."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config import Config
from gateway.config.history import Entry
from gateway.config.live import (
    MAX_TEXT_BYTES,
    Answer,
    Failed,
    History,
    Outcome,
    Propose,
    Question,
    Rollback,
    Show,
    ShowHistory,
    Shown,
    ShowText,
    Text,
)
from gateway.process.banner import Console
from gateway.process.beginning import Beginning, Reader
from gateway.process.live_config import CannotSwitch, LiveConfig
from gateway.telemetry import merge, render


def text_of(idle_s: int, more: str = "") -> str:
    return f"server: {{port: 1, idle_timeout_s: {idle_s}}}\n{more}"


class Rig:
    """A live configuration whose workers are a list: what they were told to serve."""

    def __init__(self, folder: Path, overrides: dict[Any, object] | None = None) -> None:
        self.file = folder / "headrace.yaml"
        if not self.file.exists():
            self.file.write_text(text_of(1))
        self.served: list[tuple[float, str]] = []
        self.fails = ""
        self.said = io.StringIO()
        reader = Reader(self.file, overrides or {})
        config = reader.load_file(self.file.read_text()).config
        beginning = Beginning.of(config, reader, folder / "config-history")
        self.live = LiveConfig(beginning, self._switch, Console("pretty", self.said))

    async def _switch(self, config: Config, entry: Entry) -> None:
        if self.fails:
            raise CannotSwitch(self.fails)
        self.served.append((config.server.idle_timeout_s, str(entry.version)))

    @property
    def idle_s(self) -> float:
        return self.live.config.server.idle_timeout_s

    async def outcome(self, question: Question) -> Outcome:
        answer: Answer = await self.live.answer(question)
        assert isinstance(answer, Outcome), answer
        return answer

    async def apply(self, idle_s: int, **more: Any) -> Outcome:
        return await self.outcome(Propose(text=text_of(idle_s), name="new.yaml", who="ops", **more))

    async def shown(self) -> Shown:
        answer = await self.live.answer(Show(effective=True))
        assert isinstance(answer, Shown)
        return answer

    async def versions(self) -> list[str]:
        answer = await self.live.answer(ShowHistory())
        assert isinstance(answer, History)
        return [one.version for one in answer.past]


@asynccontextmanager
async def running(folder: Path, overrides: dict[Any, object] | None = None) -> AsyncIterator[Rig]:
    rig = await asyncio.to_thread(Rig, folder, overrides)
    await rig.live.begun()
    task = asyncio.create_task(rig.live.run())
    try:
        yield rig
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def test_a_change_takes_the_next_number_and_is_remembered_with_who_and_what(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        assert rig.live.version.startswith("1-")
        outcome = await rig.apply(2)
        assert outcome.status == "applied"
        assert outcome.version.startswith("2-")
        assert rig.served == [(2.0, outcome.version)]
        history = await rig.live.answer(ShowHistory())
        assert isinstance(history, History)
        assert history.running == outcome.version
        newest = history.past[0]
        assert (newest.version, newest.who, newest.origin, newest.name) == (
            outcome.version,
            "ops",
            "socket",
            "new.yaml",
        )
        assert [str(one) for one in newest.differences] == ["server.idle_timeout_s: 1.0 → 2.0"]
        assert await rig.live.answer(ShowText(number=2)) == Text(text=text_of(2), name="new.yaml")


async def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        outcome = await rig.apply(2, dry_run=True)
        assert outcome.status == "checked"
        assert [one.key for one in outcome.differences] == ["server.idle_timeout_s"]
        refused = await rig.outcome(Propose(text="servers: {}", dry_run=True))
        assert refused.status == "refused"
        assert (rig.served, rig.idle_s, len(await rig.versions())) == ([], 1.0, 1)
        assert "headrace_config_rejected_total{" not in await metrics_of(rig)


async def metrics_of(rig: Rig) -> str:
    return render(merge([await rig.live.metrics()]), "").body.decode()


async def test_a_bad_one_is_refused_with_every_place_and_counted(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        outcome = await rig.outcome(Propose(text="server: {prot: 1}\npool: {}\n", name="new.yaml", origin="api"))
        assert outcome.status == "refused"
        assert [problem.partition(" ")[0] for problem in outcome.problems] == ["new.yaml:1:10:", "new.yaml:2:1:"]
        assert (rig.served, rig.idle_s) == ([], 1.0)
        assert 'headrace_config_rejected_total{origin="api"} 1.0' in await metrics_of(rig)


async def test_one_that_cannot_serve_is_refused_as_well(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        rig.fails = "worker 0 could not start: no"
        outcome = await rig.apply(2)
        assert (outcome.status, outcome.problems) == ("refused", [rig.fails])
        assert (rig.idle_s, len(await rig.versions())) == (1.0, 1)


async def test_one_that_comes_to_the_same_takes_no_version(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        outcome = await rig.outcome(Propose(text=text_of(1, "# a comment\n")))
        assert outcome.status == "unchanged"
        assert (rig.served, len(await rig.versions())) == ([], 1)


async def test_what_somebody_else_changed_meanwhile_is_not_undone_unseen(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        seen = rig.live.version
        await rig.apply(2)
        outcome = await rig.apply(3, expected=seen)
        assert outcome.status == "conflict"
        assert outcome.problems == [f"{seen} was to be replaced, but {rig.live.version} serves meanwhile"]
        assert rig.idle_s == 2.0


async def test_changes_that_come_together_are_made_one_after_the_other(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        outcomes = await asyncio.gather(*(rig.apply(idle_s) for idle_s in range(2, 8)))
        assert [outcome.version.partition("-")[0] for outcome in outcomes] == ["2", "3", "4", "5", "6", "7"]
        assert [idle_s for idle_s, _ in rig.served] == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


async def test_one_that_is_too_long_is_refused_with_the_limit(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        outcome = await rig.outcome(Propose(text=text_of(2) + "#" * MAX_TEXT_BYTES))
        assert outcome.status == "refused"
        assert f"at most {MAX_TEXT_BYTES} are taken" in outcome.problems[0]


async def test_a_secret_in_the_text_itself_is_warned_of_and_not_repeated(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        text = text_of(2, "auth: {keys: [{name: a, key: sk-0123456789}]}\n")
        outcome = await rig.outcome(Propose(text=text, name="new.yaml"))
        assert outcome.status == "applied"
        assert any("it has secrets in it" in problem for problem in outcome.problems)
        shown = await rig.shown()
        assert "sk-0123456789" not in f"{outcome} {shown} {await rig.live.answer(ShowHistory())} {rig.said.getvalue()}"


# Back


async def test_a_rollback_brings_back_what_served_before_under_a_version_of_its_own(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        first = rig.live.version
        await rig.apply(2)
        outcome = await rig.outcome(Rollback(who="ops"))
        assert rig.idle_s == 1.0
        number, _, digest = outcome.version.partition("-")
        assert (number, digest) == ("3", first.partition("-")[2])
        history = await rig.live.answer(ShowHistory())
        assert isinstance(history, History)
        assert history.past[0].note == f"back to {first}"


async def test_a_second_rollback_takes_the_first_one_back(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.apply(2)
        await rig.outcome(Rollback())
        await rig.outcome(Rollback())
        assert rig.idle_s == 2.0


async def test_a_rollback_to_any_version_that_is_kept(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        for idle_s in (2, 3, 4):
            await rig.apply(idle_s)
        await rig.outcome(Rollback(number=2))
        assert rig.idle_s == 2.0
        unknown = await rig.live.answer(Rollback(number=99))
        assert isinstance(unknown, Failed)
        assert "no version 99" in unknown.message


async def test_where_nothing_served_before_there_is_nothing_to_go_back_to(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        answer = await rig.live.answer(Rollback())
        assert isinstance(answer, Failed)
        assert "nothing else has served before" in answer.message
        assert isinstance(await rig.live.answer(ShowText(number=7)), Failed)


# File and applied: the last word counts


async def test_a_change_of_the_file_replaces_what_was_applied_over_it(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.apply(2)
        shown = await rig.shown()
        assert "is as it was when this was applied over it, and does not serve" in shown.beside
        rig.file.write_text(text_of(3))
        outcome = await rig.live.reread()
        assert (outcome.status, rig.idle_s) == ("applied", 3.0)
        shown = await rig.shown()
        assert (shown.origin, shown.beside) == ("signal", "")


async def test_a_sighup_for_the_log_files_leaves_what_was_applied_over_the_file(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.apply(2)
        outcome = await rig.live.reread()
        assert (outcome.status, rig.idle_s) == ("unchanged", 2.0)


async def test_what_was_applied_serves_again_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        version = (await rig.apply(2)).version
    async with running(tmp_path) as rig:
        assert (rig.idle_s, rig.live.version) == (2.0, version)
        assert len(await rig.versions()) == 2


async def test_after_a_restart_a_file_that_was_changed_meanwhile_serves(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.apply(2)
        rig.file.write_text(text_of(3))
    async with running(tmp_path) as rig:
        assert rig.idle_s == 3.0
        assert rig.live.version.startswith("3-")


async def test_a_restart_without_a_change_keeps_the_version(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        version = rig.live.version
    async with running(tmp_path) as rig:
        assert rig.live.version == version
        assert len(await rig.versions()) == 1


async def test_what_is_not_usable_any_more_after_a_restart_gives_way_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("IDLE_OF_TEST", "5")
    async with running(tmp_path) as rig:
        await rig.outcome(Propose(text="server: {port: 1, idle_timeout_s: '${IDLE_OF_TEST}'}\n", name="new.yaml"))
        assert rig.idle_s == 5.0
    monkeypatch.delenv("IDLE_OF_TEST")
    async with running(tmp_path) as rig:
        assert rig.idle_s == 1.0
    assert "new.yaml" in caplog.text
    assert "IDLE_OF_TEST" in caplog.text


async def test_a_bad_file_on_sighup_is_refused_and_shown(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        rig.file.write_text("servers: {}\n")
        assert (await rig.live.reread()).status == "refused"
        assert "is not usable, so that it does not serve" in (await rig.shown()).beside
        rig.file.unlink()
        assert (await rig.live.reread()).status == "refused"


async def test_a_file_that_waits_for_a_sighup_is_said_to(tmp_path: Path) -> None:
    async with running(tmp_path, {("server", "watch_config"): False}) as rig:
        rig.file.write_text(text_of(3))
        assert "is read on SIGHUP (server.watch_config is false)" in (await rig.shown()).beside


async def test_what_the_command_line_says_holds_for_whatever_is_applied(tmp_path: Path) -> None:
    async with running(tmp_path, {("server", "workers"): 7}) as rig:
        await rig.apply(2)
        assert (rig.live.config.server.workers, rig.idle_s) == (7, 2.0)


# From other gateways


async def test_another_gateways_version_keeps_its_name(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        outcome = await rig.apply(2, origin="database", version="41-abcdefabcdef")
        assert outcome.version == "41-abcdefabcdef"
        assert (await rig.apply(3)).version.startswith("42-")


async def test_the_same_configuration_under_another_gateways_version_takes_its_name(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        outcome = await rig.apply(1, origin="database", version="41-abcdefabcdef")
        assert (outcome.status, rig.live.version) == ("applied", "41-abcdefabcdef")


@pytest.mark.parametrize(
    ("given_at", "base", "taken"),
    [(1.0, "another file", False), (1.0, "", True), (1e12, "another file", True)],
    ids=["older than ours, over another file", "over our very file", "newer than ours"],
)
async def test_old_news_of_other_gateways_are_taken_only_if_this_one_has_said_nothing_since(
    tmp_path: Path, given_at: float, base: str, taken: bool
) -> None:
    async with running(tmp_path) as rig:
        own = (await rig.apply(1)).base
        news = {"origin": "database", "version": "41-abcdefabcdef", "given_at": given_at, "base": base or own}
        outcome = await rig.apply(2, **news)
        assert outcome.status == ("applied" if taken else "unchanged")
        await rig.apply(3)
        again = await rig.apply(2, **news)
        assert again.status == ("unchanged" if taken or base else "applied")


async def test_every_question_and_answer_survives_the_wire(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        questions: list[Question] = [
            Show(effective=True),
            ShowHistory(),
            ShowText(number=1),
            Rollback(),
            Propose(text=""),
        ]
        for question in questions:
            assert msgspec.json.decode(msgspec.json.encode(question), type=Question) == question
            answer = await rig.live.answer(question)
            assert msgspec.json.decode(msgspec.json.encode(answer), type=Answer) == answer


async def test_without_a_file_the_first_configuration_is_kept_as_a_text(tmp_path: Path) -> None:
    served: list[Config] = []

    async def switch(config: Config, entry: Entry) -> None:
        served.append(config)

    config = Config.model_validate({"server": {"port": 5}})
    beginning = await asyncio.to_thread(Beginning.of, config, Reader(None, {}), tmp_path / "config-history")
    live = LiveConfig(beginning, switch, Console("pretty", io.StringIO()))
    await live.begun()
    task = asyncio.create_task(live.run())
    await live.propose(Propose(text=text_of(2)))
    await live.answer(Rollback())
    assert served[-1] == config
    task.cancel()
    await asyncio.wait((task,))


async def test_whoever_waits_when_the_gateway_stops_hears_so(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        started, never = asyncio.Event(), asyncio.Event()

        async def hang(config: Config, entry: Entry) -> None:
            started.set()
            await never.wait()

        rig.live._switch = hang
        waiting = [asyncio.create_task(rig.apply(idle_s)) for idle_s in (2, 3)]
        await started.wait()
    for task in waiting:
        with pytest.raises(asyncio.CancelledError):
            await task
