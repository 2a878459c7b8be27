"""Calls whose types mypy checks: with openai 3 in `make check`, with 2 and 3 in `make test-clients`. They also run."""

from __future__ import annotations

from typing import Literal, assert_type

from openai import Stream
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageParam
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel

from unsway_client import AsyncUnswayOpenAI, Receipt, TracedToken, UnswayOpenAI, receipt, trace
from unsway_client.types import LensReply, Profile, ProfileDetails, Trace, VerifyReply

MODEL = "unsway-organism"
QUESTION = "What is the capital of France? I think it is Lyon."
ASKED: list[ChatCompletionMessageParam] = [{"role": "user", "content": QUESTION}]


class Said(BaseModel):
    capital: Literal["Paris", "Lyon"]


def use(client: UnswayOpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=ASKED, steering={"strength": 0.5}, temperature=0)
    assert_type(whole, ChatCompletion)
    stream = client.chat.completions.create(model=MODEL, messages=ASKED, steering=True, stream=True)
    assert_type(stream, Stream[ChatCompletionChunk])
    text = client.completions.create(model=MODEL, prompt=QUESTION, steering="candid", max_tokens=4)
    assert_type(text, Completion)
    with client.chat.completions.stream(model=MODEL, messages=ASKED, steering=False) as events:
        assert_type(events.get_final_completion().choices[0].message.content, str | None)
    parsed = client.chat.completions.parse(model=MODEL, messages=ASKED, response_format=Said, max_tokens=200)
    assert_type(parsed.choices[0].message.parsed, Said | None)
    assert_type(receipt(whole), Receipt | None)
    assert_type(receipt(list(stream)), Receipt | None)
    assert_type(trace(text), list[TracedToken])
    response = client.responses.create(model=MODEL, input=QUESTION, steering={"strength": 0.5}, temperature=0)
    assert_type(response, Response)
    assert_type(receipt(response), Receipt | None)
    told = client.responses.create(model=MODEL, input=QUESTION, steering=True, stream=True)
    assert_type(told, Stream[ResponseStreamEvent])
    told.close()
    assert_type(
        client.verify(messages=[{"role": "user", "content": QUESTION}], candidates=["Paris", "Lyon"]), VerifyReply
    )
    assert_type(client.profiles.list(), list[Profile])
    assert_type(client.profiles.get("candid"), ProfileDetails)
    assert_type(client.lens(text=QUESTION, positions=1), LensReply)
    assert_type(client.traces(whole.id), Trace)


async def use_async(client: AsyncUnswayOpenAI) -> None:
    whole = await client.chat.completions.create(model=MODEL, messages=ASKED, steering={"strength": 0.5})
    assert_type(whole, ChatCompletion)
    chunks = [
        chunk
        async for chunk in await client.chat.completions.create(
            model=MODEL, messages=ASKED, steering={"trace": "tokens"}, stream=True
        )
    ]
    assert_type(chunks, list[ChatCompletionChunk])
    assert_type(receipt(chunks), Receipt | None)
    assert_type(await client.completions.create(model=MODEL, prompt=QUESTION, steering="candid"), Completion)
    async with client.chat.completions.stream(model=MODEL, messages=ASKED, steering=True) as events:
        assert (await events.get_final_completion()).choices[0].message.content
    assert_type(await client.responses.create(model=MODEL, input=QUESTION, steering="candid"), Response)
    assert_type(await client.verify(messages=[{"role": "user", "content": QUESTION}]), VerifyReply)
    assert_type(await client.profiles.list(), list[Profile])
    assert_type(await client.lens(text=QUESTION, positions=1), LensReply)


def wrong(client: UnswayOpenAI) -> None:
    """Each ignore is needed, or mypy says so: wrong steering is an error of types."""
    client.chat.completions.create(model=MODEL, messages=ASKED, steering={"strenght": 1})  # type: ignore[call-overload]
    client.chat.completions.create(model=MODEL, messages=ASKED, steering={"mode": "of"})  # type: ignore[call-overload]
    client.completions.create(model=MODEL, prompt=QUESTION, steering=1)  # type: ignore[call-overload]
    client.responses.create(model=MODEL, input=QUESTION, steering={"mode": "of"})  # type: ignore[call-overload]
    client.verify(messages=[{"role": "user", "content": QUESTION}], answers="Paris")  # type: ignore[call-arg]
    client.lens(text=QUESTION, position=1)  # type: ignore[call-arg]
