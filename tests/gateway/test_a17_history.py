"""A17: configurations are remembered, and have versions that tell nothing of their secrets."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from gateway.config import Config
from gateway.config.history import KEPT, Entry, History
from gateway.config.live import Origin
from gateway.config.load import parse_config
from gateway.config.version import Version, digest_of

SALT = b"0" * 32


def entry(number: int, origin: Origin = "file", **more: object) -> Entry:
    given = {"at": float(number), "who": "", "text": f"# {number}\n", "name": "headrace.yaml"} | more
    return Entry(version=Version(number, f"{number:012x}"), origin=origin, **given)  # type: ignore[arg-type]


def test_equal_configurations_have_equal_digests_however_they_are_written() -> None:
    one = parse_config("server: {port: 1}\npools: {b: {urls: ['http://b']}, a: {urls: ['http://a']}}")
    two = parse_config("pools:\n  a: {urls: ['http://a/v1']}\n  b: {urls: ['http://b']}\nserver:\n  port: 1")
    assert digest_of(one, SALT) == digest_of(two, SALT)
    assert len(digest_of(one, SALT)) == 12


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("server: {port: 1}", "server: {port: 2}"),
        ("auth: {keys: [{name: a, key: one-secret}]}", "auth: {keys: [{name: a, key: another-secret}]}"),
        ("redis: {url: 'redis://:a@h'}", "redis: {url: 'redis://:b@h'}"),
    ],
)
def test_whatever_differs_changes_the_digest_secrets_too(one: str, other: str) -> None:
    assert digest_of(parse_config(one), SALT) != digest_of(parse_config(other), SALT)


def test_without_the_salt_nobody_can_try_out_guesses_at_a_secret() -> None:
    config = parse_config("auth: {keys: [{name: a, key: one-secret}]}")
    assert digest_of(config, SALT) != digest_of(config, b"1" * 32)


def test_the_history_outlives_the_process_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "config-history"
    history = History(folder)
    history.add(entry(1))
    history.add(entry(2))
    again = History(folder)
    assert again.entries == [entry(1), entry(2)]
    assert again.salt == history.salt
    assert again.next_number() == 3
    assert again.find(1) == entry(1)
    assert again.find(9) is None
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


def test_gateways_that_share_a_folder_share_its_numbers_and_nothing_else(tmp_path: Path) -> None:
    one, other = History(tmp_path, "/one.yaml"), History(tmp_path, "/other.yaml")
    one.add(entry(1, file="/one.yaml"))
    assert other.next_number() == 2
    other.add(entry(2, file="/other.yaml"))
    assert one.next_number() == 3
    assert [one.version.number for one in History(tmp_path, "/one.yaml").entries] == [1]
    assert [one.version.number for one in History(tmp_path, "/other.yaml").entries] == [2]


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    history = History(tmp_path)
    for number in range(1, KEPT + 11):
        history.add(entry(number))
    kept = list(range(11, KEPT + 11))
    assert [one.version.number for one in history.entries] == kept
    assert [one.version.number for one in History(tmp_path).entries] == kept
    assert len(list(tmp_path.glob("*.json"))) == KEPT


def test_a_file_that_cannot_be_read_costs_that_entry_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    history = History(tmp_path)
    history.add(entry(1))
    (tmp_path / "00000002-abc.json").write_text("{half")
    (tmp_path / "notes.json").write_text("{}")
    again = History(tmp_path)
    assert again.entries == [entry(1)]
    assert "00000002-abc.json is left out" in caplog.text
    assert again.next_number() == 3


def test_a_folder_that_cannot_be_written_is_no_reason_not_to_serve(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    history = History(tmp_path / "file" / "history")
    history.add(entry(1))
    assert history.newest == entry(1)
    assert caplog.text.count("remembered until the end of this process only") == 1


def test_what_variables_held_is_not_kept(tmp_path: Path) -> None:
    text = "auth: {salt: '${SALT_OF_TEST}'}\n"
    assert parse_config(text, env={"SALT_OF_TEST": "very-secret"}).auth.salt.get_secret_value() == "very-secret"
    history = History(tmp_path)
    history.add(entry(1, text=text))
    (kept,) = tmp_path.glob("*.json")
    assert json.loads(kept.read_text())["text"] == text


@pytest.mark.parametrize(
    ("origin", "file", "base", "outlives"),
    [
        ("socket", "/a", "1", True),
        ("api", "/a", "1", True),
        ("database", "/a", "1", True),
        ("file", "/a", "1", False),
        ("api", "/b", "1", False),
        ("api", "/a", "2", False),
        ("api", "", "1", False),
    ],
)
def test_what_was_applied_outlives_a_restart_while_the_file_is_as_it_was(
    origin: Origin, file: str, base: str, outlives: bool
) -> None:
    assert entry(1, origin, file=file, base=base).outlives("/a", "1") is outlives


def test_defaults_have_a_digest() -> None:
    assert digest_of(Config(), SALT)


def test_what_others_could_have_written_is_not_gone_by(tmp_path: Path) -> None:
    """Or whoever is first in a shared folder says what serves."""
    folder = tmp_path / "history"
    History(folder).add(entry(1))
    assert [one.version.number for one in History(folder).entries] == [1]
    folder.chmod(0o777)
    assert History(folder).entries == []
