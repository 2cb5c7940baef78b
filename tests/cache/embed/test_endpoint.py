"""An endpoint's answers, right and wrong; the way to it is the test's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import pytest

from cache.embed.batches import Room
from cache.embed.endpoint import EndpointEmbedder
from cache.embed.seam import NoVector

Answer = Callable[[list[str]], tuple[int, object]]


class Post:
    """Answers as it is told to; notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, object]] = []
        self.answer: Answer = rows
        self.hangs = False
        self.closed = False

    async def __call__(self, body: bytes) -> tuple[int, bytes]:
        asked = json.loads(body)
        self.asked.append(asked)
        if self.hangs:
            await asyncio.Event().wait()
        status, document = self.answer(asked["input"])
        return status, document if isinstance(document, bytes) else json.dumps(document).encode()

    async def aclose(self) -> None:
        self.closed = True


def rows(texts: list[str]) -> tuple[int, object]:
    """Out of order, as the protocol allows."""
    data = [{"object": "embedding", "index": i, "embedding": [len(text), 0, 0]} for i, text in enumerate(texts)]
    return 200, {"object": "list", "data": data[::-1], "model": "m", "usage": {}}


def answering(*vectors: list[object], status: int = 200) -> Answer:
    return lambda texts: (status, {"data": [{"index": i, "embedding": v} for i, v in enumerate(vectors)]})


@pytest.fixture
async def post() -> Post:
    return Post()


@pytest.fixture
async def embedder(post: Post) -> AsyncIterator[EndpointEmbedder]:
    embedder = EndpointEmbedder(post, model="m", name="m@host", room=Room(timeout_s=5.0))
    yield embedder
    await embedder.aclose()
    assert post.closed


async def reason(embedder: EndpointEmbedder, *texts: str, urgent: bool = True) -> str:
    with pytest.raises(NoVector) as caught:
        await embedder.embed(texts or ["a"], urgent=urgent)
    return caught.value.reason


async def test_vectors_come_in_the_order_of_the_texts_and_at_unit_length(
    post: Post, embedder: EndpointEmbedder
) -> None:
    post.answer = lambda texts: (200, {"data": [{"index": 1, "embedding": [0, 5]}, {"index": 0, "embedding": [2, 0]}]})
    assert [one.tolist() for one in await embedder.embed(["a", "b"])] == [[1, 0], [0, 1]]
    assert post.asked == [{"input": ["a", "b"], "model": "m", "encoding_format": "float"}]
    assert embedder.dimensions == 2


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (answering([0, 0]), "unfit"),
        (answering([1e999, 0]), "unfit"),
        (answering([None, 0]), "unfit"),
        (answering(["x"]), "unfit"),
        (answering([1], [1]), "unfit"),
        (answering(), "unfit"),
        (answering([]), "unfit"),
        (lambda texts: (200, {"data": [{"index": 7, "embedding": [1]}]}), "unfit"),
        (lambda texts: (200, b'{"data": [{"index": 0, "embedding": [NaN]}]}'), "unfit"),
        (lambda texts: (200, b"<html>"), "unfit"),
        (answering([1], status=429), "failed"),
    ],
)
async def test_what_is_no_vector_is_a_miss(
    post: Post, embedder: EndpointEmbedder, answer: Answer, expected: str
) -> None:
    post.answer = answer
    assert await reason(embedder) == expected


async def test_a_vector_without_a_direction_costs_only_its_own_text(
    post: Post, embedder: EndpointEmbedder, caplog: pytest.LogCaptureFixture
) -> None:
    post.answer = answering([0, 0], [0, 2])
    outcomes = await asyncio.gather(embedder.embed(["a", "b"]), return_exceptions=True)
    assert [one.reason for one in outcomes if isinstance(one, NoVector)] == ["unfit"]
    post.answer = answering([0, 2])
    assert [vector.tolist() for vector in await embedder.embed(["b"])] == [[0, 1]]
    assert caplog.text == ""


async def test_a_vector_of_another_length_than_before_is_a_miss(post: Post, embedder: EndpointEmbedder) -> None:
    await embedder.embed(["a"])
    post.answer = answering([1, 2])
    assert await reason(embedder) == "unfit"
    post.answer = answering([1, 2, 3], [1, 2])
    assert await reason(embedder, "a", "b") == "unfit"
    assert embedder.dimensions == 3


async def test_an_endpoint_that_takes_too_long_is_a_miss(post: Post) -> None:
    embedder = EndpointEmbedder(post, model="m", name="m@host", room=Room(timeout_s=0.02))
    post.hangs = True
    assert await reason(embedder) == "timeout"
    assert await reason(embedder, urgent=False) == "timeout"
    await embedder.aclose()


async def test_an_endpoint_that_fails_three_times_is_left_alone_and_asked_again_later(
    post: Post, embedder: EndpointEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    began_s, passed_s = loop.time(), 0.0
    monkeypatch.setattr(type(embedder), "_now", lambda self: began_s + passed_s)
    post.answer = answering([1], status=500)
    assert [await reason(embedder) for _ in range(5)] == ["failed"] * 5
    assert len(post.asked) == 3
    passed_s = 1.1
    assert await reason(embedder) == "failed"
    assert len(post.asked) == 4
    passed_s = 2.9
    assert await reason(embedder) == "failed"
    assert len(post.asked) == 4, "the second pause is longer"
    passed_s = 3.2
    post.answer = rows
    await embedder.embed(["a"])
    await embedder.embed(["a"])
    assert len(post.asked) == 6


async def test_concurrent_questions_share_requests(post: Post, embedder: EndpointEmbedder) -> None:
    vectors = await asyncio.gather(*(embedder.embed([f"question {i:02}"]) for i in range(20)))
    assert len(vectors) == 20
    assert len(post.asked) == 5, "four at once, and the rest in one"
