"""Where the keys come from: discovery, rotation, outages, and answers that no issuer should give."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from jwt.warnings import InsecureKeyLengthWarning

from gateway.errors import Overloaded, Unauthenticated
from gateway.jwt.fetch import MAX_BYTES
from gateway.jwt.source import ASK_PAUSE_S, WAIT_S
from gateway.jwt.verifier import Verifier
from tests.gateway.jwt.issuer import Issuer, issuer_running, jwk_of, key_of, new_key, verifying
from tests.harness import Json, Watch, settled, whole
from tests.harness.virtual import LoopClock, in_virtual_time

Scenario = Callable[[Issuer, Verifier], Coroutine[Any, Any, None]]
DISCOVERY = "/.well-known/openid-configuration"


def play(ca_file: Path, scenario: Scenario, **options: Any) -> None:
    """In virtual time: tokens are good for ten real minutes, whatever it jumps to."""

    async def main() -> None:
        async with issuer_running(ca_file) as issuer:
            issuer.add()
            async with verifying(issuer.options(**options), clock=LoopClock()) as verifier:
                await scenario(issuer, verifier)

    in_virtual_time(main)


def taken(verifier: Verifier, token: str) -> bool:
    try:
        verifier.find(token.encode())
    except Unauthenticated:
        return False
    return True


async def fetched_again(issuer: Issuer, before: int) -> None:
    await settled(lambda: None if issuer.fetches > before else "no", "the keys were not fetched again")


def test_a_new_key_is_known_with_the_next_token_that_names_it(ca_file: Path) -> None:
    """Rotation: the first token waits for the keys, and is then taken."""

    async def scenario(issuer: Issuer, verifier: Verifier) -> None:
        issuer.add("two", "EdDSA")
        token = issuer.token("two", "EdDSA").encode()
        with pytest.raises(Unauthenticated) as caught:
            verifier.find(token)
        assert caught.value.again is not None
        await caught.value.again()
        assert verifier.find(token).tenant == "acme"
        assert issuer.fetches == 2

    play(ca_file, scenario)


def test_unknown_kids_make_the_keys_be_fetched_only_now_and_then(ca_file: Path) -> None:
    async def scenario(issuer: Issuer, verifier: Verifier) -> None:
        async def burst(number: int) -> None:
            with pytest.raises(Unauthenticated) as caught:
                verifier.find(issuer.token(f"kid-{number % 7}").encode())
            if caught.value.again is not None:
                await caught.value.again()

        await asyncio.gather(*(burst(number) for number in range(200)))
        assert issuer.fetches == 2, "all of them wait for one fetch"
        for number in range(50):
            await burst(number)
        assert issuer.fetches == 2
        await asyncio.sleep(ASK_PAUSE_S)
        await burst(1)
        assert issuer.fetches == 3

    play(ca_file, scenario)


def test_a_kid_with_an_algorithm_that_is_not_allowed_makes_nobody_fetch(ca_file: Path) -> None:
    async def scenario(issuer: Issuer, verifier: Verifier) -> None:
        with pytest.raises(Unauthenticated) as caught:
            verifier.find(issuer.token("two", "RS512").encode())
        assert caught.value.again is None

    play(ca_file, scenario)


def test_a_key_that_is_no_longer_listed_drops_the_tokens_that_it_signed(ca_file: Path) -> None:
    """A18: also those that were seen before."""

    async def scenario(issuer: Issuer, verifier: Verifier) -> None:
        issuer.add("two")
        first, second = issuer.token("one"), issuer.token("two")
        assert taken(verifier, first)
        issuer.listed.pop(0)
        await asyncio.sleep(300)
        await fetched_again(issuer, 1)
        assert not taken(verifier, first)
        assert taken(verifier, second)

    play(ca_file, scenario)


def test_another_key_under_the_same_name_is_another_key(ca_file: Path) -> None:
    async def scenario(issuer: Issuer, verifier: Verifier) -> None:
        token, other = issuer.token(), new_key("ES256")
        assert taken(verifier, token)
        issuer.listed[:] = [jwk_of(other, "ES256", kid="one")]
        await asyncio.sleep(300)
        await fetched_again(issuer, 1)
        assert not taken(verifier, token)
        assert taken(verifier, issuer.signed(issuer.claims(), other, "ES256", {"kid": "one"}))

    play(ca_file, scenario)


def test_keys_that_stay_keep_the_tokens_that_were_seen(ca_file: Path) -> None:
    async def scenario(issuer: Issuer, verifier: Verifier) -> None:
        token = issuer.token().encode()
        caller = verifier.find(token)
        await asyncio.sleep(300)
        await fetched_again(issuer, 1)
        assert verifier.find(token) is caller

    play(ca_file, scenario)


def test_known_keys_go_on_while_the_issuer_is_away_for_as_long_as_the_grace_lasts(
    ca_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(issuer: Issuer, verifier: Verifier) -> None:
        seen = issuer.token(sub="seen")
        assert taken(verifier, seen)
        issuer.answers = {DISCOVERY: whole(b"", "503 Away")}
        await asyncio.sleep(300 + 500)
        assert taken(verifier, seen)
        assert taken(verifier, issuer.token(sub="new"))
        [(labels, age_s)] = verifier.ages()
        assert labels == ("sso",)
        assert age_s == pytest.approx(800, abs=5)
        await asyncio.sleep(120)
        for sub in ("seen", "newer"):
            with pytest.raises(Overloaded) as caught:
                verifier.find(issuer.token(sub=sub).encode() if sub != "seen" else seen.encode())
            assert (caught.value.code, caught.value.status) == ("issuer_unavailable", 503)
            assert b"retry-after" in caught.value.header_lines()
        issuer.answers = {}
        before = issuer.fetches
        await asyncio.sleep(30)
        await fetched_again(issuer, before)
        assert taken(verifier, seen)

    with caplog.at_level(logging.INFO, logger="gateway.jwt"):
        play(ca_file, scenario, grace_s=600)
    away, back = [record.getMessage() for record in caplog.records]
    assert "keys cannot be fetched: https://127.0.0.1" in away
    assert "answered 503; those known are good for another 600 s" in away
    assert back == "auth.jwt sso: its keys can be fetched again"


def test_an_issuer_that_is_away_from_the_start_is_tried_until_it_answers(
    ca_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with issuer_running(ca_file) as issuer:
            issuer.add()
            issuer.answers = {DISCOVERY: whole(b"{}", "404 Not Found")}
            async with verifying(issuer.options(), clock=LoopClock()) as verifier:
                with pytest.raises(Overloaded, match="cannot be fetched"):
                    verifier.find(issuer.token().encode())
                issuer.answers = {}
                await asyncio.sleep(30)
                await fetched_again(issuer, 0)
                assert taken(verifier, issuer.token())

    in_virtual_time(main)
    assert "no token of it can be checked" in caplog.text


def test_a_start_waits_for_a_silent_issuer_only_so_long(ca_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with issuer_running(ca_file) as issuer:
            issuer.held.clear()
            began_s = asyncio.get_running_loop().time()
            async with verifying(issuer.options(), clock=LoopClock()) as verifier:
                assert asyncio.get_running_loop().time() - began_s == pytest.approx(WAIT_S, abs=0.5)
                with pytest.raises(Overloaded):
                    verifier.find(issuer.token().encode())
                await asyncio.sleep(10)

    in_virtual_time(main)
    assert "no answer within 10 s; no token of it can be checked" in caplog.text


async def test_closing_does_not_wait_for_an_issuer_that_is_silent(ca_file: Path) -> None:
    async with issuer_running(ca_file) as issuer:
        issuer.add()
        async with verifying(issuer.options()) as verifier:
            issuer.held.clear()
            asked = len(issuer.paths)
            with pytest.raises(Unauthenticated) as caught:
                verifier.find(issuer.token("two").encode())
            await settled(lambda: None if len(issuer.paths) > asked else "no", "nothing was asked")
            with Watch() as watch:
                await verifier.aclose()
                assert caught.value.again is not None
                await caught.value.again()
            assert watch.own_s < 1


NOT_KEYS: list[tuple[bytes, str]] = [
    (b"", "not a JWK Set"),
    (b"<html>", "not a JWK Set"),
    (b"[]", "not a JWK Set"),
    (b'{"keys": 1}', "not a JWK Set"),
    (b"[" * 100_000, "not a JWK Set"),
    (b'{"keys": []}', "none of its 0 keys can be used for ES256, EdDSA, RS256"),
    (b'{"keys": [1, null, "x", {}, {"kty": "RSA"}, {"kty": "EC", "crv": "P-256"}]}', "none of its 6 keys"),
    (b'{"keys": [{"kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "kid": "one"}]}', "none of its 1 keys"),
    (b'{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AA"}, {"kty": "OKP", "crv": "X25519", "x": "AA"}]}', "none of"),
    (b'{"keys": [{"kty": "RSA", "n": "!!!", "e": "AQAB"}, {"kty": "RSA", "n": "", "e": ""}]}', "none of its 2 keys"),
    (b'{"keys": [' + b"[" * 50_000 + b"]" * 50_000 + b"]}", "not a JWK Set"),
    (b" " * (MAX_BYTES + 1), f"over {MAX_BYTES} bytes"),
]


@pytest.mark.parametrize(("body", "said"), NOT_KEYS, ids=range(len(NOT_KEYS)))
async def test_what_is_no_set_of_usable_keys_is_told_and_changes_nothing(
    body: bytes, said: str, ca_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with issuer_running(ca_file) as issuer:
        issuer.add()
        issuer.answers["/jwks"] = whole(body)
        async with verifying(issuer.options()) as verifier:
            await settled(lambda: None if said in caplog.text else caplog.text or "nothing", "nothing was told")
            with pytest.raises(Overloaded):
                verifier.find(issuer.token().encode())


async def test_keys_that_cannot_be_used_do_not_spoil_those_that_can(ca_file: Path) -> None:
    async with issuer_running(ca_file) as issuer:
        weak = new_key("RS256", bits=1024)
        issuer.listed += [
            {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"},
            {"kty": "new", "kid": "new"},
            jwk_of(weak, "RS256", kid="weak"),
            jwk_of(key_of("ES256", "enc"), "ES256", kid="enc", use="enc"),
            jwk_of(key_of("ES256", "ops"), "ES256", kid="ops", key_ops=["sign"]),
            jwk_of(key_of("ES384", "other"), "ES384", kid="other", alg="ES256"),
        ]
        issuer.add()
        async with verifying(issuer.options(algorithms=["RS256", "ES256", "ES384"])) as verifier:
            assert taken(verifier, issuer.token())
            assert "keys=1 " in repr(verifier)
            with pytest.warns(InsecureKeyLengthWarning):
                short = issuer.signed(issuer.claims(), weak, "RS256", {"kid": "weak"})
            assert not taken(verifier, short)
            assert not taken(verifier, issuer.token("enc"))
            assert not taken(verifier, issuer.token("ops"))


async def test_private_members_of_a_key_are_not_read(ca_file: Path) -> None:
    """An issuer that publishes its private key by mistake is believed no less, and the key is not kept."""
    async with issuer_running(ca_file) as issuer:
        key = issuer.add("one", "RS256")
        issuer.listed[0]["d"] = "AQAB"
        async with verifying(issuer.options()) as verifier:
            assert taken(verifier, issuer.token("one", "RS256"))
            [source] = verifier.sources
            found = source.find("RS256", "one")
            assert found is not None
            assert not hasattr(found.public, "private_numbers")
            assert hasattr(key, "private_numbers")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"issuer": "https://evil.example", "jwks_uri": "{url}/jwks"}, 'is that of the issuer "https://evil.example"'),
        ({"issuer": "{url}/", "jwks_uri": "{url}/jwks"}, "is that of the issuer"),
        ({"issuer": "{url}"}, "is no discovery document"),
        ({"issuer": "{url}", "jwks_uri": 7}, "is no discovery document"),
        ({"issuer": "{url}", "jwks_uri": "http://keys.example/jwks"}, "which is no https address"),
        ({"issuer": "{url}", "jwks_uri": "file:///etc/passwd"}, "which is no https address"),
        ({"issuer": "{url}", "jwks_uri": "file://localhost/etc/passwd"}, "which is no https address"),
        ({"issuer": "{url}", "jwks_uri": "http://127.0.0.1:9/jwks"}, "which is no https address"),
        ({"issuer": "{url}", "jwks_uri": "https://["}, "which is no https address"),
        ({"issuer": "{url}", "jwks_uri": "https://"}, "https://"),
        ({"issuer": "{url}", "jwks_uri": "https://127.0.0.1:99999/"}, "which is no https address"),
    ],
)
async def test_a_discovery_document_must_be_the_issuers_own(
    document: Json, said: str, ca_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with issuer_running(ca_file) as issuer:
        issuer.add()
        issuer.answers[DISCOVERY] = whole(json.dumps(document).replace("{url}", issuer.url).encode())
        async with verifying(issuer.options()) as verifier:
            await settled(lambda: None if said in caplog.text else caplog.text or "nothing", "nothing was told")
            with pytest.raises(Overloaded):
                verifier.find(issuer.token().encode())
            assert issuer.fetches == 0


async def test_neither_redirections_nor_packed_answers_are_followed(
    ca_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with issuer_running(ca_file) as issuer:
        issuer.add()
        packed = gzip.compress(json.dumps({"keys": issuer.listed}).encode())
        issuer.answers["/packed"] = whole(packed, "200 OK", "content-encoding: gzip")
        issuer.answers["/moved"] = whole(b"", "302 Found", f"location: {issuer.url}/jwks")
        moved = issuer.options(name="moved", audience=["a"], jwks_url=f"{issuer.url}/moved")
        async with verifying(moved, issuer.options(name="packed", jwks_url=f"{issuer.url}/packed")):
            for said in ("answered 302", "not a JWK Set"):
                await settled(lambda said=said: None if said in caplog.text else "nothing", said)  # type: ignore[misc]
        assert issuer.fetches == 0


async def test_with_jwks_url_no_discovery_is_needed(ca_file: Path) -> None:
    async with issuer_running(ca_file) as issuer:
        issuer.add()
        async with verifying(issuer.options(jwks_url=f"{issuer.url}/keys")) as verifier:
            assert taken(verifier, issuer.token())
        assert issuer.paths == ["/keys"]


async def test_a_certificate_that_is_not_trusted_is_told(ca_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with issuer_running(ca_file) as issuer:
        issuer.add()
        async with verifying(issuer.options(ca_file=None)):
            await settled(lambda: None if "CERTIFICATE_VERIFY_FAILED" in caplog.text else "nothing", "not told")
        assert issuer.paths == []


@pytest.mark.parametrize("key", ["ca_file", "token_file"])
async def test_a_file_that_is_missing_is_told(
    key: str, ca_file: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    async with issuer_running(ca_file) as issuer:
        issuer.add()
        async with verifying(issuer.options(**{key: str(tmp_path / "none")})):
            await settled(lambda: None if "No such file" in caplog.text else caplog.text or "nothing", "not told")


async def test_the_bearer_token_is_read_anew_and_sent_to_the_issuer_alone(ca_file: Path, tmp_path: Path) -> None:
    """Kubernetes' API server asks for one; where a discovery document points elsewhere, it is not sent along."""
    file = tmp_path / "token"
    file.write_text("first\n", encoding="utf-8")
    async with issuer_running(ca_file) as keys, issuer_running(ca_file) as issuer:
        keys.add()
        document = {"issuer": issuer.url, "jwks_uri": f"{keys.url}/jwks"}
        issuer.answers[DISCOVERY] = whole(json.dumps(document).encode())
        async with verifying(issuer.options(token_file=str(file))) as verifier:
            assert taken(verifier, issuer.token())
            assert "authorization: Bearer first\r\n" in issuer.heads[0]
            assert not any("authorization" in head for head in keys.heads)
            file.write_text("second", encoding="utf-8")
            with pytest.raises(Unauthenticated):
                verifier.find(issuer.token("two").encode())
            await verifier.sources[0].answered()
            assert "authorization: Bearer second\r\n" in issuer.heads[1]


async def test_proxies_of_the_environment_are_not_asked(ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    async with issuer_running(ca_file) as issuer:
        issuer.add()
        async with verifying(issuer.options()) as verifier:
            assert taken(verifier, issuer.token())
