"""Organisations, teams, service accounts and keys in a real database."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from gateway.database import Database
from gateway.directory.api_keys import KeyFilter
from gateway.directory.problems import Invalid, NotThere, Refused, Taken, invalid
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
from gateway.keys import digest_of
from tests.gateway.directory.conftest import ALICE, Wall

BAD_NAMES = [
    "",
    " acme",
    "acme\n",
    "acme\r\nx-evil: 1",
    "ac\x00me",
    "a" * 129,
    "../etc/passwd",
    "'; DROP TABLE keys; --",
    "аcme",  # noqa: RUF001 - begins with a Cyrillic letter
    "acme\u202e",
    "acme\u200b",
    "ＡＣＭＥ",  # noqa: RUF001 - full width
    "\ud800",
]


@pytest.fixture
def acme(directory: Directory) -> Directory:
    """With an organisation, a team and a service account."""
    directory.organisations.create(ALICE, OrganisationSpec(name="acme"))
    directory.teams.create(ALICE, TeamSpec(name="research"), "acme")
    directory.service_accounts.create(ALICE, ServiceAccountSpec(name="bot", description="at night"), "acme")
    return directory


def spec(**values: object) -> KeySpec:
    return KeySpec.model_validate({"name": "search", "organisation": "acme", **values})


def settings(**values: object) -> KeySettings:
    return KeySettings.model_validate(values)


# organisations, teams, service accounts


def test_an_organisation_is_made_read_changed_and_disabled(directory: Directory) -> None:
    made = directory.organisations.create(
        ALICE,
        OrganisationSpec.model_validate(
            {"name": "acme", "limits": {"usd_per_day": "2.50", "parallel": 3}, "weight": 2, "metadata": {"crm": "A-7"}}
        ),
    )
    assert directory.organisations.get("acme") == made
    assert made.limits == {"usd_per_day": "2.5", "parallel": 3}
    assert (made.weight, made.priority, made.when_store_lost, made.disabled) == (2.0, 0, "slice", False)
    changed = directory.organisations.update(ALICE, "acme", OrganisationSettings(disabled=True))
    assert (changed.disabled, changed.limits, changed.metadata) == (True, made.limits, {"crm": "A-7"})


def test_limits_and_metadata_are_changed_one_by_one_and_taken_away_by_null(directory: Directory) -> None:
    """RFC 7396."""
    directory.organisations.create(
        ALICE, OrganisationSpec.model_validate({"name": "a", "limits": {"parallel": 3}, "metadata": {"x": 1, "y": "z"}})
    )
    change = {"limits": {"tokens_per_day": 10}, "metadata": {"x": None, "n": True}}
    found = directory.organisations.update(ALICE, "a", OrganisationSettings.model_validate(change))
    assert (found.limits, found.metadata) == ({"parallel": 3, "tokens_per_day": 10}, {"y": "z", "n": True})
    change = {"limits": {"parallel": None}, "weight": 5}
    found = directory.organisations.update(ALICE, "a", OrganisationSettings.model_validate(change))
    assert (found.limits, found.weight) == ({"tokens_per_day": 10}, 5.0)
    change = {"limits": None, "metadata": None, "weight": None}
    found = directory.organisations.update(ALICE, "a", OrganisationSettings.model_validate(change))
    assert (found.limits, found.metadata, found.weight) == ({}, {}, 1.0)


def test_metadata_that_grows_too_large_bit_by_bit_is_refused(directory: Directory) -> None:
    directory.organisations.create(ALICE, OrganisationSpec(name="a"))
    with pytest.raises(Invalid, match="at most 4,096 are kept"):
        for number in range(20):
            grown = OrganisationSettings.model_validate({"metadata": {f"n{number}": "x" * 500}})
            directory.organisations.update(ALICE, "a", grown)
    assert len(directory.organisations.get("a").metadata) == 8


def test_a_name_is_taken_once_and_a_wrong_one_gets_a_suggestion(acme: Directory) -> None:
    with pytest.raises(Taken, match="an organisation 'acme' already"):
        acme.organisations.create(ALICE, OrganisationSpec(name="acme"))
    with pytest.raises(Taken, match="a team 'research' already in the organisation 'acme'"):
        acme.teams.create(ALICE, TeamSpec(name="research"), "acme")
    with pytest.raises(NotThere, match=r'no organisation "acne" \(did you mean "acme"\?\)'):
        acme.teams.create(ALICE, TeamSpec(name="x"), "acne")
    with pytest.raises(
        NotThere, match=r'no team "researcher" in the organisation .acme. \(did you mean "research"\?\)'
    ):
        acme.teams.update(ALICE, "researcher", TeamSettings(), "acme")
    with pytest.raises(NotThere):
        acme.service_accounts.get("bot", "other")


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_a_name_that_is_none_is_refused_before_any_database_sees_it(acme: Directory, name: str) -> None:
    for model in (OrganisationSpec, TeamSpec, ServiceAccountSpec, KeySpec):
        with pytest.raises(ValidationError) as refused:
            model.model_validate({"name": name, "organisation": "acme"} if model is KeySpec else {"name": name})
        assert str(invalid(refused.value)).isprintable()
    for call in (
        lambda: acme.organisations.get(name),
        lambda: acme.teams.get("research", name),
        lambda: acme.teams.create(ALICE, TeamSpec(name="t"), name),
        lambda: acme.keys.get(name),
    ):
        with pytest.raises(NotThere) as absent:
            call()
        assert str(absent.value).isprintable()


def test_lists_come_in_pages_by_name(acme: Directory) -> None:
    for number in range(4):
        acme.organisations.create(ALICE, OrganisationSpec(name=f"o{number}"))
        acme.teams.create(ALICE, TeamSpec(name="t"), f"o{number}")
    assert [one.name for one in acme.organisations.list(limit=2)] == ["acme", "o0"]
    assert [one.name for one in acme.organisations.list(after=("", "o0"), limit=2)] == ["o1", "o2"]
    assert [one.organisation for one in acme.teams.list(after=("o1", "t"))] == ["o2", "o3"]
    assert [one.name for one in acme.teams.list("acme")] == ["research"]


def test_all_pages_are_read_one_after_the_other(acme: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.directory.groups.MAX_PAGE", 2)
    monkeypatch.setattr("gateway.directory.api_keys.MAX_PAGE", 2)
    for number in range(5):
        acme.teams.create(ALICE, TeamSpec(name=f"t{number}"), "acme")
        acme.keys.create(ALICE, spec(name=f"k{number}"))
    assert [one.name for one in acme.teams.every("acme")] == ["research", "t0", "t1", "t2", "t3", "t4"]
    assert [one.name for one in acme.keys.every()] == ["k0", "k1", "k2", "k3", "k4"]


# keys


def test_a18_a_key_is_shown_once_and_only_its_salted_digest_is_kept(acme: Directory, database: Database) -> None:
    made = acme.keys.create(ALICE, spec())
    assert re.fullmatch(rf"sk-hr-{made.record.id}-[A-Za-z0-9_-]{{43}}", made.key)
    assert re.fullmatch("[0-9a-f]{12}", made.record.id)
    assert made.key not in repr(made)
    snapshot = acme.snapshot()
    assert [entry.digest for entry in snapshot.keys] == [digest_of(made.key, snapshot.salt)]
    with database.read() as connection:
        rows = [str(row) for table in ("keys", "audit") for row in connection.exec_driver_sql(f"SELECT * FROM {table}")]
    assert not [row for row in rows if made.key[19:] in row]


def test_a_key_has_all_that_was_said_of_it(acme: Directory) -> None:
    made = acme.keys.create(
        ALICE,
        spec(
            team="research",
            service_account="bot",
            deployments=["llama", "org/model:8b"],
            networks=["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"],
            expires="2030-01-01T00:00:00+01:00",
            limits={"tokens_per_minute": 100},
            sensitivity="internal",
            metadata={"ticket": "X-1"},
        ),
    ).record
    assert made == acme.keys.get(made.id)
    assert made.networks == ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32"]
    assert made.expires_at == "2029-12-31T23:00:00.000000Z"
    assert (made.team, made.service_account, made.deployments) == ("research", "bot", ["llama", "org/model:8b"])
    assert (made.limits, made.sensitivity, made.metadata) == ({"tokens_per_minute": 100}, "internal", {"ticket": "X-1"})
    assert (made.state, made.created_by, made.created_at) == ("active", "os:alice", "2027-01-15T08:00:00.000000Z")
    (entry,) = acme.snapshot().keys
    assert (entry.deployments, entry.networks) == (made.deployments, made.networks)
    assert entry.expires_at == datetime(2029, 12, 31, 23, tzinfo=UTC).timestamp()
    assert entry.limits.tokens_per_minute == 100


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"organisation": None}, "organisation is missing: a key for model calls belongs to one"),
        ({"organisation": None, "role": "tenant-admin"}, "a tenant-admin belongs to one"),
        ({"role": "admin"}, "the role admin is for all organisations"),
        ({"role": "tenant-admin", "team": "research"}, "a key with a role makes none"),
        ({"role": "root"}, 'role: "root" is not taken'),
        ({"networks": ["10.0.0.1/8"]}, "has host bits set"),
        ({"networks": ["anywhere"]}, "not a network in CIDR notation like 10.0.0.0/8"),
        ({"deployments": ["a\nb"]}, r"deployments[0]: \"a\nb\" is not a name"),
        ({"limits": {"parallel": 0}}, "limits.parallel: 0 is not taken"),
        ({"limits": {"parallels": 1}}, "limits.parallels: there is no such setting"),
        ({"expires": "2030-01-01T00:00:00"}, "expires: "),
        ({"metadata": {"x": "a\x1b[31m"}}, "characters that cannot be shown"),
        ({"metadata": {"x": {"y": {}}}}, "metadata.x"),
        ({"metadata": {f"n{number}": 1 for number in range(33)}}, "metadata: "),
        ({"tenant": "acme"}, "tenant: there is no such setting"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused_with_the_reason(values: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        spec(**values)
    told = str(invalid(refused.value))
    assert said.replace('\\"', '"') in told
    assert told.isprintable()


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        ({"organisation": "acne"}, NotThere, 'no organisation "acne"'),
        ({"team": "researches"}, NotThere, 'did you mean "research"'),
        ({"service_account": "bots"}, NotThere, 'no service account "bots"'),
        ({"expires": "2001-01-01T00:00:00Z"}, Invalid, "expires: 2001-01-01T00:00:00.000000Z has passed"),
        ({"organisation": None, "role": "viewer", "service_account": "bot"}, Invalid, "a key of no organisation"),
    ],
)
def test_a_key_of_what_is_not_there_is_not_made(
    acme: Directory, values: dict[str, object], kind: type[Refused], said: str
) -> None:
    with pytest.raises(kind, match=said):
        acme.keys.create(ALICE, spec(**values))
    assert acme.keys.list() == []
    assert acme.audit.verify().entries == 3


def test_a_name_is_free_again_when_its_key_is_revoked(acme: Directory) -> None:
    first = acme.keys.create(ALICE, spec()).record
    with pytest.raises(Taken, match=f"with the id {first.id}: rotate that one"):
        acme.keys.create(ALICE, spec())
    acme.keys.revoke(ALICE, first.id)
    second = acme.keys.create(ALICE, spec(name="other")).record
    assert acme.keys.update(ALICE, second.id, settings(name="search")).name == "search"
    admins = {"organisation": None, "role": "admin"}
    acme.keys.create(ALICE, spec(**admins))
    with pytest.raises(Taken, match="key 'search' already, with"):
        acme.keys.create(ALICE, spec(**admins))


def test_a_key_is_changed_in_part(acme: Directory) -> None:
    made = acme.keys.create(ALICE, spec(team="research", deployments=["a"], networks=["10.0.0.0/8"])).record
    changed = acme.keys.update(ALICE, made.id, settings(deployments=None, networks=None, limits={"parallel": 2}))
    assert (changed.deployments, changed.networks, changed.limits) == (None, [], {"parallel": 2})
    assert changed.team == "research"
    changed = acme.keys.update(ALICE, made.id, settings(team=None, expires="2031-01-01T00:00:00Z", sensitivity="x"))
    assert (changed.team, changed.expires_at, changed.sensitivity) == (None, "2031-01-01T00:00:00.000000Z", "x")
    changed = acme.keys.update(ALICE, made.id, settings(expires=None, sensitivity=None))
    assert (changed.expires_at, changed.sensitivity) == (None, "")


def test_what_cannot_be_changed_is_refused(acme: Directory, wall: Wall) -> None:
    made = acme.keys.create(ALICE, spec()).record
    admin = acme.keys.create(ALICE, spec(role="tenant-admin", name="boss")).record
    with pytest.raises(Invalid, match="a key has one"):
        acme.keys.update(ALICE, made.id, settings(name=None))
    with pytest.raises(Invalid, match="to end a key, revoke it"):
        acme.keys.update(ALICE, made.id, settings(expires="2001-01-01T00:00:00Z"))
    with pytest.raises(Invalid, match="a key with a role makes none"):
        acme.keys.update(ALICE, admin.id, settings(team="research"))
    with pytest.raises(ValidationError):
        settings(role="admin")
    acme.keys.revoke(ALICE, made.id)
    with pytest.raises(Invalid, match=r"was revoked at 2027-01-15T08:00:00.000000Z and cannot be changed"):
        acme.keys.update(ALICE, made.id, settings(sensitivity="x"))


def test_a_key_is_named_by_its_id_or_by_itself(acme: Directory) -> None:
    made = acme.keys.create(ALICE, spec())
    assert acme.keys.get(made.key) == acme.keys.get(made.record.id) == made.record
    for wrong in ("0123456789ab", "sk-hr-0123456789ab-x", made.record.id[:11], "", "sk-hr-", "' OR 1=1 --"):
        with pytest.raises(NotThere):
            acme.keys.revoke(ALICE, wrong)
    assert acme.keys.revoke(ALICE, made.key).state == "revoked"


def test_a_rotated_key_goes_on_for_its_grace_beside_the_new_one(acme: Directory, wall: Wall) -> None:
    limits = {"parallel": 2}
    old = acme.keys.create(ALICE, spec(team="research", limits=limits, metadata={"a": "b"}))
    new = acme.keys.rotate(ALICE, old.key, 3600.0)
    assert new.key != old.key
    record = new.record
    assert (record.name, record.team, record.limits, record.metadata) == ("search", "research", limits, {"a": "b"})
    ends = acme.keys.get(old.record.id)
    assert (ends.state, ends.replaced_by, ends.expires_at) == ("active", record.id, "2027-01-15T09:00:00.000000Z")
    assert {entry.id: entry.expires_at for entry in acme.snapshot().keys} == {
        old.record.id: wall.now_s + 3600,
        record.id: 0.0,
    }
    wall.now_s += 3600
    assert acme.keys.get(old.record.id).state == "expired"
    assert acme.keys.get(record.id).state == "active"


def test_without_a_grace_a_rotated_key_is_revoked_at_once(acme: Directory) -> None:
    old = acme.keys.create(ALICE, spec()).record
    new = acme.keys.rotate(ALICE, old.id, 0.0).record
    assert acme.keys.get(old.id).state == "revoked"
    assert [entry.id for entry in acme.snapshot().keys] == [new.id]


def test_a_rotated_key_never_lives_longer_than_it_would_have(acme: Directory, wall: Wall) -> None:
    old = acme.keys.create(ALICE, spec(expires="2027-01-15T08:10:00Z")).record
    new = acme.keys.rotate(ALICE, old.id, 3600.0, settings(expires="2028-01-01T00:00:00Z")).record
    assert acme.keys.get(old.id).expires_at == "2027-01-15T08:10:00.000000Z"
    assert new.expires_at == "2028-01-01T00:00:00.000000Z"
    with pytest.raises(Invalid, match=f"was replaced by {new.id} already: change that one"):
        acme.keys.update(ALICE, old.id, settings(expires=None))


def test_what_cannot_be_rotated_is_refused(acme: Directory, wall: Wall) -> None:
    old = acme.keys.create(ALICE, spec(expires="2027-01-15T09:00:00Z")).record
    for grace_s in (-1.0, float("nan"), 31 * 86_400.0):
        with pytest.raises(Invalid, match="it takes 0 to 2,592,000 s"):
            acme.keys.rotate(ALICE, old.id, grace_s)
    new = acme.keys.rotate(ALICE, old.id, 60.0).record
    with pytest.raises(Invalid, match=f"was replaced by {new.id} already: rotate that one"):
        acme.keys.rotate(ALICE, old.id, 60.0)
    wall.now_s += 3600
    with pytest.raises(Invalid, match=r"has expired at 2027-01-15T09:00:00.000000Z: make a new one"):
        acme.keys.rotate(ALICE, new.id, 60.0)
    acme.keys.revoke(ALICE, new.id)
    with pytest.raises(Invalid, match="cannot be rotated: make a new one"):
        acme.keys.rotate(ALICE, new.id, 60.0)


def test_keys_are_listed_by_what_they_belong_to_and_by_state(acme: Directory, wall: Wall) -> None:
    acme.organisations.create(ALICE, OrganisationSpec(name="other"))
    wanted: dict[str, dict[str, object]] = {
        "plain": {},
        "team": {"team": "research"},
        "bot": {"service_account": "bot"},
        "short": {"expires": "2027-01-15T08:00:01Z"},
        "boss": {"role": "tenant-admin"},
        "away": {"organisation": "other"},
        "root": {"organisation": None, "role": "admin"},
    }
    made = {name: acme.keys.create(ALICE, spec(name=name, **values)).record for name, values in wanted.items()}
    acme.keys.revoke(ALICE, made["bot"].id)
    wall.now_s += 1

    def names(**wanted: object) -> list[str]:
        return [key.name for key in acme.keys.list(KeyFilter(**wanted))]  # type: ignore[arg-type]

    assert names() == ["root", "boss", "bot", "plain", "short", "team", "away"]
    assert names(organisation="other") == ["away"]
    assert names(organisation="") == ["root"]
    assert (names(team="research"), names(service_account="bot"), names(name="boss")) == (["team"], ["bot"], ["boss"])
    assert (names(role="admin"), names(role="tenant-admin")) == (["root"], ["boss"])
    assert (names(state="revoked"), names(state="expired")) == (["bot"], ["short"])
    assert names(state="active", organisation="acme") == ["boss", "plain", "team"]
    page = acme.keys.list(limit=3)
    assert [key.name for key in acme.keys.list(after=page[-1].id, limit=2)] == ["plain", "short"]
    with pytest.raises(NotThere):
        acme.keys.list(after="0123456789ab")


def test_what_changes_nothing_takes_no_number_and_no_entry(acme: Directory) -> None:
    made = acme.keys.create(ALICE, spec(limits={"parallel": 2})).record
    before = (acme.snapshot().seq, acme.audit.verify())
    acme.organisations.update(ALICE, "acme", OrganisationSettings(disabled=False, weight=1))
    acme.keys.update(ALICE, made.id, settings(limits={"parallel": 2}))
    acme.service_accounts.update(ALICE, "bot", ServiceAccountSettings(), "acme")
    assert (acme.snapshot().seq, acme.audit.verify()) == before
    acme.keys.revoke(ALICE, made.id)
    revoked = acme.audit.verify()
    acme.keys.revoke(ALICE, made.id)
    assert acme.audit.verify() == revoked
