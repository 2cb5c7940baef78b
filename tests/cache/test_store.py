"""The exact cache: who shares an answer (A21), how much is kept, and how long."""

from __future__ import annotations

from dataclasses import astuple

from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cache.store import CachedAnswer, ExactCache, exact_key

_PARTS = st.tuples(st.text(max_size=6), st.text(max_size=6), st.binary(max_size=12))


class Now:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def answer(size: int = 10, mark: int = 0) -> CachedAnswer:
    return CachedAnswer(bytes([mark % 256]) * size, stream=False)


@given(_PARTS, _PARTS)
@example(("a", "b", b"c"), ("ab", "", b"c"))
@example(("a", "bc", b""), ("a", "b", b"c"))
@example(("", "", b"abc"), ("abc", "", b""))
@example(("t", "chat", b'{"temperature":0}'), ("t", "chat", b'{"temperature":0.0}'))
@example(("t", "chat", b'{"a":1,"b":2}'), ("t", "chat", b'{"b":2,"a":1}'))
def test_two_requests_share_a_key_only_if_tenant_operation_and_every_byte_agree(
    one: tuple[str, str, bytes], other: tuple[str, str, bytes]
) -> None:
    """A21: every parameter, prompt and tool is in the bytes of the body."""
    assert (exact_key(*one) == exact_key(*other)) is (one == other)
    assert len(exact_key(*one)) == 32


def test_a_key_shows_nothing_of_what_it_stands_for() -> None:
    """A21, A25: keys are hashed."""
    assert b"tenant" not in exact_key("tenant", "chat/completions", b"secret prompt")


def test_an_answer_is_found_until_its_age_is_over() -> None:
    now = Now()
    cache = ExactCache(10_000, ttl_s=5.0, now=now)
    kept = CachedAnswer(b"data: x\n\n", True, 3, 4)
    assert cache.get(b"k") is None
    cache.put(b"k", kept)
    now.now_s = 5.0
    assert cache.get(b"k") is kept
    now.now_s = 5.001
    assert cache.get(b"k") is None
    assert repr(cache) == "<ExactCache entries=0 size_bytes=0>"
    assert astuple(kept) == (b"data: x\n\n", True, 3, 4)


def test_reading_an_answer_does_not_make_it_younger_but_writing_it_anew_does() -> None:
    now = Now()
    cache = ExactCache(10_000, ttl_s=5.0, now=now)
    cache.put(b"read", answer())
    cache.put(b"written", answer())
    now.now_s = 4.0
    assert cache.get(b"read") is not None
    cache.put(b"written", answer(20))
    now.now_s = 6.0
    assert cache.get(b"read") is None
    assert cache.get(b"written") == answer(20)
    assert cache.size_bytes == 20 + ExactCache.ENTRY_OVERHEAD_BYTES


def test_what_was_used_longest_ago_makes_room() -> None:
    cache = ExactCache(4 * 500, 60.0, Now())
    for key in (b"a", b"b", b"c", b"d"):
        cache.put(key, answer(100))
    assert cache.get(b"a") is not None
    cache.put(b"e", answer(100))
    assert [key for key in (b"a", b"b", b"c", b"d", b"e") if cache.get(key)] == [b"a", b"c", b"d", b"e"]


def test_one_answer_takes_at_most_a_quarter() -> None:
    cache = ExactCache(4000, 60.0, Now())
    cache.put(b"k", answer(601))
    assert cache.get(b"k") is None
    cache.put(b"k", answer(600))
    assert cache.get(b"k") is not None


class AnyUse(RuleBasedStateMachine):
    """The bytes counted are the bytes held, and never over the bound; what is found is what was put last, in time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = Now()
        self.cache = ExactCache(8000, 10.0, self.now)
        self.put_last: dict[bytes, tuple[float, CachedAnswer]] = {}

    @rule(key=st.binary(min_size=1, max_size=1), size=st.integers(0, 2000), mark=st.integers(0, 255))
    def put(self, key: bytes, size: int, mark: int) -> None:
        self.cache.put(key, answer(size, mark))
        self.put_last[key] = (self.now.now_s, answer(size, mark))

    @rule(key=st.binary(min_size=1, max_size=1))
    def get(self, key: bytes) -> None:
        found = self.cache.get(key)
        if found is not None:
            stored_s, last = self.put_last[key]
            assert found == last
            assert self.now.now_s - stored_s <= 10.0

    @rule(step_s=st.floats(0, 12))
    def time_passes(self, step_s: float) -> None:
        self.now.now_s += step_s

    @invariant()
    def the_bound_holds(self) -> None:
        held = [entry for _, entry in self.cache._entries.values()]
        assert self.cache.size_bytes == sum(len(a.body) + ExactCache.ENTRY_OVERHEAD_BYTES for a in held) <= 8000


test_any_use_stays_within_the_bound_and_gives_what_was_put_last = AnyUse.TestCase
