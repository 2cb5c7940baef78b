"""What a text says in so many words: its content by meaning, numbers, dates, codes, names, negation, scope, roles.

Read once per text and kept with it. English is read best; of other languages, what is written alike everywhere:
numbers, units, codes, names, and which words are there at all."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple
from unicodedata import normalize

from cache.lexicon import DATES, GROUPS, MULTIPLES, NEGATIONS, NUMBER_WORDS, SCOPES, STOP, UNITS
from cache.meaning import concept_of

MAX_WORDS = 512
"""What comes after is not read: a text is compared to tell questions apart, not documents."""
_ADDRESSES = r"https?://\S+|[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+|[A-Za-z]+(?:_[A-Za-z\d]+)+"
_WORDS = (
    r"[^\W\d_]++(?:'[^\W\d_]++)*+(?:\+\+|#(?=\W|$))?+(?!\d)"
    r"|[A-Za-z]*\d(?:[A-Za-z\d_.,:/-]*[A-Za-z\d])?|[^\W\d_]+|[.?!]+(?=\s|$)|[%$€£]"
    r"|(?<=\d)\s?[-+*^\u00d7\u00f7]\s?(?=\d)|(?<![\w-])-(?=\d)|[=!<>]=|[=<>]|&&|\|\|"
)
_tokens = re.compile(_WORDS).findall
_tokens_and_addresses = re.compile(f"{_ADDRESSES}|{_WORDS}").findall
_addressed = re.compile("@|_|://").search
_number = re.compile(r"([$€£]?)(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?:(st|nd|rd|th)|([a-z%]{1,7}))?").fullmatch
_SIGNS = {"%": "%", "$": "$", "€": "eur", "£": "gbp"}
_ROLES = frozenset({"to", "into", "from", "than", "by", "over", "before", "after"})
_SYMMETRIC = frozenset({"and", "or", "vs", "versus", "between", "both", "with"})
_PRONOUNS = {"he": "he", "him": "he", "his": "he", "she": "she", "her": "she", "hers": "she"}
_WHICH = {"why": "why", "when": "when", "where": "where", "who": "who", "whom": "who", "whose": "who", "how": "how"}
_HOW = {
    "many": "quantity", "much": "quantity", "long": "duration", "far": "measure", "old": "measure", "tall": "measure",
    "fast": "measure", "big": "measure", "often": "frequency",
}  # fmt: skip
_AUXILIARIES = """
is are was were am do does did can could should will would may might must has have had isn't aren't don't doesn't didn't
can't couldn't shouldn't wouldn't won't
"""
_YES_NO = frozenset(_AUXILIARIES.split())
_BEFORE_ORDINAL = frozenset({"the", "every", "my", "your", "this", "of"})
_ARTICLES = frozenset({"a", "an", "one", "per"})
_ROMAN = {"II": 2.0, "III": 3.0, "IV": 4.0, "VI": 6.0, "VII": 7.0, "VIII": 8.0, "IX": 9.0}
_OPERATORS = frozenset({"-", "+", "*", "^", "\u00d7", "\u00f7", "==", "!=", "<=", ">=", "=", "<", ">", "&&", "||"})
_CODE = frozenset("@_:/")
LONGEST_ACRONYM = 5
LONGEST_AMOUNT = 12
"""Digits; longer numbers are names of something."""


class Signals(NamedTuple):
    """What a text says.

    content:   its words that carry meaning, by group of synonyms, in order.
    concepts:  the same as a set.
    words:     all of them in lower case.
    numbers:   each in one spelling, with its unit, in order.
    exact:     dates and codes such as versions, identifiers or standards.
    names:     what is written as a name, in lower case.
    initials:  of names that stand together.
    scopes:    kinds of words that say of what or when it holds.
    roles:     which content word follows "to", "from", "than", "by" and their like.
    negated:   whether an odd number of words negates.
    symmetric: whether it joins things by a word for which their order does not matter.
    kind:      of question.
    """

    content: tuple[str, ...]
    concepts: frozenset[str]
    words: frozenset[str]
    numbers: tuple[str, ...]
    exact: frozenset[str]
    names: frozenset[str]
    initials: frozenset[str]
    scopes: frozenset[str]
    roles: dict[str, str]
    negated: bool
    symmetric: bool
    kind: str


class _Word(NamedTuple):
    """What one word is by itself. `counts`: it is or may be a number, a date or a code."""

    concept: str = ""
    scope: str = ""
    date: str = ""
    value: float | None = None
    negates: bool = False
    counts: bool = False


def read_signals(text: str) -> Signals:
    """What it says. Deterministic; microseconds per word."""
    if not text.isascii():
        text = normalize("NFKC", text).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    tokens = (_tokens_and_addresses if _addressed(text) else _tokens)(text)[:MAX_WORDS]
    lower = [token.lower() for token in tokens]
    names, runs = _names(tokens, lower)
    scopes, roles, numbers, exact = set[str](), dict[str, str](), list[str](), set[str]()
    content: list[str] = []
    role, negations = "", 0
    for at, word in enumerate(lower):
        token = tokens[at]
        known = _word(token if token.isupper() and len(token) <= LONGEST_ACRONYM else word)
        if known.counts:
            _count(known, word, lower, at, numbers, exact)
        elif known.concept and not (word in UNITS and _has_number(lower, at)):
            content.append(known.concept)
            if role:
                roles.setdefault(role, known.concept)
                role = ""
        if known.scope:
            scopes.add(known.scope)
        if known.negates and at:
            negations += 1
        if word in _ROLES:
            role = word
    words = frozenset(lower)
    return Signals(
        tuple(content), frozenset(content), words, tuple(numbers), frozenset(exact), names, runs, frozenset(scopes),
        roles, bool(negations % 2), not _SYMMETRIC.isdisjoint(words), _kind(lower),
    )  # fmt: skip


def _count(known: _Word, word: str, words: list[str], at: int, numbers: list[str], exact: set[str]) -> None:
    """What a word says that is to be compared exactly."""
    if known.date:
        exact.add(known.date)
    elif known.value is None:
        _digits(word, words, at, numbers, exact)
    elif word == "second":
        if at and words[at - 1] in _BEFORE_ORDINAL and at + 1 < len(words):
            numbers.append("2")
    elif word in MULTIPLES and _has_number(words, at):
        return  # the number before it has it
    elif word not in _ARTICLES:
        numbers.append(_with_unit(known.value, words, at))
    elif at + 1 < len(words) and len(words[at + 1]) > 2 and words[at + 1] in UNITS:
        numbers.append(_with_unit(1.0, words, at))


def _kind(words: list[str]) -> str:
    for word, following in pairwise((*words, "")):
        kind = _WHICH.get(word, "")
        if kind == "how":
            return _HOW.get(following, kind)
        if kind:
            return kind
        if word in ("what", "which"):
            return {"time": "when", "year": "when", "date": "when", "causes": "why"}.get(following, "what")
    return "yes_no" if words and words[0] in _YES_NO else ""


def _names(tokens: list[str], lower: list[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Words in capitals that do not open a sentence, unless most words are; and the initials of those in a row."""
    capital = [token[0].isupper() for token in tokens]
    if not any(capital) or sum(capital) * 5 > len(tokens) * 3 > 9:
        return frozenset(), frozenset()
    found: list[str] = []
    runs: set[str] = set()
    run, opens = "", True
    for token, word, is_capital in zip(tokens, lower, capital, strict=True):
        if is_capital and (not opens or token[1:] != word[1:]) and word not in STOP and not _word(word).counts:
            name = word.removesuffix("'s")
            found.append(GROUPS.get(name, name))
        if is_capital and word not in STOP:
            run += word[0]
        elif run:
            runs.add(run)
            run = ""
        opens = token[0] in ".?!"
    runs.add(run)
    return frozenset(found), frozenset(run for run in runs if len(run) > 1)


def _has_number(words: list[str], at: int) -> bool:
    """Whether a number stands before a word."""
    before = words[at - 1] if at else ""
    return before[-1:].isdigit() or before in NUMBER_WORDS or before in MULTIPLES or before in _ARTICLES


def _digits(word: str, words: list[str], at: int, numbers: list[str], exact: set[str]) -> None:
    match = _number(word)
    if match is None:
        exact.add(word)
        return
    sign, whole, fraction, ordinal, suffix = match.groups()
    before = words[at - 1] if at else ""
    written = whole.replace(",", "").lstrip("0") + (fraction or "").rstrip("0.")
    if fraction and fraction.strip(".0"):
        written = whole.replace(",", "") + fraction  # 3.10 is no 3.1 where it is a version
    following = words[at + 1] if at + 1 < len(words) else ""
    if suffix and suffix not in MULTIPLES and suffix not in UNITS:
        exact.add(f"{written}{suffix}")
    elif sign or (before in _SIGNS and before != "%"):
        numbers.append(f"{written}{suffix or ''}{following if following in MULTIPLES else ''}{_SIGNS[sign or before]}")
    elif ordinal or len(whole) > LONGEST_AMOUNT:
        numbers.append(written)
    elif suffix:
        numbers.append(
            _with_unit(float(whole.replace(",", "") + (fraction or "")), [suffix, *words[at + 1 : at + 2]], -1)
        )
    elif following in MULTIPLES or following in UNITS or following in ("am", "pm"):
        numbers.append(_with_unit(float(whole.replace(",", "") + (fraction or "")), words, at))
    else:
        numbers.append(written or "0")


def _with_unit(value: float, words: list[str], at: int) -> str:
    """In the unit that the others of its kind are told in."""
    following = words[at + 1] if at + 1 < len(words) else ""
    if following in MULTIPLES:
        value *= MULTIPLES[following]
        following = words[at + 2] if at + 2 < len(words) else ""
    if following in UNITS:
        factor, base = UNITS[following]
        return f"{value * factor:.12g}{base}"
    return f"{value:.12g}{following if following in ('am', 'pm') else ''}"


@lru_cache(maxsize=16384)
def _word(word: str) -> _Word:
    """Of a word in lower case, or of a few capitals."""
    if any(map(str.isdigit, word)) and _CODE.isdisjoint(word):
        return _Word(counts=True)
    if not word.isalpha() and (word.strip() in _OPERATORS or not _CODE.isdisjoint(word)):
        return _Word(date=word.strip(), counts=True)
    if word.isupper():
        if word in _ROMAN:
            return _Word(value=_ROMAN[word], counts=True)
        if word in ("A", "I"):
            return _word(word.lower())
        known = _word(word.lower())
        return known if known.concept or known.counts or known.scope else _Word(GROUPS.get(word.lower(), word.lower()))
    word = word.removesuffix("'s")
    if word in _ARTICLES:
        return _Word(value=1.0, counts=True)
    if word in NUMBER_WORDS:
        return _Word(value=NUMBER_WORDS[word], counts=True)
    if word in DATES:
        return _Word(date=DATES[word], counts=True)
    if word in NEGATIONS:
        return _Word(scope=SCOPES.get(word, ""), negates=True)
    scope = SCOPES.get(word, _PRONOUNS.get(word, ""))
    return _Word(concept_of(word) if word[:1].isalpha() and (not scope or word in GROUPS) else "", scope)
