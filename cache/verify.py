"""Whether two questions that look alike ask for the same: cues of their texts, beside the cosine of their vectors.

Embeddings put 2 eggs beside 3, and what may be done beside what may not. Here is compared exactly: numbers with units,
dates, codes, names, negation and opposites, scope, who does what to whom, and the words that one has and the other
has not."""

from __future__ import annotations

from math import exp

from cache.meaning import are_alike, are_opposites, concept_of
from cache.signals import Signals, read_signals

__all__ = [
    "NAMES",
    "PRIOR_CUT",
    "Features",
    "Signals",
    "doubt",
    "features",
    "is_likely",
    "prior",
    "read_signals",
    "veto",
]

Features = tuple[float, ...]

NAMES = (
    "polarity",  # an odd number of negations, opposites and swaps lies between them
    "negation",  # one negates, the other does not
    "opposites",  # pairs of words with opposite meaning, one in each
    "numbers",  # each has a number that the other has not
    "numbers_missing",  # one has
    "exact",  # each has a date or a code that the other has not
    "exact_missing",  # one has
    "names",  # each has a name that the other has not
    "names_missing",  # one has
    "swapped",  # the same things in other roles
    "scope",  # kinds of scope words that one has and the other has not
    "kind",  # why, when, where, who, how many: each asks for another
    "kind_unclear",  # one of them asks for one of these
    "replaced",  # they differ in one content word each, and share more
    "added",  # one is the other with a word or two more
    "same",  # all content words are shared
    "few",  # content words that the one with fewer of them has alone, to 4
    "many",  # those that the other has alone, to 6
    "shared",  # content words that both have, to 6
    "jaccard",  # of content words
    "overlap",  # of all words
    "edited",  # share of all words that both have, where what is said differs: one text made from the other
    "length",  # ratio of the shorter to the longer, in content words
)
WEIGHTS = {
    "polarity": -2.78,
    "numbers": -3.88,
    "numbers_missing": -0.08,
    "exact": -4.07,
    "names": -1.39,
    "names_missing": -0.13,
    "swapped": -2.36,
    "scope": -0.06,
    "kind": -0.28,
    "kind_unclear": -0.12,
    "replaced": -0.33,
    "edited": -2.19,
}
"""Log-odds per feature, of a logistic model over `features` and the cosine of MiniLM. Learned on pairs of Quora with
 a cosine above 0.55, on CheckList's suite and on 284 pairs written for it, weighed 1 : 0.5 : 0.7, signs held. Features
without one wait for labels."""
COSINE_WEIGHT = 5.06
BASE = -2.99
PRIOR_CUT = 0.55
"""Of `prior`: what is likelier is taken for the same question as long as nothing is known of a cohort."""

_AT = {name: at for at, name in enumerate(NAMES)}
_WEIGHED = tuple((_AT[name], weight) for name, weight in WEIGHTS.items())
_SCOPES_OPPOSED = (
    ("before", "after"), ("more", "less"), ("most", "least"), ("first", "last"), ("all", "none"), ("all", "some"),
    ("all", "only"), ("both", "either"), ("always", "sometimes"), ("inside", "outside"), ("he", "she"),
)  # fmt: skip
_OFF = concept_of("off")
_AGAINST = frozenset(
    map(concept_of, ("stop", "avoid", "forbid", "dislike", "hate", "refuse", "lack", "oppose", "bad", "worse", "worst"))
)
"""Such a word alone turns round what is said without it."""
_MOST_COMPARISONS = 600
"""Of words of two texts; where more would be needed they have little in common anyway."""
_DEFINITE = frozenset({"why", "when", "where", "who", "quantity", "duration", "measure", "frequency"})


def features(a: str | Signals, b: str | Signals) -> Features:
    """What speaks for and against the two being one question, in the order of `NAMES`; the same for (b, a)."""
    if isinstance(a, str):
        a = read_signals(a)
    if isinstance(b, str):
        b = read_signals(b)
    if b.content < a.content:
        a, b = b, a
    only_a, only_b = a.concepts - b.concepts, b.concepts - a.concepts
    opposites = _scopes_opposed(a, b)
    if 0 < len(only_a) * len(only_b) <= _MOST_COMPARISONS:
        only_a, only_b, opposed = _compared(only_a, only_b)
        opposites += opposed
    opposites += _is_off(a, b, only_a, only_b)
    swapped = _is_swapped(a, b, not only_a and not only_b)
    negation = a.negated != b.negated
    scope = a.scopes ^ b.scopes
    numbers, numbers_missing = _differ(frozenset(a.numbers), frozenset(b.numbers))
    exact, exact_missing = _differ(a.exact, b.exact)
    names, names_missing = _differ(_unnamed(a, b), _unnamed(b, a))
    kinds = (a.kind in _DEFINITE) + (b.kind in _DEFINITE) if a.kind != b.kind else 0
    few, many = sorted((len(only_a), len(only_b)))
    if few == 0 and many == 1 and not _AGAINST.isdisjoint(only_a | only_b):
        opposites += 1
    polarity = (opposites + negation) % 2
    if swapped and polarity:
        swapped, polarity = False, 0  # "A is better than B", "B is worse than A"
    shared = max(len(a.concepts) - len(only_a), len(b.concepts) - len(only_b))
    total = shared + few + many
    lengths = sorted((len(a.content), len(b.content)))
    words = len(a.words | b.words)
    overlap = len(a.words & b.words) / words if words else 1.0
    return (
        float(polarity),
        float(negation), float(opposites), numbers, numbers_missing, exact, exact_missing, names, names_missing,
        float(swapped), float(len(scope)), float(kinds == 2), float(kinds == 1),
        float(few == many == 1 and shared > 0), float(few == 0 < many < 3 and shared > 0), float(many == 0 < total),
        float(min(few, 4)), float(min(many, 6)), float(min(shared, 6)),
        shared / total if total else 0.0,
        overlap,
        overlap if many or scope or numbers_missing or exact_missing else 0.0,
        (lengths[0] + 1) / (lengths[1] + 1),
    )  # fmt: skip


def veto(given: Features) -> str:
    """Which cue says surely that they differ: "numbers", "exact", "polarity" or "swapped"; empty: none.
    What only one of them has says less, and is left to the score."""
    for name in ("numbers", "exact", "polarity", "swapped"):
        if given[_AT[name]]:
            return name
    return ""


def doubt(given: Features) -> float:
    """Log-odds that the cues take away from what the vectors say: 0 or less."""
    return sum([weight * given[at] for at, weight in _WEIGHED])


def prior(cosine: float, given: Features) -> float:
    """Probability that they ask for the same, before any label of a cohort is known. `cosine`: by MiniLM."""
    return 1.0 / (1.0 + exp(-(BASE + COSINE_WEIGHT * cosine + doubt(given))))


def is_likely(cosine: float, given: Features) -> bool:
    """Whether two questions would be taken for the same if there were no labels to go by."""
    return not veto(given) and prior(cosine, given) >= PRIOR_CUT


def _differ(a: frozenset[str], b: frozenset[str]) -> tuple[float, float]:
    """Whether each has something alone, and whether only one has."""
    if a == b:
        return 0.0, 0.0
    both = not (a <= b or b <= a)
    return float(both), float(not both)


def _unnamed(a: Signals, b: Signals) -> frozenset[str]:
    """Names of one that the other does not know, however it writes them."""
    if not a.names:
        return a.names
    missing = a.names - b.words
    if missing:
        missing = frozenset(name for name in missing if not _is_known(name, b))
    return missing


def _is_known(name: str, b: Signals) -> bool:
    return name in b.concepts or name in b.initials or any(are_alike(name, word) for word in b.words)


def _compared(only_a: frozenset[str], only_b: frozenset[str]) -> tuple[frozenset[str], frozenset[str], int]:
    """Without words that are forms of one another; and how many are opposites, which stay."""
    opposites = 0
    alike_a, alike_b = set[str](), set[str]()
    for x in sorted(only_a):
        for y in sorted(only_b):
            if are_opposites(x, y):
                opposites += 1
            elif y not in alike_b and are_alike(x, y):
                alike_a.add(x)
                alike_b.add(y)
                break
    return only_a - alike_a, only_b - alike_b, opposites


def _scopes_opposed(a: Signals, b: Signals) -> int:
    only_a, only_b = a.scopes - b.scopes, b.scopes - a.scopes
    if not only_a or not only_b:
        return 0
    return sum((x in only_a and y in only_b) or (x in only_b and y in only_a) for x, y in _SCOPES_OPPOSED)


def _is_off(a: Signals, b: Signals, only_a: frozenset[str], only_b: frozenset[str]) -> bool:
    """Whether one turns off what the other turns on."""
    for only, x, y in ((only_a, a.words, b.words), (only_b, b.words, a.words)):
        if _OFF in only and "off" in x and "on" in y and "on" not in x:
            return True
    return False


def _is_swapped(a: Signals, b: Signals, same: bool) -> bool:
    """Whether the same things stand in other roles: "from A to B" and "from B to A", "A beat B" and "B beat A"."""
    conflicts = 0
    for role, x in a.roles.items():
        y = b.roles.get(role)
        if y is not None and x != y and x in b.concepts and y in a.concepts:
            conflicts += 1 if _in_order(x, y, a) == _in_order(x, y, b) else 2
    if conflicts > 1:
        return True
    if a.numbers != b.numbers and sorted(a.numbers) == sorted(b.numbers) and not (a.symmetric or b.symmetric):
        return True
    passive = ("by" in a.roles) != ("by" in b.roles)
    if not same or a.symmetric or b.symmetric or len(a.names) < 2 or a.names != b.names:
        return False
    if any(a.roles.get(role) == name for role, name in b.roles.items() if name in a.names):
        return False
    in_a = [word for word in a.content if word in a.names]
    in_b = [word for word in b.content if word in a.names]
    return sorted(in_a) == sorted(in_b) and (in_a != in_b) != passive


def _in_order(x: str, y: str, signals: Signals) -> bool:
    return signals.content.index(x) < signals.content.index(y)
