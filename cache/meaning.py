"""What single English words mean, as far as telling two questions apart needs it: stems, synonyms, opposites."""

from __future__ import annotations

from collections.abc import Iterator

from cache.lexicon import GROUPS, OPPOSITE, SAME, STOP

_ENDINGS = ("ing", "ed", "ly", "er", "or", "est")
_NEGATING = ("un", "in", "im", "il", "ir", "dis", "non")
NOT = "not "
"""Before the meaning of a word that a prefix turns round."""
_PREFIXES = ("un", "in", "im", "il", "ir", "dis", "non", "de", "mis", "anti", "counter", "under", "over", "sub", "re")


def concept_of(word: str) -> str:
    """What it means: its group's first word, or its stem; empty: nothing much."""
    if word in STOP:
        return ""
    if word in GROUPS:
        return GROUPS[word]
    for stem in _stems(word):
        if len(stem) > 2 and stem in STOP:
            return ""
        if stem in GROUPS:
            return GROUPS[stem]
    for prefix in _NEGATING:
        if word.startswith(prefix) and word.removeprefix(prefix) in GROUPS:
            return NOT + GROUPS[word.removeprefix(prefix)]
    return _plural(word)


def _plural(word: str) -> str:
    """Without the ending of a plural, a participle or an adverb."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-2] if word.endswith(("ches", "shes", "xes", "sses")) else word[:-1]
    for ending in ("ing", "ed", "ly"):
        if len(word) > len(ending) + 3 and word.endswith(ending):
            word = word.removesuffix(ending)
            return word[:-1] if word[-1] == word[-2] and word[-1] not in "ls" else word.removesuffix("e")
    return word.removesuffix("e") if len(word) > 4 else word


def _stems(word: str) -> Iterator[str]:
    if word.endswith("ies") and len(word) > 4:
        yield word[:-3] + "y"
    if word.endswith("s") and len(word) > 3:
        yield word[:-1]
        if word.endswith("es"):
            yield word[:-2]
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) > len(ending) + 2:
            stem = word.removesuffix(ending)
            yield stem
            yield stem + "e"
            if stem[-1] == stem[-2]:
                yield stem[:-1]
    if word.endswith("ied"):
        yield word[:-3] + "y"


def _both_ways(x: str, y: str) -> tuple[tuple[str, str], ...]:
    x, y = concept_of(x), concept_of(y)
    return ((x, y), (y, x)) if x != y else ()


_OPPOSITES = frozenset(pair for x, y in OPPOSITE for pair in _both_ways(x, y))
_RELATED = frozenset(
    pair for first, *others in SAME for other in others for pair in _both_ways(first, other)
).difference(_OPPOSITES)
"""Groups that have a word in common, which may mean either."""


def are_opposites(x: str, y: str) -> bool:
    """Whether two concepts are."""
    return (x, y) in _OPPOSITES or _is_negated(x, y) or _is_negated(y, x)


def _is_negated(x: str, y: str) -> bool:
    """Whether y is x with a prefix that turns it round."""
    return len(y) > len(x) > 2 and y.endswith(x) and (y == NOT + x or y[: -len(x)] in _PREFIXES)


def are_alike(x: str, y: str) -> bool:
    """Whether they may mean the same, are forms of one word, or one is the other misspelled."""
    if (x, y) in _RELATED:
        return True
    if x[:2] != y[:2]:
        return False
    longest = max(len(x), len(y))
    if min(len(x), len(y)) < 4:
        return False
    common = next((at for at, (p, q) in enumerate(zip(x, y, strict=False)) if p != q), min(len(x), len(y)))
    if common >= 4 and common >= 0.6 * longest:
        return True
    return longest > 6 and abs(len(x) - len(y)) < 2 and _rest_is_one_slip(x[common:], y[common:])


def _rest_is_one_slip(x: str, y: str) -> bool:
    """Whether one letter more, less, another or two in the wrong order make them equal."""
    return x[1:] == y[1:] or x[1:] == y or x == y[1:] or (x[:2] == y[1::-1] and x[2:] == y[2:])
