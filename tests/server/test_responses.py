"""`POST /v1/responses`: every reply and every event is what the `openai` package types; steering by every way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from server.serving import Served
from steering.engine.config import EngineConfig
from steering.store import PackStore
from tests.grammar.check import valid
from tests.models import tiny_model
from tests.server.fake_engine import FakeEngine
from tests.server.live import Live, serve
from tests.server.packs import save_packs
from tests.server.test_tools import CITY, SAYS, SHAPES, named, real

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
REPLY = TypeAdapter(Response)
TOOL = {"type": "function", "name": "weather", "parameters": CITY, "description": "The weather.", "strict": True}
NOW = {"type": "function", "name": "now"}
TRACED = {"profile": "candid", "trace": "tokens"}
CALLED = {"type": "function_call", "call_id": "c", "name": "now", "arguments": "{}"}
CAME = {"type": "function_call_output", "call_id": "c", "output": "noon"}
__all__ = ["real"]


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder, model = tmp_path_factory.mktemp("packs"), named("qwen")
    save_packs(folder, model, tiny_model(seed=1))
    engine = FakeEngine(model, EngineConfig(max_rows=4), says=SAYS | {6: "", 7: "Hi."}, error_at={13: 3, 14: 0})
    served = Served(model, engine, PackStore(folder, model), "candid", 1)  # type: ignore[arg-type]
    with serve(lambda: served) as live:
        yield live


@pytest.fixture
def client(scripted: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{scripted.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(live: Live, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    body = {"model": "tiny", "input": "Hello there", "seed": 7} | fields
    return live.client.post("/v1/responses", json=body, headers=headers)


def whole(live: Live, **fields: Any) -> dict[str, Any]:
    reply = ask(live, **fields)
    assert reply.status_code == 200, reply.text
    REPLY.validate_json(reply.content, strict=True)
    told: dict[str, Any] = reply.json()
    return told


def events(live: Live, **fields: Any) -> list[dict[str, Any]]:
    """Each is named as its type, is what the package says, and has its number."""
    frames = ask(live, stream=True, **fields).text.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""] or '"error"' in frames[-2]
    told = []
    for frame in frames:
        if frame.startswith("event: "):
            name, data = frame.split("\n")
            told.append(json.loads(data.removeprefix("data: ")))
            EVENTS.validate_json(data.removeprefix("data: "), strict=True)
            assert name == f"event: {told[-1]['type']}"
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    return told


def same(reply: dict[str, Any], other: dict[str, Any]) -> bool:
    """But for what is new each time, and for the last digits of what was measured."""

    def known(value: Any) -> Any:
        if isinstance(value, float):
            return round(value, 4)
        if isinstance(value, dict):
            new = ("id", "call_id", "created_at", "completed_at")
            return {key: known(item) for key, item in value.items() if key not in new}
        return [known(item) for item in value] if isinstance(value, list) else value

    return bool(known(reply) == known(other))


def alike(live: Live, **fields: Any) -> dict[str, Any]:
    """The reply, which the last event of a stream has as well."""
    reply, told = whole(live, **fields), events(live, **fields)
    assert [event["type"] for event in told[:2]] == ["response.created", "response.in_progress"]
    assert told[-1]["type"] == f"response.{reply['status']}" and same(told[-1]["response"], reply)
    _check_story(told)
    return reply


def _check_story(told: list[dict[str, Any]]) -> None:
    """Items open, are told in pieces and close, one after the other, and come to what the reply has."""
    output = told[-1]["response"]["output"]
    for index, item in enumerate(output):
        of_item = [event for event in told if event.get("output_index") == index]
        assert of_item[0]["type"] == "response.output_item.added" and of_item[0]["item"]["id"] == item["id"]
        assert of_item[-1]["type"] == "response.output_item.done" and of_item[-1]["item"] == item
        assert all(event["item_id"] == item["id"] for event in of_item[1:-1])
        told_text = "".join(event["delta"] for event in of_item if event["type"].endswith(".delta"))
        assert told_text == (item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"])
    seen = [event["output_index"] for event in told if "output_index" in event]
    assert seen == sorted(seen) and set(seen) == set(range(len(output)))


def test_a_text(scripted: Live) -> None:
    reply = alike(scripted)
    (item,) = reply["output"]
    assert item["content"][0]["text"] == "Hi." and item["status"] == reply["status"] == "completed"
    assert reply["id"].startswith("resp_") and reply["usage"]["output_tokens"] > 0
    assert reply["usage"]["total_tokens"] == reply["usage"]["input_tokens"] + reply["usage"]["output_tokens"]
    assert "steering" not in reply and reply["store"] is False and reply["error"] is None


def test_an_answer_without_a_word(scripted: Live) -> None:
    reply = alike(scripted, seed=6)
    assert reply["output"][0]["content"][0]["text"] == "" and reply["usage"]["output_tokens"] == 0


def test_what_was_asked_is_told(scripted: Live) -> None:
    asked = {"instructions": "Be brief.", "temperature": 0.5, "top_p": 0.9, "max_output_tokens": 50}
    told = whole(
        scripted, **asked, metadata={"a": "b"}, tools=[TOOL, NOW], tool_choice="auto", parallel_tool_calls=True
    )
    assert {key: told[key] for key in asked} == asked and told["metadata"] == {"a": "b"}
    assert told["tools"][0] == TOOL and told["tool_choice"] == "auto" and told["text"] == {"format": {"type": "text"}}


def test_a_cut_answer_is_incomplete(scripted: Live) -> None:
    reply = alike(scripted, max_output_tokens=1)
    assert reply["status"] == "incomplete" and reply["incomplete_details"] == {"reason": "max_output_tokens"}
    assert reply["output"][0]["status"] == "incomplete"


def test_thought_text_and_calls_are_items(scripted: Live) -> None:
    assert [item["type"] for item in alike(scripted, seed=4)["output"]] == ["reasoning", "message"]
    reply = alike(scripted, seed=5, tools=[TOOL | {"strict": False}])
    thought, call = reply["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "hm"}] and thought["summary"] == []
    assert (call["name"], call["arguments"]) == ("weather", '{"city": "Paris"}') and call["call_id"].startswith("call_")
    assert reply["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    both = alike(scripted, seed=2, tools=[TOOL | {"strict": None}, NOW])["output"]
    assert [item["name"] for item in both] == ["weather", "now"]
    assert alike(scripted, seed=3, tools=[TOOL | {"strict": False}])["output"][0]["content"][0]["text"] == SAYS[3]


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({"steering": "candid"}, {}),
        ({"steering": {"profile": "candid", "strength": 0.5}}, {}),
        ({"model": "tiny+candid"}, {}),
        ({}, {"X-Steering-Profile": "candid"}),
    ],
    ids=["body", "object", "model", "header"],
)
def test_steering_by_every_way(scripted: Live, fields: dict[str, Any], headers: dict[str, str]) -> None:
    reply = ask(scripted, headers, seed=1, **fields)
    assert reply.headers["x-steering-profile"].startswith("candid@")
    told = reply.json()
    assert told["steering"]["applied"] and told["output"][-1]["steering"] == told["steering"]
    assert told["usage"]["output_tokens_details"]["steered_tokens"] == 1
    assert told["model"] == fields.get("model", "tiny")


def test_receipts_stand_on_events_that_there_are(scripted: Live) -> None:
    """No event of our own: a client that knows OpenAI's alone knows all of them."""
    told = events(scripted, seed=1, steering="candid", tools=[TOOL | {"strict": False}])
    (done,) = [event for event in told if event["type"] == "response.output_item.done" and "steering" in event["item"]]
    assert done["item"]["type"] == "function_call" and told[-1]["response"]["steering"] == done["item"]["steering"]
    assert not [event for event in told if "steer" in event["type"]]


def test_traces_are_in_the_logprobs(scripted: Live) -> None:
    reply = alike(scripted, seed=1, steering=TRACED, tools=[TOOL | {"strict": False}], top_logprobs=2)
    message, call = reply["output"]
    told = message["content"][0]["logprobs"] + call["logprobs"]
    assert "".join(entry["token"] for entry in told) == SAYS[1]
    assert told[1]["steering"]["fired"] and len(told[1]["top_logprobs"]) == 2
    deltas = [e["logprobs"] for e in events(scripted, seed=7, steering=TRACED) if e["type"].endswith("text.delta")]
    assert all(deltas) and sum(map(len, deltas)) == len(
        alike(scripted, steering=TRACED)["output"][0]["content"][0]["logprobs"]
    )


def test_traces_are_kept(scripted: Live) -> None:
    reply = whole(scripted, seed=1, steering="candid")
    kept = scripted.client.get(f"/v1/steering/traces/{reply['id']}").json()
    assert kept["choices"][0]["steering"] == reply["steering"]


@pytest.mark.parametrize("says", [4, 5], ids=["text", "call"])
def test_the_end_of_reasoning_belongs_to_it(scripted: Live, says: int) -> None:
    """Its mark and the space after that are none of what comes next, whose tokens spell it."""
    reply = alike(scripted, seed=says, tools=[TOOL | {"strict": False}], top_logprobs=0)
    thought, item = reply["output"]
    told = item["content"][0]["logprobs"] if says == 4 else item["logprobs"]
    spelled = "".join(entry["token"] for entry in told)
    assert spelled == SAYS[says].partition("</think>\n\n")[2]
    ends = "".join(entry["token"] for entry in thought["logprobs"])
    assert ends.endswith("</think>\n\n")
    count = reply["usage"]["output_tokens_details"]["reasoning_tokens"]
    assert count == len(thought["logprobs"]) == reply["usage"]["output_tokens"] - len(told)


def test_logprobs_are_there_where_they_are_asked_for(scripted: Live) -> None:
    assert whole(scripted)["output"][0]["content"][0]["logprobs"] == []
    included = whole(scripted, include=["message.output_text.logprobs"])["output"][0]["content"][0]["logprobs"]
    assert included and included[0]["top_logprobs"] == []


def test_an_error_at_the_start_has_its_status(scripted: Live) -> None:
    assert ask(scripted, seed=14, stream=True).status_code == 500


def test_an_error_later_fails_the_response(scripted: Live, client: openai.OpenAI) -> None:
    told = events(scripted, seed=13)
    failed, error = told[-2:]
    assert (failed["type"], error["type"], error["code"]) == ("response.failed", "error", "numerical_error")
    assert failed["response"]["status"] == "failed" and failed["response"]["error"]["message"] == error["message"]
    with pytest.raises(openai.APIError, match="NaN"):
        list(client.responses.create(model="tiny", input="Hello there", stream=True, extra_body={"seed": 13}))


def test_the_package_streams_raw(client: openai.OpenAI) -> None:
    stream = client.responses.create(model="tiny", input="Hi", stream=True, extra_body={"seed": 1, "steering": TRACED})
    told = list(stream)
    assert told[0].type == "response.created" and told[-1].type == "response.completed"
    assert told[-1].response.steering["applied"]  # type: ignore[attr-defined]
    assert told[-1].response.output_text == SAYS[1]


def test_the_package_streams_with_its_helper(client: openai.OpenAI) -> None:
    extra = {"seed": 2, "steering": "candid"}
    tools: Any = [TOOL | {"strict": False}, NOW | {"parameters": {}, "strict": False}]
    with client.responses.stream(model="tiny", input="Hi", tools=tools, extra_body=extra) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert "response.function_call_arguments.delta" in kinds and final.steering["applied"]  # type: ignore[attr-defined]
    assert [(item.type, item.name) for item in final.output] == [("function_call", "weather"), ("function_call", "now")]  # type: ignore[union-attr]


def test_a_conversation_goes_on_with_what_was_told(client: openai.OpenAI) -> None:
    """Items of a reply are sent back as the package dumps them: text, thought, calls, receipts and all."""
    tools: Any = [TOOL | {"strict": False}]
    turns: list[Any] = [{"role": "user", "content": "Weather?"}]
    for seed in (1, 4):
        reply = client.responses.create(
            model="tiny", input=turns, tools=tools, extra_body={"seed": seed, "steering": TRACED}
        )
        turns += [item.model_dump() for item in reply.output]
        turns += [
            {"type": "function_call_output", "call_id": item.call_id, "output": "rain"}
            for item in reply.output
            if item.type == "function_call"
        ]
    turns.append({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "And?"}]})
    echoed = client.responses.create(model="tiny", input=turns, tools=tools, extra_body={"seed": 99}).model_dump()
    said = json.dumps(echoed["output"])
    assert all(text in said for text in ("Let me see.", "rain", "It is Paris.", "The answer.", "And?"))
    assert [item["arguments"] for item in echoed["output"] if item["type"] == "function_call"] == ['{"city": "Paris"}']


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "weather"}], ids=str)
def test_a_random_model_that_has_to_call_calls(real: Live, choice: object) -> None:
    reply = alike(real, tools=[TOOL], tool_choice=choice, parallel_tool_calls=False, steering="candid", seed=3)
    (item,) = reply["output"]
    assert valid(json.loads(item["arguments"]), CITY) and item["steering"] == reply["steering"]


def test_text_by_a_schema(real: Live) -> None:
    form = {"type": "json_schema", "name": "answer", "schema": CITY, "strict": True}
    reply = alike(real, text={"format": form}, seed=3)
    assert (
        valid(json.loads(reply["output"][0]["content"][0]["text"]), CITY) and reply["text"]["format"]["schema"] == CITY
    )
    assert len(SHAPES) == 3


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"previous_response_id": "resp_1"}, "unsupported_parameter", "previous_response_id"),
        ({"store": True}, "unsupported_parameter", "store"),
        ({"background": True}, "unsupported_parameter", "background"),
        ({"conversation": "c"}, "unsupported_parameter", "conversation"),
        ({"truncation": "auto"}, "unsupported_parameter", "truncation"),
        ({"prompt": {"id": "p"}}, "unsupported_parameter", "prompt"),
        ({"steering": {"mode": "compare"}}, "unsupported_parameter", "steering.mode"),
        ({"steering": {"profil": "candid"}}, "unknown_parameter", "steering.profil"),
        ({"inputs": "x"}, "unknown_parameter", "inputs"),
        ({"messages": []}, "unknown_parameter", "messages"),
        ({"chat_template": "x"}, "unknown_parameter", "chat_template"),
        ({"chat_template_kwargs": {"tokenize": True}}, "unknown_parameter", "chat_template_kwargs"),
        ({"input": []}, "array_below_min_length", "input"),
        ({"input": 5}, "invalid_type", "input"),
        ({"input": [{"role": "root", "content": ""}]}, "invalid_value", "input.0.role"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "unsupported_content", "input.0"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://127.0.0.1"}]}]},
            "unsupported_content",
            "input.0.content.0",
        ),
        (
            {"input": [{"type": "function_call_output", "call_id": "x", "output": ""}]},
            "invalid_value",
            "input.0.call_id",
        ),
        (
            {"instructions": "a", "input": [{"role": "user", "content": "a"}, CALLED]},
            "invalid_value",
            "input.1",
        ),
        ({"input": [CALLED, CAME, {"role": "assistant", "content": " "}]}, "invalid_value", "input.2.content"),
        ({"input": [CALLED, CAME, {"type": "reasoning", "summary": []}]}, "invalid_value", "input.2"),
        ({"input": "x" * 100_000}, "context_length_exceeded", "input"),
        ({"max_output_tokens": 10**6}, "context_length_exceeded", "max_output_tokens"),
        ({"tools": [{"type": "web_search"}]}, "unsupported_parameter", "tools.0"),
        ({"tools": [TOOL, TOOL]}, "invalid_value", "tools.1.name"),
        ({"tools": [NOW], "tool_choice": {"type": "function", "name": "f"}}, "invalid_value", "tool_choice.name"),
        ({"text": {"format": {"type": "xml"}}}, "invalid_value", "text.format"),
        (
            {"text": {"format": {"type": "json_schema", "name": "a", "schema": {"not": {}}}}},
            "invalid_value",
            "text.format.schema",
        ),
        ({"metadata": {str(i): "" for i in range(17)}}, "array_above_max_length", "metadata"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_told(scripted: Live, fields: dict[str, Any], code: str, param: str) -> None:
    reply = ask(scripted, **fields)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, code, param), reply.text


def test_what_is_ignored_is_named(scripted: Live) -> None:
    reply = ask(
        scripted,
        reasoning={"effort": "low"},
        user="Ada",
        include=["reasoning.encrypted_content"],
        text={"verbosity": "low"},
        store=False,
        previous_response_id=None,
        stream_options={"include_obfuscation": False},
        stream=True,
    )
    assert reply.headers["x-ignored-params"].split(", ") == [
        "reasoning",
        "user",
        "stream_options.include_obfuscation",
        "include.0",
        "text.verbosity",
    ]


def test_every_field_of_openai_is_served_ignored_or_refused_by_name() -> None:
    from openai.types.responses import response_create_params as theirs

    from server.schemas.responses import IGNORED_IN_RESPONSES, NEUTRAL_IN_RESPONSES, ResponsesRequest

    known = set(theirs.ResponseCreateParamsBase.__annotations__) | set(
        theirs.ResponseCreateParamsStreaming.__annotations__
    )
    ours = set(ResponsesRequest.model_fields)
    assert len(known) > 25 and known <= ours | IGNORED_IN_RESPONSES
    assert set(NEUTRAL_IN_RESPONSES) < ours and not IGNORED_IN_RESPONSES & ours
