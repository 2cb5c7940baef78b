"""Cutting a text behind special tokens changes no id, whatever the tokenizer does at the start of a text."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers

from gateway.prompts.body import id_bytes
from gateway.prompts.segments import BATCH_CHARS, SegmentEncoder

TINY = Path(__file__).parent / "data/tiny/tokenizer.json"
SPECIAL = ("<s>", "</s>", "<|end|>")
FOREVER = float("inf")


def trained(arrange: Callable[[Tokenizer], None], special: tuple[str | AddedToken, ...] = SPECIAL) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="?", fuse_unk=True, byte_fallback=False))
    arrange(tokenizer)
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["?", *special], show_progress=False)
    tokenizer.train_from_iterator([TINY.read_text()[:20_000], "the cat sat on the mat é"], trainer)
    return tokenizer


def metaspace(scheme: str) -> Tokenizer:
    def arrange(tokenizer: Tokenizer) -> None:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)

    return trained(arrange)


def prepended() -> Tokenizer:
    def arrange(tokenizer: Tokenizer) -> None:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])

    return trained(arrange)


def prefixed() -> Tokenizer:
    def arrange(tokenizer: Tokenizer) -> None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)

    return trained(arrange)


def lowered() -> Tokenizer:
    def arrange(tokenizer: Tokenizer) -> None:
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()

    return trained(arrange)


def stripping() -> Tokenizer:
    eager = AddedToken("<|end|>", rstrip=True, lstrip=True, special=True)
    return trained(lambda tokenizer: None, ("<s>", "</s>", eager))


TOKENIZERS = {
    "tiny": lambda: Tokenizer.from_file(str(TINY)),
    "metaspace first": lambda: metaspace("first"),
    "metaspace always": lambda: metaspace("always"),
    "prepended": prepended,
    "prefix space": prefixed,
    "lowered": lowered,
    "stripping": stripping,
}
WORDS = st.sampled_from(
    [*SPECIAL, "<s", ">", " ", "\n", "  ", "the cat", "Sat", "é", "ﬁ", "😀", "<|end|>\n", "▁", "x" * 50]
)


def encoder(
    tokenizer: Tokenizer, max_bytes: int = 1_000_000, now_s: Callable[[], float] = lambda: 0.0
) -> SegmentEncoder:
    return SegmentEncoder(tokenizer, list(SPECIAL), max_bytes, now_s)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_text_that_is_cut_has_the_ids_of_the_whole(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    cut = encoder(tokenizer)
    assert repr(cut).startswith("<SegmentEncoder cuts ")

    @settings(max_examples=150, deadline=None)
    @given(st.lists(WORDS, max_size=30))
    def same(words: list[str]) -> None:
        text = "".join(words)
        whole = tokenizer.encode(text, add_special_tokens=False).ids
        assert cut.encode(text, FOREVER).ids == id_bytes(whole)

    same()


def test_a_token_that_another_may_swallow_cuts_nothing() -> None:
    def arrange(tokenizer: Tokenizer) -> None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)

    longer = encoder(trained(arrange, ("<s>", "<s>!")))
    assert repr(longer).startswith("<SegmentEncoder whole ")
    overlapping = encoder(trained(arrange, ("<s>", "a<")))
    assert repr(overlapping).startswith("<SegmentEncoder whole ")


def test_a_token_that_only_stands_alone_or_is_normalized_cuts_nothing() -> None:
    words = (AddedToken("<s>", single_word=True), AddedToken("</s>", normalized=True))
    assert repr(encoder(trained(lambda tokenizer: None, words))).startswith("<SegmentEncoder whole ")


def test_without_a_token_to_cut_behind_a_text_is_one_segment() -> None:
    tokenizer = Tokenizer.from_file(str(TINY))
    whole = SegmentEncoder(tokenizer, [], 10_000, lambda: 0.0)
    assert whole.encode("a</s>b", FOREVER).ids == id_bytes(tokenizer.encode("a</s>b", add_special_tokens=False).ids)
    assert repr(whole).startswith("<SegmentEncoder whole segments=1 ")


def test_what_was_seen_is_not_encoded_again() -> None:
    looks = 0

    def look() -> float:
        nonlocal looks
        looks += 1
        return 0.0

    cut = encoder(Tokenizer.from_file(str(TINY)), now_s=look)
    cut.encode("one</s>two</s>", 1.0)
    looks = 0
    cut.encode("two</s>one</s>"[7:] + "two</s>", 1.0)
    assert looks == 0  # the clock is looked at before each batch
    cut.encode("one</s>two</s>three", 1.0)
    assert looks == 1


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    cut = encoder(Tokenizer.from_file(str(TINY)), max_bytes=5_000)
    for at in range(200):
        cut.encode(f"number {at} </s>", FOREVER)
    held = int(repr(cut).partition("held_bytes=")[2].partition("/")[0])
    assert 3_000 < held <= 5_000


def test_at_the_deadline_what_there_is_is_the_start_of_the_prompt() -> None:
    seconds = itertools.count(-1000)
    tokenizer = Tokenizer.from_file(str(TINY))
    cut = encoder(tokenizer, now_s=lambda: float(next(seconds)))
    piece = "word " * (BATCH_CHARS // 5) + "</s>"
    text = "".join(f"{at}{piece}" for at in range(5))
    partial = cut.encode(text, next(seconds) + 3.0)
    assert partial.rest_chars == 3 * (len(piece) + 1)
    whole = id_bytes(tokenizer.encode(text, add_special_tokens=False).ids)
    assert whole.startswith(partial.ids)
    assert cut.encode(text, FOREVER).ids == whole
