"""`headrace keys`, `tenants`, `teams`, `service-accounts` and `audit`, as people call them."""

from __future__ import annotations

import json
import os
import pwd
import re
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from gateway.database import open_database
from gateway.directory.store import Directory
from gateway.directory.tables import audit
from gateway.keys import digest_of
from tests.gateway.test_cli import Answer, in_a_terminal

KEY = re.compile(r"sk-hr-([0-9a-f]{12})-[A-Za-z0-9_-]{43}\n")


class Shell:
    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self.config = folder / "headrace.yaml"
        self.config.write_text(
            "pools: {p: {urls: [http://a]}}\ndeployments: {m: {variants: {v: {pools: [p]}}}}\n"
            f"database: {{url: {json.dumps(url)}}}\n",
            encoding="utf-8",
        )

    def __call__(self, *arguments: str) -> Answer:
        return Answer(*arguments, env={"HEADRACE_CONFIG": str(self.config)})

    def fine(self, *arguments: str) -> Answer:
        answer = self(*arguments)
        assert answer.status == 0, answer.err
        return answer

    def json(self, *arguments: str) -> Any:
        return json.loads(self.fine(*arguments, "--json").out)

    def key(self, *arguments: str) -> str:
        """The id of a new one."""
        found = KEY.fullmatch(self.fine("keys", "create", *arguments).out)
        assert found is not None
        return found[1]


@pytest.fixture
def shell(database_url: str, tmp_path: Path) -> Shell:
    return Shell(tmp_path, database_url)


@pytest.fixture
def acme(shell: Shell) -> Shell:
    shell.fine("tenants", "create", "acme")
    shell.fine("teams", "create", "research", "--tenant", "acme")
    shell.fine("service-accounts", "create", "bot", "--tenant", "acme", "--description", "at night")
    return shell


def test_a18_a_new_key_is_all_of_standard_output_and_what_is_to_know_goes_to_standard_error(acme: Shell) -> None:
    answer = acme.fine("keys", "create", "search", "--tenant", "acme", "--team", "research")
    found = KEY.fullmatch(answer.out)
    assert found is not None
    assert answer.err == f"the key {found[1]}, 'search' of acme: it is shown this once, and cannot be read again\n"
    database = open_database(acme.url)
    snapshot = Directory(database).snapshot()
    database.close()
    assert [entry.digest for entry in snapshot.keys] == [digest_of(answer.out.strip(), snapshot.salt)]
    secret = answer.out[19:].strip()
    for command in (["keys", "list"], ["keys", "show", found[1]], ["audit", "list"], ["audit", "export"]):
        assert secret not in acme.fine(*command).out


def test_a_key_with_everything(acme: Shell) -> None:
    made = acme.json(
        *("keys", "create", "search", "--tenant", "acme", "--team", "research", "--service-account", "bot"),
        *("--deployment", "llama", "--deployment", "qwen", "--network", "10.0.0.0/8", "--expires", "2031-01-31"),
        *("--limit", "tokens_per_minute=1000", "--limit", "usd_per_month=12.5", "--sensitivity", "internal"),
        *("--metadata", "ticket=X-1"),
    )
    record = made["record"]
    assert made["key"].startswith(f"sk-hr-{record['id']}-")
    assert record == acme.json("keys", "show", record["id"])
    assert {
        "team": "research",
        "service_account": "bot",
        "deployments": ["llama", "qwen"],
        "networks": ["10.0.0.0/8"],
        "limits": {"tokens_per_minute": 1000, "usd_per_month": "12.5"},
        "sensitivity": "internal",
        "metadata": {"ticket": "X-1"},
        "expires_at": "2031-01-31T00:00:00.000000Z",
        "state": "active",
    }.items() <= record.items()
    shown = acme.fine("keys", "show", record["id"]).out
    assert re.search(r"deployments +llama qwen", shown)
    assert re.search(r"limits +tokens_per_minute=1000 usd_per_month=12.5", shown)


def test_the_first_key_of_the_admin_api_needs_no_organisation(shell: Shell) -> None:
    made = shell.json("keys", "create", "root", "--role", "admin")["record"]
    assert (made["role"], made["organisation"]) == ("admin", None)
    assert "'root' with the role admin" in shell.fine("keys", "revoke", made["id"]).err


def test_an_update_changes_what_is_given_and_takes_away_what_is_empty(acme: Shell) -> None:
    key = acme.key("a", "--tenant", "acme", "--team", "research", "--deployment", "llama", "--limit", "parallel=2")
    given = ("--deployment", "", "--team", "", "--expires", "90d", "--limit", "requests_per_day=5", "--metadata", "x=y")
    found = acme.json("keys", "update", key, "--name", "b", *given)
    assert (found["name"], found["deployments"], found["team"]) == ("b", None, None)
    assert (found["limits"], found["metadata"]) == ({"parallel": 2, "requests_per_day": 5}, {"x": "y"})
    assert found["expires_at"] is not None
    found = acme.json("keys", "update", key, "--expires", "never", "--limit", "parallel=none", "--metadata", "x=")
    assert (found["expires_at"], found["limits"], found["metadata"]) == (None, {"requests_per_day": 5}, {})


def test_rotation_prints_the_new_key_and_says_how_long_the_old_one_lasts(acme: Shell) -> None:
    old = acme.key("search", "--tenant", "acme")
    answer = acme.fine("keys", "rotate", old, "--grace", "2h")
    new = KEY.fullmatch(answer.out)
    assert new is not None
    assert re.search(rf"the old key {old} is taken until 20[-0-9T:.]+Z", answer.err)
    listed = acme.fine("keys", "list", "--tenant", "acme").out
    assert re.search(rf"{old} +search +acme +active, replaced +20", listed)
    revoked = acme.fine("keys", "revoke", new[1])
    assert f"the key {old}, in whose place it came, is taken until" in revoked.err
    assert acme("keys", "rotate", old).status == 1
    other = acme.key("other", "--tenant", "acme")
    assert f"the old key {other} was revoked at" in acme.fine("keys", "rotate", other, "--grace", "0").err


def test_a_revoked_key_is_in_no_list_but_that_of_the_revoked(acme: Shell) -> None:
    key = acme.key("a", "--tenant", "acme")
    assert acme.json("keys", "revoke", key)["state"] == "revoked"
    assert f"the key {key}, 'a' of acme, was revoked at" in acme.fine("keys", "revoke", key).err
    for state, count in (("active", 0), ("expired", 0), ("revoked", 1), ("all", 1)):
        assert len(acme.json("keys", "list", "--state", state)["keys"]) == count


def test_in_a_terminal_a_revocation_is_asked_about(acme: Shell) -> None:
    key = acme.key("a", "--tenant", "acme")
    command = ("keys", "revoke", key, "-c", str(acme.config))
    shown = in_a_terminal(*command, typed=b"n\n")
    assert f"Revoke the key {key}, 'a' of acme? [y/N]" in shown
    assert acme.json("keys", "show", key)["state"] == "active"
    assert "is revoked" in in_a_terminal(*command, typed=b"y\n")
    other = acme.key("b", "--tenant", "acme")
    assert "[y/N]" not in in_a_terminal("keys", "revoke", other, "--yes", "-c", str(acme.config))
    assert acme.json("keys", "show", other)["state"] == "revoked"


def test_organisations_teams_and_service_accounts_are_made_changed_listed_and_disabled(acme: Shell) -> None:
    given = ("--limit", "usd_per_day=5", "--weight", "2", "--priority", "1", "--when-store-lost", "closed")
    found = acme.json("tenants", "update", "acme", *given, "--log-content", "0.5", "--metadata", "crm=7")
    assert {"weight": 2.0, "priority": 1, "when_store_lost": "closed", "log_content": 0.5}.items() <= found.items()
    assert (found["limits"], found["metadata"]) == ({"usd_per_day": "5"}, {"crm": "7"})
    assert acme.fine("tenants", "disable", "acme").err == "the organisation 'acme' is disabled\n"
    assert re.search(r"acme +disabled +2 +1 +closed +0.5 +usd_per_day=5", acme.fine("tenants", "list").out)
    assert acme.json("tenants", "enable", "acme")["disabled"] is False
    assert [one["name"] for one in acme.json("tenants", "list")["organisations"]] == ["acme"]

    of = ("--tenant", "acme")
    assert acme.json("teams", "update", "research", *of, "--limit", "parallel=2")["limits"] == {"parallel": 2}
    assert acme.fine("teams", "disable", "research", *of).err == "the team 'research' is disabled\n"
    assert re.search(r"acme +research +disabled +parallel=2", acme.fine("teams", "list").out)
    assert acme.json("teams", "enable", "research", *of)["disabled"] is False
    assert acme.json("teams", "list", "--tenant", "other") == {"teams": []}

    assert acme.json("service-accounts", "update", "bot", *of, "--description", "by day")["description"] == "by day"
    assert "the service account 'bot' is disabled" in acme.fine("service-accounts", "disable", "bot", *of).err
    assert re.search(r"acme +bot +disabled +by day", acme.fine("service-accounts", "list").out)
    assert acme.json("service-accounts", "enable", "bot", *of)["disabled"] is False
    assert len(acme.json("service-accounts", "list", *of)["service_accounts"]) == 1


def test_the_audit_log_names_who_typed_and_where(acme: Shell) -> None:
    key = acme.key("a", "--tenant", "acme")
    acme.fine("keys", "update", key, "--sensitivity", "secret")
    entry = acme.json("audit", "list", "-n", "1")["entries"][0]
    assert entry["actor"] == f"os:{pwd.getpwuid(os.getuid()).pw_name}"
    assert (entry["address"], entry["action"], entry["subject"]) == (socket.gethostname(), "key.update", key)
    shown = acme.fine("audit", "list", "--subject", key).out
    assert "sensitivity=→secret" in shown
    assert re.search(r"key.create +acme +[0-9a-f]{12} +id=[0-9a-f]{12} name=a organisation=acme", shown)
    assert acme.json("audit", "list", "--since", "2999-01-01") == {"entries": []}
    assert len(acme.json("audit", "list", "--until", "2999-01-01", "--tenant", "acme")["entries"]) == 5
    assert acme.json("audit", "list", "--action", "key.create", "--actor", "os:nobody-here")["entries"] == []


def test_an_audit_log_that_was_changed_fails_its_verification(acme: Shell) -> None:
    whole = acme.fine("audit", "verify")
    assert "the log is whole, 3 entries" in whole.err
    assert re.fullmatch(r"3:[0-9a-f]{64}\n", whole.out)
    acme.key("a", "--tenant", "acme")
    assert acme.fine("audit", "verify", "--anchor", whole.out).status == 0
    broken = acme("audit", "verify", "--anchor", f"3:{'0' * 64}")
    assert (broken.status, "the log is broken at entry 3" in broken.err) == (1, True)
    database = open_database(acme.url)
    with database.write() as connection:
        connection.execute(update(audit).where(audit.c.seq == 2).values(actor="os:nobody"))
    database.close()
    assert "broken at entry 2: its content does not have its hash: it was changed" in acme("audit", "verify").err
    answer = acme("audit", "verify", "--json")
    assert (answer.status, json.loads(answer.out)["broken_at"]) == (1, 2)


def test_the_audit_log_is_exported_as_json_lines_to_a_new_private_file(acme: Shell, tmp_path: Path) -> None:
    lines = acme.fine("audit", "export").out.splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [1, 2, 3]
    file = tmp_path / "audit.jsonl"
    assert "3 entries are in" in acme.fine("audit", "export", "-o", str(file)).err
    assert file.read_text(encoding="utf-8").splitlines() == lines
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = acme("audit", "export", "-o", str(file))
    assert (again.status, again.err) == (1, f"{file}: File exists\n")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["keys", "create", "a"], 1, "organisation is missing: a key for model calls belongs to one"),
        (["keys", "create", "a", "--tenant", "acne"], 1, 'there is no organisation "acne" (did you mean "acme"?)'),
        (["keys", "create", "a\r\nx: y", "--tenant", "acme"], 1, r'name: "a\r\nx: y" is not a name'),
        (["keys", "create", "a", "--tenant", "acme", "--network", "10.0.0.1/8"], 1, "has host bits set"),
        (["keys", "create", "a", "--tenant", "acme", "--limit", "parallel=0"], 1, "limits.parallel: "),
        (["keys", "create", "a", "--tenant", "acme", "--limit", "parallels=1"], 2, 'did you mean "parallel"'),
        (["keys", "create", "a", "--tenant", "acme", "--limit", "parallel"], 2, "is not of the form NAME=VALUE"),
        (["keys", "create", "a", "--tenant", "acme", "--expires", "soon"], 2, "'soon' is no date"),
        (["keys", "create", "a", "--tenant", "acme", "--expires", "2001-01-01"], 1, "has passed"),
        (["keys", "show", "x"], 1, "name it by its id, 12 hex digits"),
        (["keys", "rotate", "0123456789ab"], 1, "there is no key 0123456789ab"),
        (["keys", "rotate", "0123456789ab", "--grace", "a day"], 2, "'a day' is no time: write 90d, 24h, 15m or 30s"),
        (["keys", "rotate", "0123456789ab", "--grace", "31d"], 1, "a grace of 2,678,400 s is not taken"),
        (["tenants", "create", "acme"], 1, "there is an organisation 'acme' already"),
        (["tenants", "update", "acme", "--weight", "0"], 1, "weight: 0.0 is not taken: input should be greater than 0"),
        (["teams", "create", "research", "--tenant", "acme"], 1, "already in the organisation 'acme'"),
        (["audit", "verify", "--anchor", "3"], 2, "is not of the form NUMBER:HASH"),
    ],
)
def test_what_is_refused_is_told_in_a_sentence(acme: Shell, arguments: list[str], status: int, said: str) -> None:
    answer = acme(*arguments)
    assert answer.status == status
    assert said in " ".join(re.sub(r"[│╭╮╰╯─]", " ", answer.err).split())
    assert answer.out == ""


def test_without_a_database_the_section_to_add_is_named(tmp_path: Path) -> None:
    file = tmp_path / "headrace.yaml"
    file.write_text("pools: {p: {urls: [http://a]}}\ndeployments: {m: {variants: {v: {pools: [p]}}}}\n")
    answer = Answer("tenants", "list", "-c", str(file))
    assert (answer.status, "add `database: {url: sqlite:///headrace.db}`" in answer.err) == (1, True)
    answer = Answer("keys", "list", "-c", str(tmp_path / "none.yaml"))
    assert (answer.status, "cannot be read" in answer.err) == (1, True)


def test_a_database_that_is_away_is_told_without_its_password(tmp_path: Path) -> None:
    shell = Shell(tmp_path, f"postgresql://me:planted-password@/name?host={tmp_path}")
    answer = shell("keys", "list")
    assert (answer.status, "No such file or directory" in answer.err) == (1, True)
    assert "planted-password" not in answer.err
