"""What workers hear of the directory: a snapshot, and changes that make the next one of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, update

from gateway.database import Database, open_database
from gateway.directory.api_keys import KeyFilter
from gateway.directory.entries import Changes, KeyEntry, OrganisationEntry, Snapshot, TeamEntry
from gateway.directory.problems import Refused
from gateway.directory.specs import (
    KeySettings,
    KeySpec,
    OrganisationSettings,
    OrganisationSpec,
    ServiceAccountSettings,
    ServiceAccountSpec,
    TeamSettings,
    TeamSpec,
)
from gateway.directory.store import Directory
from gateway.directory.tables import heads, keys
from tests.gateway.directory.conftest import ALICE, Wall

Step = Callable[[Directory, Wall], object]
Contents = tuple[dict[str, OrganisationEntry], dict[tuple[str, str], TeamEntry], dict[str, KeyEntry]]

ORGANISATIONS = ["a", "b"]
TEAMS = ["t", "u"]


def contents(snapshot: Snapshot) -> Contents:
    return (
        {entry.name: entry for entry in snapshot.organisations},
        {(entry.organisation, entry.name): entry for entry in snapshot.teams},
        {entry.id: entry for entry in snapshot.keys},
    )


def changed(before: Contents, changes: Changes) -> Contents:
    organisations, teams, found = before
    kept = {id_: entry for id_, entry in found.items() if id_ not in changes.gone}
    return (
        organisations | {entry.name: entry for entry in changes.organisations},
        teams | {(entry.organisation, entry.name): entry for entry in changes.teams},
        kept | {entry.id: entry for entry in changes.keys},
    )


def in_use(found: Contents, now_s: float) -> Contents:
    """Expired keys may be there or not: no worker takes them."""
    return *found[:2], {id_: one for id_, one in found[2].items() if not 0 < one.expires_at <= now_s}


def _key(directory: Directory, pick: int) -> str:
    every = directory.keys.list(KeyFilter())
    return every[pick % len(every)].id if every else "000000000000"


def _create_key(organisation: str, team: str | None, account: str | None, expires: bool) -> Step:
    def step(directory: Directory, wall: Wall) -> object:
        number = len(directory.keys.list())
        values: dict[str, object] = {"name": f"k{number}", "organisation": organisation, "team": team}
        if expires:
            values["expires"] = wall.now_s + 1000
        return directory.keys.create(ALICE, KeySpec.model_validate(values | {"service_account": account}))

    return step


graces, pauses = st.sampled_from([0.0, 500.0]), st.sampled_from([1.0, 700.0, 90_000.0])
names, within, picks = st.sampled_from(TEAMS), st.sampled_from(ORGANISATIONS), st.integers(0, 30)
STEPS: st.SearchStrategy[Step] = st.one_of(
    st.builds(
        lambda name, off: lambda d, _: d.organisations.update(ALICE, name, OrganisationSettings(disabled=off)),
        within,
        st.booleans(),
    ),
    st.builds(lambda o, n: lambda d, _: d.teams.create(ALICE, TeamSpec(name=n), o), within, names),
    st.builds(
        lambda o, n, off: lambda d, _: d.teams.update(ALICE, n, TeamSettings(disabled=off), o),
        within,
        names,
        st.booleans(),
    ),
    st.builds(
        lambda o, off: lambda d, _: d.service_accounts.update(ALICE, "bot", ServiceAccountSettings(disabled=off), o),
        within,
        st.booleans(),
    ),
    st.builds(_create_key, within, st.none() | names, st.none() | st.just("bot"), st.booleans()),
    st.builds(_create_key, within, st.none() | names, st.none() | st.just("bot"), st.booleans()),
    st.builds(lambda pick: lambda d, _: d.keys.revoke(ALICE, _key(d, pick)), picks),
    st.builds(
        lambda pick, s: lambda d, _: d.keys.rotate(ALICE, _key(d, pick), s), picks, st.sampled_from([0.0, 500.0])
    ),
    st.builds(
        lambda pick, team: lambda d, _: d.keys.update(ALICE, _key(d, pick), KeySettings(team=team)),
        picks,
        st.none() | names,
    ),
    st.builds(
        lambda s: lambda _, wall: setattr(wall, "now_s", wall.now_s + s), st.sampled_from([1.0, 700.0, 90_000.0])
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(STEPS, st.booleans()), max_size=25))
def test_changes_make_the_next_snapshot_of_the_one_before(steps: list[tuple[Step, bool]]) -> None:
    """Whatever is done, and whenever it is looked at."""
    with tempfile.TemporaryDirectory() as folder:
        database = open_database(f"sqlite:///{folder}/h.db")
        wall = Wall()
        directory = Directory(database, wall)
        for name in ORGANISATIONS:
            directory.organisations.create(ALICE, OrganisationSpec(name=name))
            directory.service_accounts.create(ALICE, ServiceAccountSpec(name="bot"), name)
        first = directory.snapshot()
        seq, known = first.seq, contents(first)
        for step, look in [*steps, (lambda _d, _w: None, True)]:
            with suppress(Refused):
                step(directory, wall)
            if not look:
                continue
            changes = directory.changes_since(seq)
            assert changes is not None
            seq, known = changes.seq, changed(known, changes)
            now = directory.snapshot()
            assert now.seq == seq
            assert in_use(known, wall.now_s) == in_use(contents(now), wall.now_s)
        assert directory.audit.verify().broken_at is None
        database.close()


def test_nothing_new_is_told_as_nothing(directory: Directory) -> None:
    directory.organisations.create(ALICE, OrganisationSpec(name="a"))
    assert directory.changes_since(1) == Changes(1, [], [], [], [])


def test_an_older_copy_of_the_database_is_noticed(directory: Directory, database: Database) -> None:
    directory.organisations.create(ALICE, OrganisationSpec(name="a"))
    seq = directory.snapshot().seq
    with database.write() as connection:
        connection.execute(update(heads).values(changes=0))
    assert directory.changes_since(seq) is None


def test_keys_of_what_is_disabled_go_and_come_back(directory: Directory) -> None:
    directory.organisations.create(ALICE, OrganisationSpec(name="a"))
    directory.teams.create(ALICE, TeamSpec(name="t"), "a")
    directory.service_accounts.create(ALICE, ServiceAccountSpec(name="bot"), "a")
    of_team = directory.keys.create(ALICE, KeySpec(name="x", organisation="a", team="t")).record.id
    of_bot = directory.keys.create(ALICE, KeySpec(name="y", organisation="a", service_account="bot")).record.id
    seq = directory.snapshot().seq
    directory.teams.update(ALICE, "t", TeamSettings(disabled=True), "a")
    directory.service_accounts.update(ALICE, "bot", ServiceAccountSettings(disabled=True), "a")
    changes = directory.changes_since(seq)
    assert changes is not None
    assert sorted(changes.gone) == sorted([of_team, of_bot])
    assert directory.snapshot().keys == []
    directory.teams.update(ALICE, "t", TeamSettings(disabled=False), "a")
    back = directory.changes_since(changes.seq)
    assert back is not None
    assert ([entry.id for entry in back.keys], back.gone) == ([of_team], [])


def test_a_disabled_organisation_keeps_its_keys_and_says_that_it_is(directory: Directory) -> None:
    directory.organisations.create(ALICE, OrganisationSpec(name="a"))
    directory.keys.create(ALICE, KeySpec(name="x", organisation="a"))
    directory.organisations.update(ALICE, "a", OrganisationSettings(disabled=True))
    snapshot = directory.snapshot()
    assert (len(snapshot.keys), snapshot.organisations[0].disabled) == (1, True)


def test_keys_that_expired_long_ago_are_not_told_of(directory: Directory, wall: Wall) -> None:
    directory.organisations.create(ALICE, OrganisationSpec(name="a"))
    expires = {"name": "x", "organisation": "a", "expires": wall.now_s + 10}
    directory.keys.create(ALICE, KeySpec.model_validate(expires))
    wall.now_s += 80_000
    assert len(directory.snapshot().keys) == 1
    wall.now_s += 7000
    assert directory.snapshot().keys == []


def test_twenty_thousand_keys_are_all_there(database: Database, directory: Directory) -> None:
    directory.organisations.create(ALICE, OrganisationSpec(name="a"))
    row = {"organisation": "a", "created_by": "", "created_at": 1.0, "updated_at": 1.0, "seq": 1, "networks": "[]"}
    with database.write(60.0) as connection:
        for begin in range(0, 20_000, 1000):
            rows = [
                row | {"id": f"{n:012x}", "name": f"k{n}", "digest": n.to_bytes(32, "big"), "limits": '{"parallel":2}'}
                for n in range(begin, begin + 1000)
            ]
            connection.execute(insert(keys), rows)
    snapshot = directory.snapshot()
    assert len({entry.digest for entry in snapshot.keys}) == 20_000
    assert {entry.limits.parallel for entry in snapshot.keys} == {2}
