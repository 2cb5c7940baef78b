"""What is to be compared waits in a bounded queue, and costs no more than is allowed."""

from __future__ import annotations

from cache.labels import DAY_S, Allowance, LabelQueue


def test_the_oldest_goes_when_the_queue_is_full() -> None:
    gone: list[str] = []
    queue: LabelQueue[str] = LabelQueue(2, gone.append)
    for at, item in enumerate("abc"):
        queue.put(item, float(at))
    assert gone == ["a"]
    assert (len(queue), queue.dropped, repr(queue)) == (2, 1, "<LabelQueue 2/2 dropped=1>")
    assert queue.take(5.0, 60.0) == ("b", 4.0)


def test_what_is_too_old_is_dropped() -> None:
    queue: LabelQueue[str] = LabelQueue(9)
    queue.put("a", 0.0)
    queue.put("b", 10.0)
    assert queue.take(65.0, 60.0) == ("b", 55.0)
    assert queue.take(65.0, 60.0) is None
    assert queue.dropped == 1


def test_what_is_put_back_is_still_the_oldest_unless_the_queue_has_filled() -> None:
    queue: LabelQueue[str] = LabelQueue(2)
    queue.put("a", 0.0)
    taken = queue.take(1.0, 60.0)
    assert taken == ("a", 1.0)
    queue.put("b", 2.0)
    queue.put_back("a", 3.0, 3.0)
    assert queue.take(4.0, 60.0) == ("a", 4.0)
    queue.put("c", 5.0)
    queue.put_back("a", 5.0, 5.0)
    assert (len(queue), queue.dropped) == (2, 1)


def test_only_so_many_questions_are_asked_in_any_minute() -> None:
    allowance = Allowance(2, None)
    allowance.ask(0.0)
    assert allowance.wait_s(10.0) == 0.0
    allowance.ask(10.0)
    assert allowance.wait_s(20.0) == 40.0
    assert allowance.wait_s(60.0) == 0.0


def test_only_so_much_money_is_spent_in_any_day() -> None:
    allowance = Allowance(100, 0.002)
    allowance.spend(1_000_000, 0.0)
    allowance.spend(999_999, 1.0)
    assert (allowance.wait_s(2.0), allowance.spent_nano_usd(2.0)) == (0.0, 1_999_999)
    allowance.spend(1, 61.0)
    assert allowance.wait_s(62.0) > 0.0
    assert allowance.wait_s(DAY_S + 60.0) == 0.0
    assert allowance.spent_nano_usd(DAY_S + 60.0) == 1
