from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.keys import new_key
from gateway.telemetry import Redactor

MASK = "[redacted]"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer abc.def-ghi", f"Authorization: Bearer {MASK}"),
        ("{'authorization': 'Bearer abcdefgh'}", f"{{'authorization': 'Bearer {MASK}'}}"),
        ("sent bearer abc4.def-ghi", f"sent bearer {MASK}"),
        ("sent `Bearer abc4.def-ghi`", f"sent `Bearer {MASK}`"),
        ("authorization=abcdefgh", f"authorization={MASK}"),
        ("bearer sk-proj-abcdefghijklmnop", f"bearer {MASK}"),
        ("key sk-ant-api03-abcdefghijkl is bad", f"key {MASK} is bad"),
        ('{"api_key": "abcdefgh"}', f'{{"api_key": "{MASK}"}}'),
        ("x-api-key: abcdefgh, next", f"x-api-key: {MASK}, next"),
        ("redis://:hunter22@cache:6379/0", f"redis://:{MASK}@cache:6379/0"),
        ("postgres://user:hunter22@db/x", f"postgres://user:{MASK}@db/x"),
        ("hf_abcdefghijklmnopqrst", MASK),
        ("AKIAIOSFODNN7EXAMPLE", MASK),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-def_g", MASK),
        ("password=hunter22&x=1", f"password={MASK}&x=1"),
    ],
)
def test_what_looks_like_a_key_is_blanked_out(text: str, shown: str) -> None:
    """A25"""
    assert Redactor().text(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "worker 3 started in 0.8 s",
        "http://127.0.0.1:9101/v1/chat/completions",
        "model Qwen/Qwen3-0.6B is served by pool gpu-a",
        "the bearer scheme is required, with basic authentication",
        "No API key given. Send it as `Authorization: Bearer KEY`.",
        "task-force disk-full risk-averse",
        "sha256:0123456789abcdef",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert Redactor().text(text) == text


def test_keys_that_the_gateway_makes_are_known_by_their_look() -> None:
    key = new_key()
    assert key not in Redactor().text(f"Somebody sent {key} as a model name.")


def test_of_overlapping_secrets_the_longer_one_goes_first() -> None:
    redactor = Redactor(["hunter", "hunter-the-second"])
    assert redactor.text("it is hunter-the-second, not hunter") == f"it is {MASK}, not {MASK}"
    assert repr(redactor) == "<Redactor of 2 values>"


def test_a_secret_too_short_to_tell_from_a_word_is_not_looked_for() -> None:
    redactor = Redactor(["abc", ""])
    assert redactor.text("abcdef") == "abcdef"
    assert not redactor.knows("abc")


@given(secret=st.text(min_size=6), before=st.text(), after=st.text())
def test_a_registered_secret_never_survives(secret: str, before: str, after: str) -> None:
    """A25"""
    shown = Redactor([secret]).text(before + secret + after)
    assert secret not in shown.replace(MASK, "") or secret in before + after
