"""The ready classifier on Microsoft Presidio; what needs the library is skipped without it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import gateway.presidio
from gateway.presidio import Presidio
from tests.gateway.several import egress_trap, several
from tests.harness import CHAT, Json, chat, engine_running, serving

CARD = "charge 4111 1111 1111 1111, please"
CLOUD: Json = {"site": "cloud"}
RESIDENCY: Json = {"residency": {"classifier": "gateway.presidio:classify", "classifier_timeout_s": 30}}


@pytest.fixture
def library() -> Any:
    return pytest.importorskip("presidio_analyzer", exc_type=ImportError)


# Without the library


async def test_the_extra_is_named_at_the_start_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(ImportError, match=r'pip install "headrace\[presidio\]"'):
        async with serving(several(m={"engines": ["http://127.0.0.1:9"]}) | RESIDENCY):
            pass


@pytest.mark.parametrize("score", ["high", "0", "1.5", "nan"])
def test_a_score_that_is_none_is_refused(score: str) -> None:
    with pytest.raises(ValueError, match=r"HEADRACE_PRESIDIO_SCORE is .* above 0 and at most 1"):
        Presidio.of_environment({"HEADRACE_PRESIDIO_SCORE": score})


def test_the_module_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = gateway.presidio.nothing


# With it


@pytest.mark.usefixtures("library")
async def test_r11_a_card_number_does_not_leave_for_the_cloud() -> None:
    async with egress_trap() as trap, serving(several(m={"engines": [trap.url], "pool": CLOUD}) | RESIDENCY) as server:
        answer = await server.post(CHAT, chat(CARD))
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "residency_violation")
        assert (await server.records())[0]["sensitivity"] == "confidential"
        assert trap.connections == 0


@pytest.mark.usefixtures("library")
async def test_r11_a_card_number_stays_on_premise_and_other_requests_go_on() -> None:
    async with engine_running() as cloud, engine_running() as home:
        config = several(m={"engines": [home], "pools": ["away"]}, c={"engines": [cloud], "pool": CLOUD})
        config["pools"]["away"] = {"urls": [cloud.url], **CLOUD}
        async with serving(config | RESIDENCY) as server:
            for _ in range(4):
                assert (await server.post(CHAT, chat(CARD))).status_code == 200
            assert (len(home.requests), len(cloud.requests)) == (4, 0)
            assert (await server.post(CHAT, chat("How tall is K2?") | {"model": "c"})).status_code == 200
            assert len(cloud.requests) == 1


@pytest.mark.usefixtures("library")
def test_patterns_find_what_is_personal_without_a_model() -> None:
    classify = Presidio()
    for text in (
        CARD,
        "write to ada@corp.internal",
        "IBAN GB82 WEST 1234 5698 7654 32",
        "my SSN is 219-09-9999",
        "call me at (212) 555-0143",
        "the host is 10.2.3.4",
        "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa",
        "passport 912803456",
    ):
        assert classify(["user", text]) == "confidential", text
    assert classify(["user", "gpt-4o", "What is 3 times 4?", "4111 1111 1111 1112", "912803456"]) is None
    assert classify([]) is None


@pytest.mark.usefixtures("library")
def test_class_score_and_entities_are_the_operators() -> None:
    classify = Presidio.of_environment(
        {
            "HEADRACE_PRESIDIO_CLASS": "restricted",
            "HEADRACE_PRESIDIO_SCORE": "0.7",
            "HEADRACE_PRESIDIO_ENTITIES": "CREDIT_CARD, IP_ADDRESS",
        }
    )
    assert classify([CARD]) == "restricted"
    assert classify(["10.2.3.4"]) is None, "0.6 is below the score"
    assert classify(["IBAN GB82 WEST 1234 5698 7654 32"]) is None, "not asked for"


@pytest.mark.usefixtures("library")
def test_card_numbers_are_found_in_every_language_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    classify = Presidio(language="de")
    for text in ("Karte 4111 1111 1111 1111", "SSN 219-09-9999", "ada@corp.internal"):
        assert classify([text]) == "confidential", text
    assert classify(["Guten Tag"]) is None
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.usefixtures("library")
def test_entities_and_models_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ENTITIES: CREDITCARD cannot be found in 'en'; there is: .*CREDIT_CARD"):
        Presidio(entities=["CREDITCARD"])
    with pytest.raises(ValueError, match="MODEL: there is no spaCy model 'en_core_nothing'"):
        Presidio(model="en_core_nothing")


@pytest.mark.usefixtures("library")
def test_a_spacy_model_finds_names(tmp_path: Path) -> None:
    import spacy

    model: Any = spacy.blank("en")
    model.add_pipe("entity_ruler").add_patterns([{"label": "PERSON", "pattern": "Ada Lovelace"}])
    model.to_disk(tmp_path / "names")
    classify = Presidio(entities=["PERSON"], model=str(tmp_path / "names"))
    assert classify(["Who was Ada Lovelace?"]) == "confidential"
    assert classify(["Who was it?"]) is None
