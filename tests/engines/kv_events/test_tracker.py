"""From an engine's blocks to the gateway's keys."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.kv_events.codec import Event, decode
from engines.kv_events.tracker import STEP, Tracker, adapter_of, root_seed, token_bytes
from gateway.prompts.keys import chain, first_seed
from tests.engines.kv_events.publisher import (
    BLOCK,
    CLEARED,
    Heard,
    as_array,
    chained,
    engine_hash,
    keys_of,
    removed,
    stored,
)

PROMPT = list(range(100, 117))
OTHER = [*PROMPT[:8], *range(200, 208)]


def tell(tracker: Tracker, *events: object) -> None:
    """Over the wire's format, so that what the codec gives is what the tracker gets."""
    for _ in tracker.apply(read(*events)):
        pass


def read(*events: object) -> list[Event]:
    return decode(msgspec.msgpack.encode([1.0, list(events), 0])).events


def begun() -> tuple[Tracker, Heard]:
    heard = Heard()
    tracker = Tracker(heard)
    tracker.begin()
    return tracker, heard


def test_keys_are_those_that_a_prompt_is_looked_up_by() -> None:
    """The definition, written out here, and the one that the gateway keys prompts with."""
    tracker, heard = begun()
    tell(tracker, stored(PROMPT), stored(PROMPT, lora_name="sql", extra_keys=[["sql", "s"], *[["sql"]] * 3]))
    plain, salted = keys_of(PROMPT), keys_of(PROMPT, "sql", "s")
    assert heard.keys == {*plain, *salted}
    assert chain(token_bytes(PROMPT), 4 * BLOCK, first_seed("", b"")) == plain
    assert chain(token_bytes(PROMPT), 4 * BLOCK, first_seed("sql", b"s")) == salted
    assert tracker.block_tokens == BLOCK
    assert repr(tracker) == "<Tracker exact blocks=8>"


def test_events_of_older_releases_say_the_same() -> None:
    tracker, heard = begun()
    tell(tracker, as_array(stored(PROMPT)), as_array(removed(*chained(PROMPT)[3:])))
    assert heard.keys == set(keys_of(PROMPT)[:3])
    assert heard.exact


def test_hashes_may_be_bytes() -> None:
    tracker, heard = begun()
    first, second = b"\0" * 32, b"\1" * 32
    event = stored(PROMPT[:8]) | {"block_hashes": [first, second]}
    more = stored(PROMPT[:12], first=2) | {"parent_block_hash": second}
    tell(tracker, event, more, removed() | {"block_hashes": [first]})
    assert heard.keys == set(keys_of(PROMPT)[1:3])


def test_a_prompt_continues_what_another_began() -> None:
    tracker, heard = begun()
    tell(tracker, stored(PROMPT), stored(OTHER, first=2))
    assert heard.keys == {*keys_of(PROMPT), *keys_of(OTHER)}


def test_adapters_and_salts_share_nothing() -> None:
    tracker, heard = begun()
    salted = [["s"], None, None, None]
    tell(
        tracker,
        stored(PROMPT),
        stored(PROMPT, extra_keys=salted),
        stored(PROMPT, lora_name="sql", extra_keys=[["sql"]] * 4),
        stored(PROMPT, lora_name="sql", extra_keys=[["sql", "s"], *[["sql"]] * 3]),
        stored(PROMPT, seed="number", lora_id=3, extra_keys=None),
    )
    wanted = [keys_of(PROMPT, *who) for who in (("", ""), ("", "s"), ("sql", ""), ("sql", "s"), ("\x003", ""))]
    assert heard.keys == {key for keys in wanted for key in keys}
    tell(tracker, removed(*chained(PROMPT, salted)))
    assert heard.keys == {key for who in (0, 2, 3, 4) for key in wanted[who]}


def test_an_adapter_whose_name_is_also_the_salt_is_told_from_it() -> None:
    tracker, heard = begun()
    tell(tracker, stored(PROMPT, lora_name="x", extra_keys=[["x", "x"], *[["x"]] * 3]))
    assert heard.keys == set(keys_of(PROMPT, "x", "x"))


def test_a_block_with_an_image_matches_no_prompt_of_the_same_tokens() -> None:
    tracker, heard = begun()
    image, other = [["a1", 0]], [["b2", 0]]
    tell(tracker, stored(PROMPT, extra_keys=[None, image, None, None]))
    tell(tracker, stored(PROMPT, extra_keys=[None, other, None, None]))
    tell(tracker, stored(PROMPT, extra_keys=[None, ["bare, as once"], None, None]))
    plain = keys_of(PROMPT)
    assert plain[0] in heard.keys
    assert not heard.keys & set(plain[1:])
    assert len(heard.keys) == 1 + 3 * 3


def test_a_block_is_held_until_its_last_copy_is_gone() -> None:
    tracker, heard = begun()
    last = chained(PROMPT)[3]
    tell(tracker, stored(PROMPT), stored(PROMPT), stored(PROMPT, first=3))
    for _ in range(2):
        tell(tracker, removed(last))
        assert heard.keys == set(keys_of(PROMPT))
    tell(tracker, removed(last))
    assert heard.keys == set(keys_of(PROMPT)[:3])
    tell(tracker, removed(last))
    assert heard.keys == set(keys_of(PROMPT)[:3])


def test_a_copy_in_the_hosts_memory_counts_and_one_on_disk_does_not() -> None:
    tracker, heard = begun()
    names = chained(PROMPT)
    host: dict[str, Any] = {"medium": "CPU", "token_ids": [], "block_size": 0, "parent_block_hash": None}
    tell(tracker, stored(PROMPT), stored(PROMPT) | host, stored(PROMPT) | {"medium": "STORAGE"}, removed(*names))
    assert heard.keys == set(keys_of(PROMPT))
    tell(tracker, removed(*names, medium="STORAGE"))
    assert heard.keys == set(keys_of(PROMPT))
    tell(tracker, removed(*names, medium="CPU"))
    assert not heard.keys
    tell(tracker, stored(OTHER) | host)
    assert not heard.keys
    assert heard.exact


def test_layers_that_keep_a_part_of_a_prompt_are_no_measure_of_it() -> None:
    tracker, heard = begun()
    window: dict[str, Any] = {"group_idx": 1, "kv_cache_spec_kind": "sliding_window"}
    tell(tracker, stored(PROMPT), stored(PROMPT, **window), removed(*chained(PROMPT), group_idx=1))
    assert heard.keys == set(keys_of(PROMPT))
    assert not heard.exact
    tell(tracker, CLEARED, stored(PROMPT))
    assert heard.exact


def test_a_block_whose_beginning_is_unknown_is_counted_and_passed_over() -> None:
    tracker, heard = begun()
    tell(tracker, stored(PROMPT, first=2))
    assert not heard.keys
    assert not heard.exact
    assert repr(tracker) == "<Tracker incomplete blocks=0 orphans=2>"
    tell(tracker, stored(PROMPT))
    assert heard.keys == set(keys_of(PROMPT))
    assert not heard.exact


@pytest.mark.parametrize(
    "wrong",
    [
        {"token_ids": PROMPT[:15]},
        {"block_size": 8},
        {"block_size": 0},
        {"token_ids": [-1] * 16},
        {"token_ids": [1 << 40] * 16},
    ],
)
def test_blocks_that_cannot_be_named_are_counted_and_passed_over(wrong: dict[str, Any]) -> None:
    tracker, heard = begun()
    tell(tracker, stored(OTHER[8:]), stored(PROMPT) | wrong)
    assert heard.keys == set(keys_of(OTHER[8:]))
    assert tracker.unnamed == 4
    assert not heard.exact


def test_a_cleared_cache_is_known_again() -> None:
    tracker, heard = begun()
    tell(tracker, stored(PROMPT))
    tracker.missed()
    assert not heard.exact
    tell(tracker, CLEARED, stored(OTHER))
    assert heard.keys == set(keys_of(OTHER))
    assert heard.exact
    assert tracker.block_tokens == BLOCK


def test_what_was_told_before_a_loss_names_what_follows_it() -> None:
    tracker, heard = begun()
    tell(tracker, stored(PROMPT), stored(PROMPT))
    tracker.missed()
    assert heard.calls[-1] == "not exact"
    assert repr(tracker) == "<Tracker incomplete blocks=0 doubtful=4>"
    heard.keys.clear()
    tell(tracker, stored(OTHER, first=2))
    assert heard.keys == set(keys_of(OTHER)[2:])
    tell(tracker, stored(PROMPT[:8]))
    assert heard.keys == {*keys_of(OTHER), *keys_of(PROMPT)[:2]}
    tell(tracker, removed(*chained(PROMPT)))
    assert heard.keys == set(keys_of(OTHER)[2:])
    assert "doubtful" not in repr(tracker)


def test_who_stands_still_tells_everything_again() -> None:
    tracker, heard = begun()
    prompt = list(range(2 * STEP * BLOCK))
    tell(tracker, stored(prompt))
    tracker.suspend()
    tracker.suspend()
    assert heard.calls.count("not exact") == 1
    assert repr(tracker) == f"<Tracker suspended blocks={2 * STEP}>"
    heard.keys.clear()
    assert list(tracker.resume()) == [STEP, STEP]
    assert heard.keys == set(keys_of(prompt))
    assert heard.exact
    tracker.suspend()
    tracker.missed()
    assert not list(tracker.resume())
    assert not heard.exact


def test_a_long_prompt_is_taken_in_steps() -> None:
    tracker, heard = begun()
    prompt = list(range((3 * STEP + 5) * BLOCK))
    sizes = list(tracker.apply(read(stored(prompt), removed(*chained(prompt)))))
    assert sizes == [STEP, STEP, STEP, 5] * 2
    assert not heard.keys


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    heard = Heard()
    tracker = Tracker(heard, max_blocks=64)
    tracker.begin()
    for number in range(100):
        tell(tracker, stored([number] * BLOCK), stored([number] * BLOCK))
    assert len(tracker) <= 64
    assert heard.keys == {key for number in range(100 - len(tracker), 100) for key in keys_of([number] * BLOCK)}
    assert tracker.forgotten == 100 - len(tracker)
    assert not heard.exact
    tracker.missed()
    for number in range(200, 300):
        tell(tracker, stored([number] * BLOCK))
    assert len(tracker) <= 64


def test_a_restart_whose_beginning_is_unknown_is_not_exact() -> None:
    tracker, heard = begun()
    tell(tracker, stored(PROMPT))
    tracker.restarted()
    assert not heard.keys
    assert not heard.exact


def test_names_of_adapters_and_seeds() -> None:
    (event,) = read(stored(PROMPT))
    assert adapter_of(event) == ""  # type: ignore[arg-type]
    assert root_seed() == first_seed("", b"")


class Cache:
    """A model of vLLM's: physical blocks, each with the hash of a prefix; the same prefix may be there twice."""

    def __init__(self) -> None:
        self.copies: Counter[int] = Counter()
        self.key_of: dict[int, int] = {}

    def store(self, prompt: Sequence[int], salt: str, again: int) -> dict[str, Any] | None:
        """What a request for `prompt` stores: all that is not there, and `again` blocks that another computes too."""
        extras = [[salt], *[None] * 9] if salt else [None] * 10
        names = chained(prompt, extras)
        keys = keys_of(prompt, salt=salt)
        held = next((i for i, name in enumerate(names) if not self.copies[name]), len(names))
        first = max(0, held - again)
        if first == len(names):
            return None
        self.copies.update(names[first:])
        self.key_of.update(zip(names, keys, strict=True))
        return stored(prompt, first=first, extra_keys=extras)

    def evict(self, rng: random.Random) -> dict[str, Any] | None:
        present = sorted(name for name, count in self.copies.items() if count)
        if not present:
            return None
        name = rng.choice(present)
        self.copies[name] -= 1
        return removed(name)

    @property
    def keys(self) -> set[int]:
        return {self.key_of[name] for name, count in self.copies.items() if count}


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 120))
def test_whatever_is_stored_and_removed_the_held_keys_are_the_models(rng: random.Random, steps: int) -> None:
    tracker, heard = begun()
    cache = Cache()
    for _ in range(steps):
        kind = rng.random()
        event: dict[str, Any] | None
        if kind < 0.55:
            prompt = [rng.randrange(2) for _ in range(BLOCK * rng.randint(1, 5))]
            event = cache.store(prompt, rng.choice(("", "", "s")), rng.choice((0, 0, 1, 5)))
        elif kind < 0.97:
            event = cache.evict(rng)
        else:
            event = CLEARED
            cache = Cache()
        if event is not None:
            tell(tracker, event)
        assert heard.keys == cache.keys
        assert heard.exact


def test_the_model_hashes_as_the_publisher() -> None:
    assert chained(PROMPT)[0] == engine_hash(None, PROMPT[:BLOCK])
