"""Keys that outlive the process that fetched them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.clock import wall_time_s
from gateway.errors import Overloaded
from gateway.jwt.verifier import Verifier
from tests.gateway.jwt.issuer import Issuer, issuer_running, jwk_of, new_key, verifying
from tests.harness import settled, whole

AWAY = {"/.well-known/openid-configuration": whole(b"", "503 Away")}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "kept" / "jwt"
    yield made
    if made.is_dir():
        made.chmod(0o700)


def knows(verifier: Verifier, token: str) -> bool:
    try:
        return verifier.find(token.encode()).tenant == "acme"
    except Overloaded:
        return False


async def once_fetched(issuer: Issuer, folder: Path) -> Path:
    """The file in which a process that has ended kept the keys."""
    async with verifying(issuer.options(), folder=folder) as verifier:
        assert knows(verifier, issuer.token())
        await settled(lambda: None if len(list(folder.glob("*.json"))) == 1 else "nothing", "the keys were not kept")
    [file] = folder.iterdir()
    return file


async def test_a_process_that_starts_while_the_issuer_is_away_knows_the_keys(ca_file: Path, folder: Path) -> None:
    async with issuer_running(ca_file) as issuer:
        issuer.add()
        file = await once_fetched(issuer, folder)
        assert (file.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)
        issuer.answers = AWAY
        async with verifying(issuer.options(), folder=folder) as verifier:
            assert knows(verifier, issuer.token())
        async with verifying(issuer.options()) as verifier:
            assert not knows(verifier, issuer.token())


async def test_what_was_kept_is_good_for_no_longer_than_the_grace(ca_file: Path, folder: Path) -> None:
    async with issuer_running(ca_file) as issuer:
        issuer.add()
        await once_fetched(issuer, folder)
        issuer.answers = AWAY
        entry = issuer.options(refresh_s=100, grace_s=100)
        for later_s, known in ((190, True), (210, False), (-1000, True)):
            async with verifying(entry, folder=folder, wall_s=lambda later_s=later_s: wall_time_s() + later_s) as one:  # type: ignore[misc]
                token = issuer.token(exp=wall_time_s() + 5000, iat=None)
                assert knows(one, token) is known, later_s


async def test_what_was_kept_gives_way_to_what_the_issuer_says(ca_file: Path, folder: Path) -> None:
    async with issuer_running(ca_file) as issuer:
        issuer.add()
        await once_fetched(issuer, folder)
        other = new_key("ES256")
        issuer.listed[:] = [jwk_of(other, "ES256", kid="one")]
        async with verifying(issuer.options(), folder=folder) as verifier:
            assert knows(verifier, issuer.signed(issuer.claims(), other, "ES256", {"kid": "one"}))


@pytest.mark.parametrize("what", ["file", "folder", "owner", "link", "garbage", "other", "keys", "folder link"])
async def test_a_file_that_others_could_have_written_is_not_believed(
    what: str, ca_file: Path, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever writes it vouches for anybody."""
    async with issuer_running(ca_file) as issuer:
        issuer.add()
        file = await once_fetched(issuer, folder)
        await asyncio.to_thread(spoil, what, file, tmp_path)
        issuer.answers = AWAY
        with caplog.at_level(logging.WARNING):
            async with verifying(issuer.options(), folder=folder) as verifier:
                assert not knows(verifier, issuer.token())
        assert f"{file}: " in caplog.text
        assert "without it a start while the issuer is away knows no keys" in caplog.text


def spoil(what: str, file: Path, elsewhere: Path) -> None:
    kept = json.loads(file.read_text())
    match what:
        case "file":
            file.chmod(0o620)
        case "folder":
            file.parent.chmod(0o777)
        case "owner":
            if os.geteuid():
                pytest.skip("only root can give a file away")
            os.chown(file, 12345, -1)
        case "link":
            file.rename(elsewhere / "theirs.json")
            file.symlink_to(elsewhere / "theirs.json")
        case "folder link":
            file.parent.rename(elsewhere / "theirs")
            file.parent.symlink_to(elsewhere / "theirs")
        case "garbage":
            file.write_bytes(file.read_bytes()[:-9])
        case "other":
            file.write_text(json.dumps(kept | {"issuer": "https://other.example"}))
        case "keys":
            file.write_text(json.dumps(kept | {"body": "{}"}))


async def test_where_keys_cannot_be_kept_it_is_told_once(
    ca_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("")
    async with issuer_running(ca_file) as issuer:
        issuer.add()
        async with verifying(issuer.options(), folder=blocked / "jwt") as verifier:
            assert knows(verifier, issuer.token())
            await settled(lambda: None if "Not a directory" in caplog.text else caplog.text or "nothing", "not told")
            assert caplog.text.count("knows no keys") == 1
