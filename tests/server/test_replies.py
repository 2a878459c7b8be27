"""Shapes of replies, X12 (a stream says what the whole reply says), M9-M11, receipts and traces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter

from server.caller import LOCAL
from server.routes.answering import Prepare
from server.schemas.replies import ChatCompletion, ChatCompletionChunk, ModelCard, ModelList
from server.schemas.steering import ProfileList
from server.translate.chat import prepare as prepare_chat
from server.translate.completions import prepare as prepare_completion
from steering.engine.request import SamplingParams
from tests.server.live import HELLO, Live

COMPLETION, CHUNK = TypeAdapter(ChatCompletion), TypeAdapter(ChatCompletionChunk)


def stream(live: Live, **fields: Any) -> list[dict[str, Any]]:
    """The chunks of a stream that ended well."""
    reply = live.chat(stream=True, **fields)
    assert reply.status_code == 200 and reply.headers["content-type"].startswith("text/event-stream"), reply.text
    frames = reply.text.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""] and all(frame.startswith("data: ") for frame in frames[:-1])
    return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]


def gathered(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """What a client makes of a stream."""
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    content = [entry for choice in choices if choice["logprobs"] for entry in choice["logprobs"]["content"]]
    return {
        "text": "".join(choice["delta"].get("content", "") for choice in choices),
        "logprobs": content,
        "finish_reason": choices[-1]["finish_reason"],
        "steering": choices[-1].get("steering"),
        "usage": chunks[-1].get("usage"),
    }


FIELDS: list[dict[str, Any]] = [
    {},
    {"max_tokens": 3},
    {"stop": ["there"]},
    {"logprobs": True, "top_logprobs": 3},
    {"steering": True},
    {"steering": {"trace": "tokens"}},
    {"steering": {"mode": "observe", "trace": "tokens"}, "logprobs": True, "top_logprobs": 2},
    {"steering": {"profile": "firm", "strength": 0}},
    {"messages": [{"role": "user", "content": "東京 😀 👩‍👩‍👧"}], "logprobs": True},
    {"messages": [{"role": "user", "content": ""}]},
]


@pytest.mark.parametrize("fields", FIELDS)
def test_X12_stream_and_whole_say_the_same(live: Live, fields: dict[str, Any]) -> None:
    whole = live.chat(**fields).json()
    choice = whole["choices"][0]
    chunks = stream(live, stream_options={"include_usage": True}, **fields)
    assert gathered(chunks) == {
        "text": choice["message"]["content"],
        "logprobs": (choice["logprobs"] or {"content": []})["content"],
        "finish_reason": choice["finish_reason"],
        "steering": choice.get("steering"),
        "usage": whole["usage"],
    }
    assert {chunk["system_fingerprint"] for chunk in chunks} == {whole["system_fingerprint"]}


@pytest.mark.parametrize("fields", FIELDS)
def test_shapes(live: Live, fields: dict[str, Any]) -> None:
    whole = live.chat(**fields).json()
    COMPLETION.validate_json(json.dumps(whole), strict=True)
    assert whole["id"].startswith("chatcmpl-") and isinstance(whole["created"], int)
    usage = whole["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    if whole["choices"][0]["logprobs"]:
        assert len(whole["choices"][0]["logprobs"]["content"]) == usage["completion_tokens"]
    chunks = stream(live, **fields)
    for chunk in chunks:
        CHUNK.validate_json(json.dumps(chunk), strict=True)
        assert len(chunk["choices"]) == 1 and "usage" not in chunk and "error" not in chunk
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [c["choices"][0]["finish_reason"] is not None for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1]["choices"][0]["delta"] == {}
    assert len({(c["id"], c["created"], c["model"]) for c in chunks}) == 1


def test_X13_usage_only_when_asked(live: Live) -> None:
    chunks = stream(live, stream_options={"include_usage": True})
    assert [c["usage"] for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 7
    assert stream(live, stream_options={"include_usage": False})[-1]["choices"]


def test_the_receipt_stands_at_the_end_and_nowhere_else(live: Live) -> None:
    chunks = stream(live, steering={"trace": "tokens"})
    for chunk in chunks[:-1]:
        assert "steering" not in chunk and "steering" not in chunk["choices"][0]
        assert chunk["choices"][0]["delta"].keys() <= {"role", "content"}
    assert chunks[-1]["choices"][0]["steering"] == {
        "applied": True,
        "mode": "on",
        "profile": f"candid@{live.served.store.get('candid').digest[:12]}",
        "strength": 1.0,
        "gate": "drift",
        "fired_tokens": 1,
        "tokens": 7,
        "at": 1,
        "max_drift": 0.75,
        "early_token": "\\",
        "late_token": "]",
    }


@pytest.mark.parametrize(
    ("steering", "skipped"),
    [
        ({"mode": "observe"}, "observe"),
        ({"strength": 0}, "strength 0"),
        ({"profile": "firm", "strength": 0}, "strength 0"),
    ],
)
def test_why_not(live: Live, steering: dict[str, Any], skipped: str) -> None:
    reply = live.chat(steering=steering).json()
    receipt = reply["choices"][0]["steering"]
    assert receipt["applied"] is False and receipt["skipped"] == skipped and None not in receipt.values()
    assert reply["usage"]["completion_tokens_details"] == {"steered_tokens": 0}


def test_the_gate_did_not_open(live: Live) -> None:
    receipt = live.chat(steering=True, max_tokens=1).json()["choices"][0]["steering"]
    assert receipt["skipped"] == "gate did not open" and receipt["fired_tokens"] == 0


def test_no_receipt_when_off(live: Live) -> None:
    for steering in (None, False):
        assert "steering" not in live.chat(steering=steering).json()["choices"][0]


def test_the_trace_of_a_token(live: Live) -> None:
    reply = live.chat(steering={"trace": "tokens"}).json()["choices"][0]
    entries = reply["logprobs"]["content"]
    assert [e["steering"]["fired"] for e in entries] == [False, True, False, False, False, False, False]
    assert entries[1]["steering"] == {
        "fired": True,
        "steered": True,
        "drift": 0.75,
        "early": [["\\", -0.1]],
        "late": [["]", -0.2]],
    }
    assert entries[0]["top_logprobs"] == []
    summary = live.chat(steering={"trace": "summary"}, logprobs=True).json()["choices"][0]
    assert "steering" not in summary["logprobs"]["content"][0] and summary["steering"]["fired_tokens"] == 1


def test_trace_tokens_turns_logprobs_on_even_when_off(live: Live) -> None:
    content = live.chat(steering={"mode": "off", "trace": "tokens"}).json()["choices"][0]["logprobs"]["content"]
    assert len(content) == 7 and "steering" not in content[0]


def test_minus_infinity_is_a_number(live: Live) -> None:
    content = live.chat(logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]["content"]
    assert [entry["logprob"] for entry in content][:3] == [-0.5, -0.5, -9999.0]
    assert [top["logprob"] for top in content[0]["top_logprobs"]] == [-0.5, -1.5]


def test_bytes_of_tokens_make_up_the_text(live: Live) -> None:
    text = "東京 😀 é"
    reply = live.chat(messages=[{"role": "user", "content": text}], logprobs=True).json()["choices"][0]
    joined = bytes(byte for entry in reply["logprobs"]["content"] for byte in entry["bytes"])
    assert joined.decode() == reply["message"]["content"] == text


def test_M9_no_half_characters_in_a_stream(live: Live) -> None:
    chunks = stream(live, messages=[{"role": "user", "content": "😀👩‍👩‍👧東"}])
    pieces = [choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]]
    assert "".join(pieces) == "😀👩‍👩‍👧東" and not any("\ufffd" in piece for piece in pieces)
    assert (
        live.chat(messages=[{"role": "user", "content": "😀"}]).json()["usage"]["completion_tokens"] > 1
    )  # not vacuous


@pytest.mark.parametrize("stop", ["lo th", "there", ["zzz", "o t"]])
def test_M10_a_stop_string_never_shows(live: Live, stop: Any) -> None:
    first = stop if isinstance(stop, str) else stop[1]
    expected = "Hello there".partition(first)[0]
    pieces = [c["choices"][0]["delta"].get("content", "") for c in stream(live, stop=stop)]
    assert "".join(pieces) == expected == live.chat(stop=stop).json()["choices"][0]["message"]["content"]


def test_M11_an_empty_answer(live: Live) -> None:
    reply = live.chat(stop="Hello there"[0]).json()
    assert reply["choices"][0]["message"]["content"] == "" and reply["choices"][0]["finish_reason"] == "stop"
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in stream(live, stop="H")) == ""


def test_headers(live: Live) -> None:
    assert live.chat(headers={"X-Request-Id": "my.id-1"}).headers["x-request-id"] == "my.id-1"
    for bad in (b"a b", b"x" * 65, b"a____b@10.0.0.1:80", b"\xc3\xa9"):
        reply = live.client.get("/health", headers=[(b"x-request-id", bad)])
        assert reply.headers["x-request-id"].startswith("req_")
    ids = {
        live.client.get(path).headers["x-request-id"]
        for path in ("/", "/nope", "/health", "/v1/models", "/openapi.json")
    }
    assert len(ids) == 5


def test_C7_the_same_request_id_twice(live: Live) -> None:
    replies = [live.chat(headers={"X-Request-Id": "same"}).json() for _ in range(2)]
    assert replies[0]["id"] != replies[1]["id"]


def test_seeds_differ_unless_given(live: Live) -> None:
    seen: set[int] = set()
    original = live.served.engine.add

    def spy(request: Any) -> None:
        seen.add(request.sampling.seed)
        original(request)

    live.served.engine.add = spy  # type: ignore[method-assign]
    for _ in range(3):
        assert live.chat(seed=None, max_tokens=1).status_code == 200
    live.served.engine.add = original  # type: ignore[method-assign]
    assert len(seen) == 3


@pytest.mark.parametrize("prepare", [prepare_chat, prepare_completion])
def test_what_is_asked_for_is_what_the_engine_gets(live: Live, prepare: Prepare) -> None:
    asked = {
        "max_tokens": 5,
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.75,
        "min_p": 0.25,
        "presence_penalty": 1.5,
        "frequency_penalty": -0.5,
        "repetition_penalty": 1.25,
        "logit_bias": {"5": 1.5, "7": -2},
        "seed": 9,
        "stop": ["a", "b"],
        "stop_token_ids": [3, 4],
        "ignore_eos": True,
    }
    body = {"model": "tiny", "n": 3, **asked}
    body |= {"messages": HELLO} if prepare is prepare_chat else {"prompt": "x"}
    (request,) = prepare(json.dumps(body).encode(), [], live.served, "off", LOCAL).requests
    same = {name: asked[name] for name in asked if name not in ("logit_bias", "stop", "stop_token_ids")}
    assert request.sampling == SamplingParams(
        **same, logit_bias=((5, 1.5), (7, -2.0)), stop=("a", "b"), stop_token_ids=(3, 4)
    )
    assert request.n == 3 and not request.compare


def test_content_parts_and_developer_role(live: Live) -> None:
    parts = [{"type": "text", "text": "Hello "}, {"type": "text", "text": "there"}]
    plain = live.chat(
        messages=[{"role": "system", "content": "Be."}, {"role": "user", "content": "Hello there"}]
    ).json()
    rich = live.chat(messages=[{"role": "developer", "content": "Be."}, {"role": "user", "content": parts}]).json()
    assert plain["choices"] == rich["choices"] and plain["usage"] == rich["usage"]


def test_models(live: Live) -> None:
    listed = live.client.get("/v1/models").json()
    TypeAdapter(ModelList).validate_python(listed, strict=True)
    assert [card["id"] for card in listed["data"]] == ["tiny", "tiny+candid", "tiny+firm", "tiny+watch"]
    for card in listed["data"]:
        assert live.client.get(f"/v1/models/{card['id']}").json() == card
        assert live.client.get(f"/v1/models/{card['id'].replace('+', '%2B')}").json() == card
    candid = listed["data"][1]
    assert candid["parent"] == "tiny" and candid["steering"]["max_strength"] == 2.0
    none = live.client.get("/v1/models/tiny+none").json()
    TypeAdapter(ModelCard).validate_python(none, strict=True)
    assert none["id"] == "tiny+none" and none["parent"] == "tiny"
    missing = live.client.get("/v1/models/tiny+nobody")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_profiles(live: Live) -> None:
    listed = live.client.get("/v1/steering/profiles").json()
    TypeAdapter(ProfileList).validate_python(listed, strict=True)
    assert [p["name"] for p in listed["data"]] == ["alien", "broken", "candid", "firm", "watch"]
    assert "/" not in "".join(p.get("broken", "") for p in listed["data"])


def test_system_fingerprint_follows_the_plan(live: Live) -> None:
    prints = [
        live.chat(steering=steering).json()["system_fingerprint"]
        for steering in (None, True, {"strength": 0.5}, {"threshold": 0.5}, {"mode": "observe"}, "firm")
    ]
    assert len(set(prints)) == len(prints)
    assert live.chat(steering=True).json()["system_fingerprint"] == prints[1]
