"""A ready classifier, `residency.classifier: gateway.presidio:classify`: personal data, found by Microsoft Presidio.

Options come from the environment: HEADRACE_PRESIDIO_CLASS, _SCORE, _ENTITIES, _LANGUAGE and _MODEL.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import NlpEngine
    from spacy.tokens import Doc

    from gateway.classifier import Classify

PREFIX = "HEADRACE_PRESIDIO_"
ENTITIES = (
    "CREDIT_CARD",
    "CRYPTO",
    "EMAIL_ADDRESS",
    "IBAN_CODE",
    "IP_ADDRESS",
    "MEDICAL_LICENSE",
    "PHONE_NUMBER",
    "US_ITIN",
    "US_PASSPORT",
    "US_SSN",
)
"""What is looked for by default: what patterns and checksums find, without a model."""


class Presidio:
    """Names `sensitivity` for texts that hold one of `entities` with at least `score`, from 0 to 1.

    entities: Presidio's names; none: `ENTITIES`, in every language.
    model:    an installed spaCy model or its folder; none: patterns and context words alone.

    Raises:
        ImportError: the extra is not installed.
        ValueError: an option is out of its range, or names what is not there.
    """

    def __init__(
        self,
        sensitivity: str = "confidential",
        score: float = 0.4,
        entities: Sequence[str] = (),
        language: str = "en",
        model: str = "",
    ) -> None:
        if not 0 < score <= 1:
            raise ValueError(f"{PREFIX}SCORE is {score:g}; it must be above 0 and at most 1")
        self._sensitivity = sensitivity
        self._score = score
        self._language = language
        self._analyzer = _analyzer(language, model)
        known = self._analyzer.get_supported_entities(language)
        unknown = sorted(set(entities or ENTITIES).difference(known))
        if unknown:
            have = ", ".join(sorted(known))
            raise ValueError(
                f"{PREFIX}ENTITIES: {', '.join(unknown)} cannot be found in {language!r}; there is: {have}"
            )
        self._entities = list(entities or ENTITIES)

    @classmethod
    def of_environment(cls, env: Mapping[str, str]) -> Presidio:
        given = env.get(f"{PREFIX}SCORE") or "0.4"
        try:
            score = float(given)
        except ValueError:
            raise ValueError(f"{PREFIX}SCORE is {given!r}; it must be a number above 0 and at most 1") from None
        return cls(
            env.get(f"{PREFIX}CLASS") or "confidential",
            score,
            [name.strip() for name in env.get(f"{PREFIX}ENTITIES", "").split(",") if name.strip()],
            env.get(f"{PREFIX}LANGUAGE") or "en",
            env.get(f"{PREFIX}MODEL", ""),
        )

    def __call__(self, texts: list[str]) -> str | None:
        return self._sensitivity if any(map(self._found, texts)) else None

    def _found(self, text: str) -> bool:
        return bool(self._analyzer.analyze(text, self._language, entities=self._entities, score_threshold=self._score))


def __getattr__(name: str) -> Classify:
    """`classify` is built when it is asked for, so that what it lacks is told at the start and not by a request."""
    if name != "classify":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return Presidio.of_environment(os.environ)


def _analyzer(language: str, model: str) -> AnalyzerEngine:
    try:
        from presidio_analyzer import AnalyzerEngine, PatternRecognizer, RecognizerRegistry
        from presidio_analyzer.predefined_recognizers import EmailRecognizer
    except ImportError as error:
        message = 'gateway.presidio:classify needs presidio-analyzer: pip install "headrace[presidio]"'
        raise ImportError(message) from error
    engine = _engine(language, model)
    registry = RecognizerRegistry(supported_languages=[language])
    english = RecognizerRegistry(supported_languages=["en"])
    with _fewer_warnings():
        registry.load_predefined_recognizers([language], engine)
        english.load_predefined_recognizers(["en"])
    # Presidio has card numbers in four languages, though they look alike in all.
    lacking = set(ENTITIES).difference(registry.get_supported_entities([language]))
    for recognizer in english.recognizers:
        if lacking.intersection(recognizer.supported_entities):
            recognizer.supported_language = language
            registry.add_recognizer(recognizer)
    # Presidio's own fetches a list of domains from the network, and lets through addresses of those not in it.
    registry.remove_recognizer("EmailRecognizer")
    registry.add_recognizer(
        PatternRecognizer(
            "EMAIL_ADDRESS",
            patterns=EmailRecognizer.PATTERNS,
            context=EmailRecognizer.CONTEXT,
            supported_language=language,
        )
    )
    return AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=[language])


@contextmanager
def _fewer_warnings() -> Iterator[None]:
    """Presidio warns of every recognizer that is for another language."""
    log = logging.getLogger("presidio-analyzer")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _engine(language: str, model: str) -> NlpEngine:
    import spacy
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    if model:
        # Presidio would fetch it.
        if not (spacy.util.is_package(model) or Path(model).exists()):
            raise ValueError(f"{PREFIX}MODEL: there is no spaCy model {model!r}: install it, or name its folder")
        engine = SpacyNlpEngine([{"lang_code": language, "model_name": model}])
        engine.load()
        return engine
    blank = spacy.blank(language)
    spacy.Language.component("headrace_words", func=_words)
    blank.add_pipe("headrace_words")
    engine = SpacyNlpEngine([{"lang_code": language, "model_name": f"blank:{language}"}])
    engine.nlp = {language: blank}
    return engine


def _words(doc: Doc) -> Doc:
    """Words as their own lemmas, which Presidio compares with its context words."""
    for token in doc:
        token.lemma_ = token.lower_
    return doc
