"""Which replica holds which leading tokens, against a model of plain sets (R03)."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from router.prefix import Certainty, Prefix, PrefixIndex, Slot, blocks_up_to, sparse


def chain(*parts: tuple[str, int]) -> list[int]:
    """Chained keys: each stands for its whole prefix, as those of a prompt do."""
    keys = [0]
    for name, count in parts:
        for block in range(count):
            keys.append(random.Random(f"{keys[-1]} {name} {block}").getrandbits(64))
    return keys[1:]


PROMPTS = [
    chain(("system", shared), (name, own))
    for shared, name, own in (
        *((0, "a", 1), (0, "a", 70), (3, "b", 0), (3, "b", 4), (3, "c", 90), (40, "d", 60), (40, "e", 600)),
        *((200, "f", 0), (200, "g", 100), (600, "h", 40), (600, "i", 700)),
    )
]
prompts = st.sampled_from(PROMPTS)


class ToldAndGuessed(RuleBasedStateMachine):
    """Slots come and go; engines tell, and prompts are sent, in any order. Every match is checked against sets."""

    slots: Bundle[Slot] = Bundle("slots")

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex()
        self.exact: dict[Slot, set[int]] = {}
        self.guessed: dict[Slot, set[int]] = {}

    @rule(target=slots)
    def opened(self) -> Slot:
        slot = self.index.open(10**6)
        assert all(slot.bit != other.bit for other in self.exact)
        self.exact[slot], self.guessed[slot] = set(), set()
        return slot

    @rule(slot=consumes(slots))
    def closed(self, slot: Slot) -> None:
        self.index.close(slot)
        del self.exact[slot], self.guessed[slot]

    @rule(slot=slots, keys=prompts)
    def stored(self, slot: Slot, keys: list[int]) -> None:
        self.index.stored(slot, keys)
        self.exact[slot] |= set(keys)

    @rule(slot=slots, keys=prompts, kept=st.integers(0, 700))
    def removed_from_the_end(self, slot: Slot, keys: list[int], kept: int) -> None:
        gone = set(keys[kept:])
        for prompt in PROMPTS:
            first = next((i for i, key in enumerate(prompt) if key in gone), len(prompt))
            gone |= set(prompt[first:])
        self.index.removed(slot, sorted(gone))
        self.exact[slot] -= gone

    @rule(slot=slots, keys=prompts)
    def inserted(self, slot: Slot, keys: list[int]) -> None:
        self.index.insert(slot, Prefix(keys))
        self.guessed[slot] |= set(sparse(keys))

    @rule(slot=slots)
    def cleared(self, slot: Slot) -> None:
        self.index.clear(slot)
        self.exact[slot], self.guessed[slot] = set(), set()

    @rule(slot=slots, certainty=st.sampled_from(list(Certainty)))
    def known_otherwise(self, slot: Slot, certainty: Certainty) -> None:
        if certainty is not slot.certainty:
            kept = set() if certainty is Certainty.EXACT else self.guessed[slot] | self.exact[slot]
            self.exact[slot], self.guessed[slot] = self.exact[slot] - kept, kept
        self.index.certain(slot, certainty)

    @invariant()
    def every_match_is_the_longest_chain_that_is_held(self) -> None:
        for keys in PROMPTS:
            found = self.index.match(Prefix(keys, 10.0))
            few = sparse(keys)
            for slot, told in self.exact.items():
                told_blocks = next((i for i, key in enumerate(keys) if key not in told), len(keys))
                guessed = self.guessed[slot] if slot.certainty is not Certainty.NONE else set()
                position = next((i for i, key in enumerate(few) if key not in guessed), len(few))
                guessed_blocks = blocks_up_to(position - 1) if position else 0
                assert found[slot.bit] == 10 * max(told_blocks, guessed_blocks), (keys, slot)

    @invariant()
    def nothing_is_left_of_what_is_gone(self) -> None:
        sizes = (sum(len(told) for told in self.exact.values()), sum(len(few) for few in self.guessed.values()))
        assert self.index.size_bytes == PrefixIndex(10**9).size_bytes + sum(sizes) * 480


TestToldAndGuessed = ToldAndGuessed.TestCase
TestToldAndGuessed.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@given(
    lengths=st.lists(st.integers(1, 400), min_size=2, max_size=12), shared=st.integers(0, 100), fits=st.integers(1, 900)
)
@settings(deadline=None)
def test_the_end_of_a_prompt_is_forgotten_before_its_beginning(lengths: list[int], shared: int, fits: int) -> None:
    index = PrefixIndex()
    slot = index.open(fits * 10)
    sent = [chain(("system", shared), (str(i), length)) for i, length in enumerate(lengths)]
    for keys in sent:
        index.insert(slot, Prefix(keys, 10.0))
        assert slot.tokens <= fits * 10
        for other in sent:
            held = [key in slot.history for key in sparse(other)]
            assert held == sorted(held, reverse=True), "what is held of a prompt is its beginning"
    last = sparse(sent[-1])
    fitting = [i for i in range(len(last)) if blocks_up_to(i) <= fits]
    assert index.match(Prefix(sent[-1], 10.0))[0] == (blocks_up_to(fitting[-1]) * 10 if fitting else 0)


def test_a_prompt_that_was_used_of_late_outlives_older_ones() -> None:
    index = PrefixIndex()
    slot = index.open(1000)
    a, b, c = (Prefix(chain((name, 30)), 16.0) for name in "abc")
    for prefix in (a, b, a, c):
        index.insert(slot, prefix)
    assert [index.match(prefix)[0] for prefix in (a, b, c)] == [480, 32, 480]


@given(length=st.integers(0, 3000))
def test_a_sparse_key_stands_for_all_blocks_up_to_its_own(length: int) -> None:
    keys = list(range(length))
    assert [blocks_up_to(position) for position in range(len(sparse(keys)))] == [key + 1 for key in sparse(keys)]
    assert len(sparse(keys)) <= 120 + max(0, length - 512) // 64


def test_a_slot_is_used_again_and_what_is_told_late_of_its_former_replica_changes_nothing() -> None:
    index = PrefixIndex()
    first, other = index.open(), index.open()
    index.insert(first, Prefix([1, 2, 3]))
    index.close(first)
    second = index.open()
    assert (first.bit, second.bit, other.bit) == (0, 0, 1)
    index.stored(first, [1, 2, 3])
    index.insert(first, Prefix([1, 2, 3]))
    index.close(first)
    assert index.match(Prefix([1, 2, 3])) == [0, 0]
    index.insert(second, Prefix([1, 2]))
    assert index.match(Prefix([1, 2, 3])) == [32, 0]


def test_what_was_guessed_is_forgotten_once_the_engine_tells() -> None:
    index = PrefixIndex()
    slot = index.open()
    index.insert(slot, Prefix([1, 2, 3]))
    index.certain(slot, Certainty.EXACT)
    assert index.match(Prefix([1, 2, 3])) == [0]
    index.insert(slot, Prefix([1, 2]))
    assert index.match(Prefix([1, 2, 3])) == [32], "sent a moment ago: the engine has not told of it yet"
    index.stored(slot, [1])
    index.forget(slot, Prefix([1, 2]))
    index.forget(slot, Prefix([1, 2]))
    assert index.match(Prefix([1, 2, 3])) == [16]


def test_what_an_engine_told_is_a_guess_once_it_tells_no_more() -> None:
    index = PrefixIndex()
    slot = index.open(16 * 300)
    index.certain(slot, Certainty.EXACT)
    a, b = chain(("a", 100)), chain(("b", 100))
    index.stored(slot, a)
    index.stored(slot, b)
    index.certain(slot, Certainty.PREDICTED)
    assert [index.match(Prefix(keys))[0] for keys in (a, b)] == [96 * 16, 96 * 16]
    index.insert(slot, Prefix(chain(("c", 120))))
    for keys in (a, b):
        held = [key in slot.history for key in keys]
        assert held == sorted(held, reverse=True), "it too is forgotten from the end"


def test_trust_becomes_the_share_of_the_guesses_that_came_true() -> None:
    """The answers are compared with what `match` said, discount included."""
    index = PrefixIndex()
    slot = index.open()
    prefix = Prefix(chain(("a", 50)))
    index.insert(slot, prefix)
    for _ in range(200):
        slot.answered(index.match(prefix)[0], 400)
    assert slot.trust == pytest.approx(0.5, rel=0.02)
    assert index.match(prefix)[0] == pytest.approx(400, rel=0.02)


def test_an_engine_that_caches_nothing_is_found_out_and_one_that_does_again_is_believed_again() -> None:
    index = PrefixIndex()
    slot = index.open()
    prefix = Prefix(chain(("a", 50)))
    index.insert(slot, prefix)
    asked = 0
    while slot.certainty is Certainty.PREDICTED:
        slot.answered(index.match(prefix)[0], 0)
        asked += 1
    assert 20 <= asked <= 100
    assert index.match(prefix) == [0]
    slot.answered(0, 0)
    assert repr(slot).startswith("<Slot 0 none ")
    slot.answered(0, 700)
    assert repr(slot).startswith("<Slot 0 predicted ")
    for _ in range(100):
        slot.answered(index.match(prefix)[0], 800)
    assert index.match(prefix)[0] > 780


def test_how_much_a_replica_holds_is_learned_from_its_answers() -> None:
    """An engine with room for 40 blocks, of which nobody knows, is taken to hold no fewer and not many more."""
    index, engine, rng = PrefixIndex(), PrefixIndex(), random.Random(3)
    slot, truth = index.open(), engine.open(16 * 400)
    talks = [Prefix(chain((str(i), 40))) for i in range(30)]
    for _ in range(3000):
        prefix = rng.choice(talks)
        slot.answered(index.match(prefix)[0], engine.match(prefix)[0])
        index.insert(slot, prefix)
        engine.insert(truth, prefix)
    assert 0.6 < slot.fits_tokens / (16 * 400) < 1.7


def test_what_the_engine_told_of_its_size_is_never_exceeded_and_no_less_than_the_least_is_learned() -> None:
    index = PrefixIndex()
    slot = index.open(2000)
    index.insert(slot, Prefix(chain(("a", 125))))
    for _ in range(50):
        slot.answered(1000, 1000)
    assert slot.fits_tokens == 2000
    for _ in range(200):
        slot.answered(1000, 0)
    assert slot.fits_tokens == 1024
    slot.resize(500)
    for _ in range(50):
        slot.answered(1000, 0)
    assert slot.fits_tokens == 500
    slot.resize(0)
    assert slot.fits_tokens == 131_072
    assert repr(slot).startswith("<Slot 0 none exact=0 history=")
