"""What the `openai` package makes of the gateway's answers: everything is as if the engine itself had been asked."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from openai import pydantic_function_tool
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from tests.clients.talk import KEY, MODEL, fake, said, talking


class Weather(BaseModel):
    city: str
    degrees: int
    kind: str = "sunny"


class GetWeather(BaseModel):
    """Tell the weather in a city."""

    city: str
    days: int


WEATHER_TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Riga"]}, "days": {"type": "integer", "minimum": 3}},
            "required": ["city", "days"],
        },
    },
}
PIXEL = base64.b64encode(bytes(range(256)) * 8).decode()


async def test_a_chat_is_answered_with_its_usage_and_request_id() -> None:
    async with talking(engine={"text": "Paris, of course."}) as talk:
        answer = await talk.client.chat.completions.create(model=MODEL, messages=said())
        assert answer.choices[0].message.content == "Paris, of course."
        assert answer.choices[0].message.role == "assistant"
        assert answer.choices[0].finish_reason == "stop"
        assert (answer.object, answer.model) == ("chat.completion", MODEL)
        assert answer.usage is not None
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 2
        (record,) = await talk.server.records()
        assert answer._request_id == record["request_id"]


async def test_raw_responses_show_the_gateways_headers() -> None:
    async with talking() as talk:
        raw = await talk.client.chat.completions.with_raw_response.create(
            model=MODEL, messages=said(), extra_headers={"x-request-id": "mine-1"}
        )
        assert raw.headers["x-request-id"] == raw.request_id == "mine-1"
        assert raw.headers["x-headrace-pool"] == "p"
        assert raw.headers["content-type"] == "application/json"
        assert raw.retries_taken == 0
        assert raw.parse().choices[0].message.content


async def test_a_stream_has_the_text_of_the_whole_answer_token_by_token() -> None:
    async with talking() as talk:
        whole = await talk.client.chat.completions.create(model=MODEL, messages=said(), seed=7)
        stream = await talk.client.chat.completions.create(model=MODEL, messages=said(), seed=7, stream=True)
        chunks = [chunk async for chunk in stream]
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
        assert "".join(pieces) == whole.choices[0].message.content
        assert len([piece for piece in pieces if piece]) == 16
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert stream.response.headers["content-type"].startswith("text/event-stream")


async def test_a06_a_stream_ends_with_usage_if_and_only_if_it_was_asked_for() -> None:
    async with talking() as talk:
        create = talk.client.chat.completions.create
        plain = [chunk async for chunk in await create(model=MODEL, messages=said(), stream=True)]
        assert all(chunk.choices and chunk.usage is None for chunk in plain)
        asked = await create(model=MODEL, messages=said(), stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in asked]
        assert all(chunk.choices for chunk in chunks[:-1])
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 16
        records = await talk.server.records(2)
        assert [record["tokens_out"] for record in records] == [16, 16]


@pytest.mark.parametrize("split", ["none", "byte", "wire"])
async def test_events_cut_anywhere_on_their_way_make_the_same_text(split: str) -> None:
    text = "Grüße, 世界 🌍: naïve\n\ndata: [DONE]\n\nand on"
    async with talking(engine={"text": text, "split": split}) as talk:
        async with talk.client.chat.completions.stream(model=MODEL, messages=said()) as stream:
            completion = await stream.get_final_completion()
        assert completion.choices[0].message.content == text


async def test_the_stream_helper_tells_events_and_the_final_completion() -> None:
    async with talking(engine={"text": "one two three"}) as talk:
        async with talk.client.chat.completions.stream(
            model=MODEL, messages=said(), stream_options={"include_usage": True}
        ) as stream:
            events = [event async for event in stream]
        deltas = [event.delta for event in events if event.type == "content.delta"]
        assert "".join(deltas) == "one two three"
        assert [event.content for event in events if event.type == "content.done"] == ["one two three"]
        final = await stream.get_final_completion()
        assert final.choices[0].finish_reason == "stop"
        assert final.usage is not None


async def test_a_tool_call_and_its_result_make_a_conversation() -> None:
    async with talking() as talk:
        create = talk.client.chat.completions.create
        messages = said('please call get_weather {"city": "Riga", "days": 3}')
        first = await create(model=MODEL, messages=messages, tools=[WEATHER_TOOL])
        assert first.choices[0].finish_reason == "tool_calls"
        (call,) = first.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Riga", "days": 3})
        told: list[Any] = [*messages, first.choices[0].message]
        told.append({"role": "tool", "tool_call_id": call.id, "content": "rain"})
        second = await create(model=MODEL, messages=told, tools=[WEATHER_TOOL])
        assert second.choices[0].finish_reason == "stop"
        assert talk.seen["messages"][-1] == {"role": "tool", "tool_call_id": call.id, "content": "rain"}


async def test_arguments_of_a_tool_call_stream_piece_by_piece() -> None:
    async with talking() as talk:
        stream = await talk.client.chat.completions.create(
            model=MODEL, messages=said(), tools=[WEATHER_TOOL], tool_choice="required", stream=True
        )
        deltas = [call async for chunk in stream for call in chunk.choices[0].delta.tool_calls or []]
        assert deltas[0].id
        assert deltas[0].function is not None
        assert deltas[0].function.name == "get_weather"
        pieces = [delta.function.arguments or "" for delta in deltas if delta.function]
        assert len(pieces) > 3
        assert json.loads("".join(pieces)) == {"city": "Riga", "days": 3}


async def test_two_tool_calls_at_once_stream_side_by_side() -> None:
    text = 'call get_weather {"city": "Riga", "days": 1} and call get_weather {"city": "Oslo", "days": 2}'
    async with talking() as talk:
        async with talk.client.chat.completions.stream(
            model=MODEL, messages=said(text), tools=[WEATHER_TOOL], parallel_tool_calls=True
        ) as stream:
            final = await stream.get_final_completion()
        calls = final.choices[0].message.tool_calls or []
        assert [json.loads(call.function.arguments)["city"] for call in calls] == ["Riga", "Oslo"]
        assert len({call.id for call in calls}) == 2


async def test_the_stream_helper_parses_arguments_of_tools() -> None:
    async with talking() as talk:
        async with talk.client.chat.completions.stream(
            model=MODEL, messages=said("call GetWeather"), tools=[pydantic_function_tool(GetWeather)]
        ) as stream:
            events = [event async for event in stream]
        done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
        assert [event.name for event in done] == ["GetWeather"]
        assert isinstance(done[0].parsed_arguments, GetWeather)
        assert any(event.type == "tool_calls.function.arguments.delta" for event in events)
        assert talk.seen["tools"][0]["function"]["strict"] is True


async def test_structured_output_is_parsed_into_a_model() -> None:
    async with talking() as talk:
        answer = await talk.client.chat.completions.parse(model=MODEL, messages=said(), response_format=Weather)
        assert isinstance(answer.choices[0].message.parsed, Weather)
        shape = talk.seen["response_format"]
        assert shape["type"] == "json_schema"
        assert set(shape["json_schema"]["schema"]["properties"]) == {"city", "degrees", "kind"}


async def test_structured_output_is_parsed_from_a_stream() -> None:
    async with talking() as talk:
        async with talk.client.chat.completions.stream(model=MODEL, messages=said(), response_format=Weather) as stream:
            final = await stream.get_final_completion()
        assert isinstance(final.choices[0].message.parsed, Weather)


async def test_json_mode_reaches_the_engine() -> None:
    async with talking() as talk:
        answer = await talk.client.chat.completions.create(
            model=MODEL, messages=said(), response_format={"type": "json_object"}
        )
        assert json.loads(answer.choices[0].message.content or "") == {}


async def test_logprobs_come_with_every_token_streamed_or_not() -> None:
    async with talking() as talk:
        create = talk.client.chat.completions.create
        answer = await create(model=MODEL, messages=said(), seed=3, logprobs=True, top_logprobs=1)
        assert answer.choices[0].logprobs is not None
        whole = answer.choices[0].logprobs.content or []
        assert len(whole) == 16
        assert len(whole[0].top_logprobs) == 1
        stream = await create(model=MODEL, messages=said(), seed=3, logprobs=True, top_logprobs=1, stream=True)
        choices = [chunk.choices[0] async for chunk in stream]
        streamed = [one for choice in choices if choice.logprobs for one in choice.logprobs.content or []]
        assert [one.logprob for one in streamed] == [one.logprob for one in whole]


async def test_two_choices_come_apart_streamed_or_not() -> None:
    async with talking() as talk:
        create = talk.client.chat.completions.create
        answer = await create(model=MODEL, messages=said(), n=2, seed=5)
        texts = {choice.index: choice.message.content for choice in answer.choices}
        assert len(texts) == len(set(texts.values())) == 2
        got = {0: "", 1: ""}
        async for chunk in await create(model=MODEL, messages=said(), n=2, seed=5, stream=True):
            for choice in chunk.choices:
                got[choice.index] += choice.delta.content or ""
        assert got == texts
        records = await talk.server.records(2)
        assert [record["tokens_out"] for record in records] == [32, 32]


async def test_a24_fields_that_the_client_does_not_know_reach_the_engine_as_they_are() -> None:
    more = {"top_k": 7, "guided": {"deep": [1, None, "ü"]}, "repetition_penalty": 1.10}
    async with talking() as talk:
        for stream in (False, True):
            answer = await talk.client.chat.completions.create(
                model=MODEL, messages=said(), stream=stream, extra_body=more, temperature=0.25, user="u1"
            )
            if stream:
                _ = [chunk async for chunk in answer]  # type: ignore[union-attr]
            assert {name: talk.seen[name] for name in more} == more
            assert (talk.seen["temperature"], talk.seen["user"]) == (0.25, "u1")


async def test_a24_no_credential_and_no_header_of_the_client_reaches_the_engine() -> None:
    async with talking() as talk:
        await talk.client.chat.completions.create(model=MODEL, messages=said(), extra_headers={"x-secret": "s3cret"})
        headers = dict(talk.engine.requests[-1].headers)
        assert not [name for name in headers if name.startswith(("authorization", "x-stainless", "x-secret"))]
        assert KEY not in str(headers)


async def test_images_and_other_parts_pass_untouched() -> None:
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": [{"type": "text", "text": "Look."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this? \u2028 ü"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": PIXEL, "format": "wav"}},
            ],
        },
    ]
    async with talking(engine={"context_tokens": 100_000}) as talk:
        await talk.client.chat.completions.create(model=MODEL, messages=messages)
        assert talk.seen["messages"] == messages


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_of_two_megabytes_arrives_whole(stream: bool) -> None:
    prompt = "0123456789abcdef " * 125_000
    async with talking(engine={"context_tokens": 2**21}) as talk:
        answer = await talk.client.chat.completions.create(model=MODEL, messages=said(prompt), stream=stream)
        if stream:
            assert [chunk async for chunk in answer]  # type: ignore[union-attr]
        assert talk.seen["messages"][0]["content"] == prompt


async def test_legacy_completions_are_answered_and_streamed() -> None:
    async with talking() as talk:
        create = talk.client.completions.create
        answer = await create(model=MODEL, prompt=["one", "two"], max_tokens=4, logprobs=1)
        assert [choice.index for choice in answer.choices] == [0, 1]
        assert answer.choices[0].logprobs is not None
        assert len(answer.choices[0].logprobs.tokens or []) == 4
        stream = await create(model=MODEL, prompt="one", max_tokens=4, stream=True)
        pieces = [choice.text async for chunk in stream for choice in chunk.choices]
        assert "".join(pieces) == answer.choices[0].text


async def test_embeddings_are_the_same_as_numbers_and_as_base64() -> None:
    async with talking() as talk:
        create = talk.client.embeddings.create
        packed = await create(model=MODEL, input=["a", "b"])
        assert talk.seen["encoding_format"] == "base64", "what the client asks for by itself"
        numbers = await create(model=MODEL, input=["a", "b"], encoding_format="float", dimensions=16)
        for one, other in zip(packed.data, numbers.data, strict=True):
            assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        raw = await create(model=MODEL, input="a", encoding_format="base64")
        assert len(base64.b64decode(str(raw.data[0].embedding))) == 16 * 4
        assert packed.usage.prompt_tokens == packed.usage.total_tokens == 2


async def test_models_are_listed_and_looked_up() -> None:
    async with talking(config={"aliases": ["owner/other-name"]}) as talk:
        assert [model.id async for model in talk.client.models.list()] == [MODEL]
        model = await talk.client.models.retrieve(MODEL)
        assert (model.id, model.object, model.owned_by) == (MODEL, "model", "headrace")
        assert model.created > 1_700_000_000
        assert (await talk.client.models.retrieve("owner/other-name")).id == MODEL


async def test_a_key_opens_the_gateway_and_its_name_is_logged() -> None:
    keys = [{"name": "team", "key": KEY}]
    async with talking(config={"keys": keys}) as talk:
        await talk.client.chat.completions.create(model=MODEL, messages=said())
        (record,) = await talk.server.records()
        assert record["key"] == "team"


async def test_many_calls_of_one_client_share_its_connections() -> None:
    async with talking() as talk:
        for content in ("a", "b", "c"):
            await talk.client.chat.completions.create(model=MODEL, messages=said(content))
            stream = await talk.client.chat.completions.create(model=MODEL, messages=said(content), stream=True)
            assert [chunk async for chunk in stream]
        assert len(talk.server.gateway.server.open) == 1
        assert talk.engine.stats.connections == 1


async def test_an_engine_that_finishes_for_length_or_a_filter_says_so() -> None:
    async with talking() as talk:
        create = talk.client.chat.completions.create
        assert (await create(model=MODEL, messages=said(), max_tokens=2)).choices[0].finish_reason == "length"
        body = fake(finish_reason="content_filter")
        answer = await create(model=MODEL, messages=said(), extra_body=body)
        assert answer.choices[0].finish_reason == "content_filter"
