"""Who the client is behind proxies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http import Request
from gateway.http.proxies import Proxies, proxies_of
from tests.harness import chat, config_of, engine_running, serving

PROXIES = Proxies(["10.0.0.0/8", "2001:db8::/32"])


def client(peer: str, *forwarded: str) -> str:
    headers = [(b"x-forwarded-for", one.encode("latin-1")) for one in forwarded]
    return PROXIES.client_of(Request(b"GET", b"/", "/", dict(headers), headers, b"", peer))


@pytest.mark.parametrize(
    ("peer", "forwarded", "found"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("::ffff:10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9", "198.51.100.7", "10.0.0.2"], "198.51.100.7"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["198.51.100.7:4711"], "198.51.100.7"),
        ("10.0.0.1", ["[2001:db9::7]:4711"], "2001:db9::7"),
        ("10.0.0.1", ["2001:db9::7"], "2001:db9::7"),
        ("10.0.0.1", ["198.51.100.7, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7, _hidden, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("", ["198.51.100.7"], ""),
    ],
)
def test_the_client_is_who_the_last_trusted_proxy_saw(peer: str, forwarded: list[str], found: str) -> None:
    assert client(peer, *forwarded) == found


@given(st.lists(st.text(st.characters(max_codepoint=255), max_size=80), max_size=5))
def test_nothing_that_may_stand_there_is_an_error(forwarded: list[str]) -> None:
    assert client("192.0.2.1", *forwarded) == "192.0.2.1"
    assert client("10.0.0.1", *forwarded)


async def test_a_key_with_networks_is_held_to_the_address_behind_the_proxy() -> None:
    key = {"name": "office", "key": "sk-office", "networks": ["198.51.100.0/24"]}
    assert proxies_of([]) is None
    async with engine_running() as engine:
        for trusted, status in ((["127.0.0.0/8"], 200), ([], 403)):
            config = config_of(engine, keys=[key], server={"trusted_proxies": trusted})
            async with serving(config) as server:
                headers = {"authorization": "Bearer sk-office", "x-forwarded-for": "198.51.100.7"}
                answer = await server.request("POST", "/v1/chat/completions", json=chat(), headers=headers)
                assert answer.status_code == status
                (record,) = await server.records()
                assert record["client"] == ("198.51.100.7" if trusted else "127.0.0.1")
