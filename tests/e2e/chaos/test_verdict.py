"""The judge of the chaos is judged: what it must not overlook, and what it must let pass."""

from __future__ import annotations

import json

import pytest

from tests.e2e.chaos.client import Asked, Fate, judge
from tests.e2e.chaos.ledger import Arrival, Ledger, request_id_in
from tests.e2e.chaos.replica import Trouble
from tests.e2e.chaos.report import Findings, met, offences_of
from tests.harness import DONE, FINISH, request_bytes, token

ERROR = b'data: {"error":{"message":"gone","type":"server_error","param":null,"code":"upstream_died"}}\n\n'
ID = "chaos-1"
SAID = Asked(ID, stream=True).text
HALF = SAID[:20]
COMMENT = b": keepalive\n\n"


def asked(body: bytes, *, stream: bool = True, status: int = 200, whole: bool = True, surplus: bytes = b"") -> Asked:
    found = Asked(ID, stream, sent_s=10.0, first_s=10.1, end_s=10.3, status=status, attempts=1)
    found.body, found.whole, found.surplus = body, whole, surplus
    judge(found)
    return found


def message(text: str) -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


@pytest.mark.parametrize(
    ("fate", "body"),
    [
        (Fate.ANSWERED, token(SAID) + FINISH + DONE),
        (Fate.ANSWERED, COMMENT + token(HALF) + token(SAID[20:]) + FINISH + DONE),
        (Fate.BROKEN_OFF, token(HALF) + ERROR),
        (Fate.BROKEN_OFF, token("") + ERROR),
        (Fate.LOST, ERROR),
        (Fate.LOST, COMMENT + ERROR),
        (Fate.LOST, COMMENT),
        (Fate.WRONG, token(SAID) + FINISH + DONE + token(SAID) + FINISH + DONE),
        (Fate.WRONG, token(SAID) + token(SAID) + FINISH + DONE),
        (Fate.WRONG, token(HALF) + FINISH + DONE),
        (Fate.WRONG, token(HALF)),
        (Fate.WRONG, token(SAID.replace(ID, "chaos-2")) + FINISH + DONE),
    ],
)
def test_the_fate_of_a_stream_is_seen(fate: Fate, body: bytes) -> None:
    assert asked(body).fate is fate


@pytest.mark.parametrize(
    ("fate", "body", "status"),
    [
        (Fate.ANSWERED, message(SAID), 200),
        (Fate.LOST, b'{"error":{"code":"no_healthy_backend"}}', 503),
        (Fate.WRONG, message(SAID.replace(ID, "chaos-2")), 200),
        (Fate.WRONG, message(SAID)[:-4], 200),
    ],
)
def test_the_fate_of_a_whole_answer_is_seen(fate: Fate, body: bytes, status: int) -> None:
    assert asked(body, stream=False, status=status).fate is fate


def test_a_stream_that_is_cut_is_told_from_one_that_ends_short() -> None:
    assert asked(token(HALF), whole=False).fate is Fate.BROKEN_OFF


def test_a_second_answer_on_the_connection_is_seen() -> None:
    assert asked(token(SAID) + FINISH + DONE, surplus=b"HTTP/1.1 200 OK").fate is Fate.WRONG


def arrival(replica: int, at_s: float, *, kept: bool = False, sent_bytes: int = 100, finished: bool = True) -> Arrival:
    return Arrival(ID, replica, kept, at_s, sent_bytes, finished)


def test_what_the_engines_saw_is_held_against_the_promise() -> None:
    fine = asked(token(SAID) + FINISH + DONE)
    silent = arrival(0, 10.0, kept=True, sent_bytes=0, finished=False)
    assert offences_of(fine, [silent, arrival(0, 10.01)]) == [], "a kept connection that closed as it was written to"
    for arrivals, offence in (
        ([arrival(0, 10.0), arrival(1, 10.2)], "after its first byte"),
        ([arrival(0, 10.0), arrival(0, 10.01)], "2 times"),
        ([arrival(0, 10.0, finished=False)], "answered by nobody"),
        ([], "answered by nobody"),
    ):
        (found, *_) = offences_of(fine, arrivals)
        assert offence in found


def test_requests_are_put_down_to_the_faults_that_they_met() -> None:
    fine = asked(token(SAID) + FINISH + DONE)
    at_0, at_1 = Trouble("RST", 0, 9.0, 10.2), Trouble("kill -9", 1, 9.0, 10.2)
    over, ahead = Trouble("RST", 0, 1.0, 9.9), Trouble("RST", 0, 10.4, 11.0)
    troubles = [at_0, at_1, over, ahead]
    assert met(fine, [arrival(0, 10.0)], troubles) == [at_0]
    assert met(fine, [arrival(2, 10.0)], troubles) == []
    fine.attempts = 2
    assert met(fine, [arrival(2, 10.0)], troubles) == [at_1], "the first attempt arrived nowhere"


def test_the_table_counts_each_request_once_in_its_last_row() -> None:
    ledger = Ledger()
    ledger.add(arrival(0, 10.0))
    broken = asked(token(HALF) + ERROR)
    calm = asked(token(SAID) + FINISH + DONE)
    findings = Findings([calm], [broken], [Trouble("RST", 0, 9.0), Trouble("flapping", 0, 9.0)], ledger)
    rows = {line[:16].strip(): line[16:].split() for line in findings.table().splitlines()}
    assert rows["RST"] == rows["flapping"] == ["1", "1", "0", "1", "0", "0"]
    assert rows["all, each once"] == ["2", "1", "0", "1", "0", "0"]
    assert findings.offences == []


def test_a_request_that_fails_in_a_quiet_phase_is_an_offence() -> None:
    ledger = Ledger()
    ledger.add(arrival(0, 10.0))
    assert "in a quiet phase" in Findings([asked(token(HALF) + ERROR)], [], [], ledger).offences[0]


def test_a_request_is_known_by_its_header() -> None:
    assert request_id_in(request_bytes("POST", "/", b"x", x_request_id=ID)) == ID
    assert request_id_in(request_bytes("GET", "/health")) == ""
    assert request_id_in(b"POST / HTTP/1.1\r\nx-request-id: chao") == ""
