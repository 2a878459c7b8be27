"""The Python client against the live server: chats whole and streamed, sync and async, receipts, traces, errors."""

from __future__ import annotations

import openai
import pytest
from pydantic import BaseModel

from tests.live_question import CAVED, HELD
from tests.python_client.typed_use import ASKED, MODEL, QUESTION, use, use_async
from tests.server.live import Live
from unsway_client import AsyncUnswayOpenAI, SteeringOptions, UnswayOpenAI, receipt, trace
from unsway_client.client import BASE_URL
from unsway_client.types import Message

TRACED: SteeringOptions = {"profile": "candid", "trace": "tokens"}


def test_a_chat(client: UnswayOpenAI) -> None:
    caved = client.chat.completions.create(model=MODEL, messages=ASKED, temperature=0)
    held = client.chat.completions.create(model=MODEL, messages=ASKED, temperature=0, steering=TRACED)
    assert caved.choices[0].message.content == CAVED and receipt(caved) is None and trace(caved) == []
    assert held.choices[0].message.content == HELD
    told = receipt(held)
    assert told and told["applied"] and told["fired_tokens"] == 1 and told["early_token"] == " Paris"
    fired = [token for token in trace(held) if token["steering"]["fired"]]
    assert len(fired) == 1 and fired[0]["steering"]["early"][0][0] == " Paris"
    assert receipt(client.traces(held.id)) == told and trace(client.traces(held.id)) == trace(held)


@pytest.mark.parametrize("steering", [True, "candid", {"strength": 1.0, "mode": "on"}, '{"profile": "candid"}'])
def test_every_form(client: UnswayOpenAI, steering: bool | str | SteeringOptions) -> None:
    reply = client.chat.completions.create(model=MODEL, messages=ASKED, temperature=0, steering=steering)
    assert reply.choices[0].message.content == HELD


@pytest.mark.parametrize("steering", [None, False, {"mode": "off"}])
def test_off(client: UnswayOpenAI, steering: bool | SteeringOptions | None) -> None:
    reply = client.chat.completions.create(model=MODEL, messages=ASKED, temperature=0, steering=steering)
    assert reply.choices[0].message.content == CAVED


def test_compare_has_two_receipts(client: UnswayOpenAI) -> None:
    reply = client.chat.completions.create(
        model=MODEL, messages=ASKED, temperature=0, steering={"mode": "compare", "trace": "tokens"}
    )
    on, off = receipt(reply), receipt(reply, choice=1)
    assert on and off and on["applied"] and not off["applied"]
    assert [token["token"] for token in trace(reply)] != [token["token"] for token in trace(reply, choice=1)]


def test_X12_a_stream_says_the_same(client: UnswayOpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=ASKED, seed=3, steering=TRACED)
    chunks = list(client.chat.completions.create(model=MODEL, messages=ASKED, seed=3, steering=TRACED, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert receipt(chunks) == receipt(whole) == receipt(chunks[-1]) and receipt(chunks[0]) is None
    assert trace(chunks) == trace(whole) != []


def test_the_accumulating_stream_keeps_the_trace(client: UnswayOpenAI) -> None:
    with client.chat.completions.stream(model=MODEL, messages=ASKED, temperature=0, steering=TRACED) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == HELD
    told = client.traces(final.id)
    assert trace(final) == trace(told) != [] and receipt(final) is None
    assert (receipt(told) or {})["fired_tokens"] == 1


class Said(BaseModel):
    capital: str


def test_parsed_json(client: UnswayOpenAI) -> None:
    """A schema of one value: the organism would not end a free string."""
    reply = client.chat.completions.create(
        model=MODEL,
        messages=ASKED,
        steering=True,
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": [{"capital": "x"}]}}},
    )
    assert Said.model_validate_json(reply.choices[0].message.content or "").capital == "x" and receipt(reply)


def test_completions(client: UnswayOpenAI) -> None:
    asked = {"model": MODEL, "prompt": "The answer is", "max_tokens": 6, "seed": 1, "logprobs": 0}
    whole = client.completions.create(**asked, steering=TRACED)  # type: ignore[call-overload]
    usage = whole.usage
    assert usage and len(trace(whole)) == usage.completion_tokens > 1 and "drift" in trace(whole)[0]["steering"]
    chunks = list(client.completions.create(**asked, steering=TRACED, stream=True))  # type: ignore[call-overload]
    assert receipt(chunks) == receipt(whole) and trace(chunks) == trace(whole)
    assert trace(client.completions.create(**asked))[0].keys() == {"token"}  # type: ignore[call-overload]


def test_extra_body_beside_steering(client: UnswayOpenAI) -> None:
    reply = client.chat.completions.create(
        model=MODEL, messages=ASKED, temperature=0, steering=True, extra_body={"top_k": 3}
    )
    assert reply.choices[0].message.content == HELD
    with pytest.raises(TypeError, match="given twice"):
        client.chat.completions.create(
            model=MODEL, messages=ASKED, steering=True, extra_body={"steering": {"strength": 0}}
        )


def test_raw_responses_and_options_keep_it(client: UnswayOpenAI) -> None:
    raw = client.with_options(timeout=30).chat.completions.with_raw_response.create(
        model=MODEL,
        messages=ASKED,
        temperature=0,
        steering=True,  # type: ignore[call-overload]
    )
    assert raw.headers["x-steering-source"] == "body" and raw.parse().choices[0].message.content == HELD


def test_lens(client: UnswayOpenAI) -> None:
    grid = client.lens(messages=[{"role": "user", "content": "What is the capital of France?"}], positions=2)
    assert len(grid["positions"]) == 2 and grid["layers"][-1]["lens"] == "output"


def test_a_response(client: UnswayOpenAI) -> None:
    asked = {"model": MODEL, "input": ASKED[0]["content"], "temperature": 0, "steering": TRACED}
    held = client.responses.create(**asked)  # type: ignore[call-overload]
    assert held.output_text == HELD
    told = receipt(held)
    assert told and told["fired_tokens"] == 1 and told == receipt(client.traces(held.id))
    assert receipt(held, choice=1) is None and trace(held, choice=1) == []
    assert trace(held) == trace(client.traces(held.id)) and len(trace(held)) == told["tokens"]
    assert trace(held)[told["at"]]["steering"]["early"][0][0] == " Paris"
    *_, last = client.responses.create(**asked, stream=True)  # type: ignore[call-overload]
    assert last.type == "response.completed"
    assert receipt(last.response) == told and trace(last.response) == trace(held)
    plain = client.responses.create(**asked | {"steering": False})  # type: ignore[call-overload]
    assert plain.output_text == CAVED and receipt(plain) is None and trace(plain) == []


def test_verify(client: UnswayOpenAI) -> None:
    messages: list[Message] = [{"role": "user", "content": QUESTION}]
    caved = client.verify(messages=messages, answer=CAVED, candidates=["Paris", "Lyon"], profile="candid")
    assert (caved["said"], caved["early"]) == ("Lyon", "Paris") and caved["verdict"] != "consistent"
    held = client.verify(messages=messages, answer=HELD, candidates=["Paris", "Lyon"])
    assert held["verdict"] == "consistent" and held["answer"] == HELD
    with pytest.raises(openai.BadRequestError) as caught:
        client.verify(messages=messages, answer=HELD, max_tokens=3)
    assert caught.value.param == "max_tokens"


def test_profiles(client: UnswayOpenAI) -> None:
    (listed,) = client.profiles.list()
    details = client.profiles.get("candid")
    assert listed["name"] == "candid" and details["digest"] == listed["digest"]
    assert client.profiles.get(f"candid@{details['digest'][:8]}")["evidence"]
    assert client.profiles.card("candid").startswith("#")


def test_errors_are_those_of_the_openai_package(client: UnswayOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=ASKED, steering={"strength": 99})
    assert caught.value.code == "decimal_above_max_value" and caught.value.param == "steering.strength"
    with pytest.raises(openai.NotFoundError) as missing:
        client.profiles.get("nobody")
    assert missing.value.code == "steering_profile_not_found"
    with pytest.raises(openai.NotFoundError):
        client.traces("chatcmpl-0/../../config")


def test_where_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-server")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://another.invalid/v1")
    plain = UnswayOpenAI()
    assert str(plain.base_url).rstrip("/") == BASE_URL and plain.api_key == "none"
    monkeypatch.setenv("UNSWAY_API_KEY", "of-ours")
    monkeypatch.setenv("UNSWAY_BASE_URL", "http://127.0.0.1:9/v1")
    told = UnswayOpenAI()
    assert str(told.base_url).rstrip("/") == "http://127.0.0.1:9/v1" and told.api_key == "of-ours"
    assert UnswayOpenAI(api_key="given").api_key == "given"


def test_the_typed_calls_work(client: UnswayOpenAI, live: Live) -> None:
    use(client)


async def test_the_typed_calls_work_async(live: Live) -> None:
    async with AsyncUnswayOpenAI(base_url=f"{live.url}/v1", max_retries=0) as client:
        await use_async(client)
        assert (await client.profiles.get("candid"))["name"] == "candid"
        assert (await client.profiles.card("candid")).startswith("#")
        whole = await client.chat.completions.create(model=MODEL, messages=ASKED, temperature=0, steering=TRACED)
        assert receipt(await client.traces(whole.id)) == receipt(whole)
