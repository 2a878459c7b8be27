"""The official `openai` package against the live server: sync, async, streams, extras, errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from server.serving import Served
from server.settings import Settings
from steering.engine.config import EngineConfig
from steering.model.loading import LanguageModel
from steering.store import PackStore
from tests.server.fake_engine import FakeEngine
from tests.server.live import Live, serve

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello there"}]
STEERING = {"steering": {"profile": "candid", "trace": "tokens"}}


@pytest.fixture(scope="module")
def locked(model: LanguageModel, store: PackStore) -> Iterator[Live]:
    engine = FakeEngine(model, EngineConfig(), error_at={13: 3, 14: 0})
    served = Served(model, engine, store, "candid", 1)  # type: ignore[arg-type]
    with serve(lambda: served, Settings(api_key="sk-test")) as live:
        yield live


@pytest.fixture
def client(locked: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{locked.url}/v1", api_key="sk-test", max_retries=0) as client:
        yield client


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "tiny+candid", "tiny+firm", "tiny+watch"]
    assert client.models.retrieve("tiny+candid").id == "tiny+candid"


def test_a_chat(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="tiny", messages=MESSAGES, seed=1, logprobs=True, top_logprobs=2)
    assert reply.choices[0].message.content == "Hello there" and reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].logprobs.content[0].top_logprobs[1].logprob == -1.5  # type: ignore[union-attr, index]
    assert reply.usage.completion_tokens == 7 and reply.system_fingerprint  # type: ignore[union-attr]


def test_steering_by_extra_body(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="tiny", messages=MESSAGES, seed=1, extra_body=STEERING)
    assert reply.choices[0].steering["fired_tokens"] == 1  # type: ignore[attr-defined]
    assert reply.choices[0].logprobs.content[1].steering["fired"] is True  # type: ignore[union-attr, index, attr-defined]
    assert reply.usage.completion_tokens_details.steered_tokens == 1  # type: ignore[union-attr, attr-defined]


def test_steering_by_model_and_by_header(client: openai.OpenAI) -> None:
    by_model = client.chat.completions.create(model="tiny+firm", messages=MESSAGES, seed=1)
    by_header = client.chat.completions.create(
        model="tiny", messages=MESSAGES, seed=1, extra_headers={"X-Steering-Profile": "firm;strength=0.5"}
    )
    assert by_model.model == "tiny+firm" and by_model.choices[0].steering["strength"] == 1.0  # type: ignore[attr-defined]
    assert by_header.choices[0].steering["strength"] == 0.5  # type: ignore[attr-defined]


def test_an_answer_can_be_sent_back(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="tiny", messages=MESSAGES, seed=1)
    history = [*MESSAGES, reply.choices[0].message, {"role": "user", "content": "Sure?"}]
    assert client.chat.completions.create(model="tiny", messages=history, seed=1).choices  # type: ignore[arg-type]


def test_a_raw_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        seed=1,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=STEERING,
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello there"
    assert chunks[-1].usage.total_tokens == 18 and not chunks[-1].choices  # type: ignore[union-attr]
    assert chunks[-2].choices[0].steering["applied"] is True  # type: ignore[attr-defined]


def test_the_accumulating_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="tiny", messages=MESSAGES, seed=1, extra_body=STEERING) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "Hello there"
    traced = [entry.steering["fired"] for entry in final.choices[0].logprobs.content]  # type: ignore[union-attr, attr-defined]
    assert traced == [False, True, False, False, False, False, False]


def test_several_choices_penalties_and_bias(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        seed=1,
        n=3,
        logit_bias={"5": 10},
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        extra_body={"repetition_penalty": 1.2, "stop_token_ids": [7]},
    )
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert {choice.message.content for choice in reply.choices} == {"Hello there"}
    assert reply.usage.completion_tokens == 21  # type: ignore[union-attr]


def test_X14_a_stream_of_two_choices(client: openai.OpenAI) -> None:
    texts, ends = {0: "", 1: ""}, []
    for chunk in client.chat.completions.create(model="tiny", messages=MESSAGES, seed=1, n=2, stream=True):
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        ends += [choice.index] if choice.finish_reason else []
    assert texts == {0: "Hello there", 1: "Hello there"} and sorted(ends) == [0, 1]
    with client.chat.completions.stream(model="tiny", messages=MESSAGES, seed=1, n=2) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == ["Hello there"] * 2


def test_compare(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="tiny", messages=MESSAGES, seed=1, extra_body={"steering": {"profile": "candid", "mode": "compare"}}
    )
    on, off = reply.choices
    assert on.steering["applied"] is True and off.steering["mode"] == "off"  # type: ignore[attr-defined]
    assert on.steering["prefill_shared"] is off.steering["prefill_shared"] is True  # type: ignore[attr-defined]


def test_completions(client: openai.OpenAI) -> None:
    reply = client.completions.create(
        model="tiny", prompt=["Hello there", "you"], n=2, seed=1, echo=True, logprobs=2, extra_body=STEERING
    )
    assert [choice.text for choice in reply.choices] == ["Hello thereHello there"] * 2 + ["youyou"] * 2
    logprobs = reply.choices[0].logprobs
    assert logprobs and logprobs.tokens and logprobs.token_logprobs and logprobs.text_offset
    assert logprobs.token_logprobs[0] is None and logprobs.text_offset[-1] < len("Hello thereHello there")
    assert reply.choices[0].steering["fired_tokens"] == 1  # type: ignore[attr-defined]
    scored = client.completions.create(model="tiny", prompt=[1, 40, 41], max_tokens=0, echo=True, logprobs=0)
    assert scored.choices[0].logprobs and scored.choices[0].logprobs.token_logprobs == [None, -1.0, -2.0]
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt="x", suffix="y")
    assert caught.value.code == "unsupported_parameter"


def test_a_stream_of_completions(client: openai.OpenAI) -> None:
    texts, usage = {0: "", 1: ""}, None
    for chunk in client.completions.create(
        model="tiny", prompt="Hello there", n=2, seed=1, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == {0: "Hello there", 1: "Hello there"} and usage and usage.completion_tokens == 14


async def test_async(locked: Live) -> None:
    async with openai.AsyncOpenAI(base_url=f"{locked.url}/v1", api_key="sk-test", max_retries=0) as client:
        whole = await client.chat.completions.create(model="tiny", messages=MESSAGES, seed=1, extra_body=STEERING)
        assert whole.choices[0].message.content == "Hello there"
        pieces = [
            chunk.choices[0].delta.content or ""
            async for chunk in await client.chat.completions.create(
                model="tiny", messages=MESSAGES, seed=1, stream=True, extra_body=STEERING
            )
        ]
        assert "".join(pieces) == "Hello there"


@pytest.mark.parametrize(
    ("fields", "kind", "code"),
    [
        ({"temperature": 3}, openai.BadRequestError, "decimal_above_max_value"),
        ({"model": "nobody"}, openai.NotFoundError, "model_not_found"),
        ({"extra_body": {"steering": "nobody"}}, openai.NotFoundError, "steering_profile_not_found"),
        ({"seed": 14}, openai.InternalServerError, "numerical_error"),
        ({"extra_headers": {"Authorization": "Bearer x"}}, openai.AuthenticationError, "invalid_api_key"),
    ],
)
def test_errors(client: openai.OpenAI, fields: dict[str, object], kind: type[openai.APIStatusError], code: str) -> None:
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**{"model": "tiny", "messages": MESSAGES, "seed": 1} | fields)  # type: ignore[call-overload]
    assert caught.value.code == code and caught.value.request_id


def test_an_error_in_a_stream(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIError, match="NaN") as caught:
        list(client.chat.completions.create(model="tiny", messages=MESSAGES, seed=13, stream=True))
    assert caught.value.code == "numerical_error"


def test_retries_follow_the_headers(locked: Live) -> None:
    """numerical_error is deterministic: sent once. A full queue is sent again, and then answered."""
    added = []
    original = locked.served.engine.add
    locked.served.engine.add = lambda request: (added.append(request), original(request))[1]  # type: ignore[method-assign, func-returns-value]
    with openai.OpenAI(base_url=f"{locked.url}/v1", api_key="sk-test", max_retries=2) as client:
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model="tiny", messages=MESSAGES, seed=14)
        assert len(added) == 1
        locked.engine._capacity = 0
        threading.Timer(0.3, lambda: setattr(locked.engine, "_capacity", 64)).start()
        assert client.chat.completions.create(model="tiny", messages=MESSAGES, seed=1).choices
    locked.served.engine.add = original  # type: ignore[method-assign]
    assert len(added) == 2
