"""POST /v1/completions: shapes, prompts in all forms, echo, offsets, refusals. The fake engine echoes prompts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types import completion_create_params
from pydantic import TypeAdapter

from server.caller import LOCAL
from server.schemas.completions import IGNORED_IN_COMPLETIONS, CompletionRequest
from server.schemas.replies import TextCompletion
from server.serving import Served
from server.translate.completions import prepare
from steering.engine.config import EngineConfig
from steering.model.loading import LanguageModel
from steering.store import PackStore
from tests.server.fake_engine import FakeEngine
from tests.server.live import Live, serve
from tests.server.refusals import refused
from tests.server.test_choices import chunks_of

SHAPE = TypeAdapter(TextCompletion)
TEXT = "Hello there, 東京 😀"


def ids_of(live: Live, text: str) -> list[int]:
    ids: list[int] = live.served.model.tokenizer(text)["input_ids"]
    return ids


def one(live: Live, **fields: Any) -> dict[str, Any]:
    reply = live.complete(**fields)
    assert reply.status_code == 200, reply.text
    choice: dict[str, Any] = reply.json()["choices"][0]
    return choice


FIELDS: list[dict[str, Any]] = [
    {},
    {"echo": True},
    {"max_tokens": 3},
    {"logprobs": 0},
    {"logprobs": 2, "echo": True},
    {"logprobs": 20, "echo": True, "max_tokens": 0},
    {"echo": True, "max_tokens": 0},
    {"n": 2, "logprobs": 1, "echo": True},
    {"prompt": ["Hello there", TEXT], "n": 2, "logprobs": 1},
    {"prompt": [40, 41, 42], "echo": True, "logprobs": 1},
    {"prompt": [[40, 41], [42]], "echo": True, "logprobs": 1},
    {"prompt": TEXT, "logprobs": 1, "echo": True},
    {"steering": True},
    {"steering": {"trace": "tokens"}},
    {"steering": {"mode": "observe", "trace": "tokens"}, "echo": True, "logprobs": 1},
    {"steering": {"mode": "compare"}, "prompt": ["a", "b c"]},
    {"stop": ["there"], "logprobs": 1},
]


@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_X12_X13_stream_and_whole_say_the_same_in_the_right_shape(live: Live, fields: dict[str, Any]) -> None:
    whole = live.complete(**fields).json()
    SHAPE.validate_json(json.dumps(whole), strict=True)
    assert whole["id"].startswith("cmpl-") and whole["object"] == "text_completion"
    chunks = chunks_of(live, "complete", stream_options={"include_usage": True}, **fields)
    for chunk in chunks:
        SHAPE.validate_json(json.dumps(chunk), strict=True)
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == whole["usage"]
    assert all(chunk["usage"] is None and len(chunk["choices"]) == 1 for chunk in chunks[:-1])
    assert len({(c["id"], c["created"], c["model"], c["system_fingerprint"]) for c in chunks}) == 1
    for choice in whole["choices"]:
        pieces = [c["choices"][0] for c in chunks[:-1] if c["choices"][0]["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in pieces) == choice["text"]
        assert [p["finish_reason"] for p in pieces] == [None] * (len(pieces) - 1) + [choice["finish_reason"]]
        assert pieces[-1].get("steering") == choice.get("steering")
        gathered: dict[str, list[Any]] = {}
        for piece in pieces:
            for key, values in (piece["logprobs"] or {}).items():
                gathered[key] = gathered.get(key, []) + values
        assert gathered == (choice["logprobs"] or {})
    assert all("usage" not in chunk for chunk in chunks_of(live, "complete", **fields))


def test_the_default_length_is_sixteen(live: Live) -> None:
    assert live.complete(seed=0).json()["usage"]["completion_tokens"] == 16
    assert live.complete(seed=0, prompt=list(range(6, 384)) + [7] * 130).json()["usage"]["completion_tokens"] == 4


def test_prompts_in_all_forms(live: Live) -> None:
    """Texts get what the tokenizer adds by default, here a token that begins them; ids are taken as they are."""
    ids = ids_of(live, "Hello there")
    assert ids[0] == 1 and len(ids) > 3
    usage = live.complete().json()["usage"]
    assert usage["prompt_tokens"] == len(ids)
    assert live.complete(prompt=ids).json()["usage"] == usage
    assert live.complete(prompt=ids[1:]).json()["usage"]["prompt_tokens"] == len(ids) - 1
    several = live.complete(prompt=["Hello there", "you"], n=2).json()
    assert [c["index"] for c in several["choices"]] == [0, 1, 2, 3]
    assert [c["text"] for c in several["choices"]] == ["Hello there"] * 2 + ["you"] * 2
    by_ids = live.complete(prompt=[ids, ids_of(live, "you")], n=2).json()
    assert by_ids["choices"] == several["choices"] and by_ids["usage"] == several["usage"]
    assert several["usage"]["prompt_tokens"] == len(ids) + len(ids_of(live, "you"))


def test_control_tokens_in_a_prompt_are_control_tokens(live: Live) -> None:
    """A completion's prompt is the caller's own template; in a chat's messages they are text (M7)."""
    seen = []
    original = live.served.engine.add
    live.served.engine.add = lambda request: (seen.append(request.prompt_ids), original(request))[1]  # type: ignore[method-assign, func-returns-value]
    one(live, prompt="<|user|>Hi<|end|>")
    live.served.engine.add = original  # type: ignore[method-assign]
    assert list(seen[0]) == ids_of(live, "<|user|>Hi<|end|>") and seen[0][:2] == (1, 4) and seen[0][-1] == 2


def test_an_answer_continues_its_prompt_unless_there_is_none(live: Live) -> None:
    for prompt, continues in (("Hello", True), ([7, 8], True), ("", False)):
        body = json.dumps({"model": "tiny", "prompt": prompt}).encode()
        (request,) = prepare(body, [], live.served, "off", LOCAL).requests
        assert request.continues is continues


@pytest.mark.parametrize("text", ["Hello there", TEXT, "<|user|>Hi<|end|>", " two  spaces ", "e\u0301"])
def test_echo_gives_the_prompt_back_letter_for_letter(live: Live, text: str) -> None:
    plain, echoed = one(live, prompt=text, logprobs=0), one(live, prompt=text, echo=True, logprobs=0)
    assert echoed["text"] == text + plain["text"]
    ids, logprobs = ids_of(live, text), echoed["logprobs"]
    assert len(logprobs["tokens"]) == len(ids) + len(plain["logprobs"]["tokens"])
    assert logprobs["token_logprobs"][: len(ids)] == [None, *(-float(i) for i in range(1, len(ids)))]
    assert logprobs["top_logprobs"][0] is None
    assert logprobs["text_offset"][0] == 0
    shifted = [offset + len(text) for offset in plain["logprobs"]["text_offset"]]
    assert logprobs["text_offset"][len(ids) :] == shifted


def test_offsets_lead_to_the_tokens(live: Live) -> None:
    choice = one(live, prompt=TEXT, echo=True, logprobs=0)
    logprobs = choice["logprobs"]
    found = 0
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        if not token.startswith(("bytes:", "<|")):
            assert choice["text"][offset : offset + len(token)] == token
            found += 1
    assert found > 6 and any(token.startswith("bytes:\\x") for token in logprobs["tokens"])
    ends = [*logprobs["text_offset"][1:], len(choice["text"])]
    assert all(a <= b for a, b in zip(logprobs["text_offset"], ends, strict=True))


def test_top_logprobs_hold_the_token_itself(live: Live) -> None:
    logprobs = one(live, logprobs=2)["logprobs"]
    for token, logprob, top in zip(
        logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
    ):
        assert top[token] == logprob and 1 <= len(top) <= 3
    assert logprobs["token_logprobs"][2] == -9999.0  # minus infinity


def test_a_score_without_an_answer(live: Live) -> None:
    reply = live.complete(prompt=TEXT, echo=True, max_tokens=0, logprobs=1).json()
    choice = reply["choices"][0]
    assert choice["text"] == TEXT and choice["finish_reason"] == "length"
    assert len(choice["logprobs"]["tokens"]) == len(ids_of(live, TEXT)) == reply["usage"]["prompt_tokens"]
    assert reply["usage"]["completion_tokens"] == 0
    unscored = one(live, prompt=TEXT, echo=True, max_tokens=0)
    assert unscored["text"] == TEXT and unscored["logprobs"] is None


def test_steering_works_as_in_chat(live: Live) -> None:
    by_field = live.complete(steering={"profile": "firm", "strength": 0.5})
    by_header = live.complete(headers={"X-Steering-Profile": "firm;strength=0.5"})
    by_model = live.complete(model="tiny+firm", steering={"strength": 0.5})
    for reply in (by_field, by_header, by_model):
        receipt = reply.json()["choices"][0]["steering"]
        assert receipt["profile"].startswith("firm@") and receipt["strength"] == 0.5
        assert reply.headers["x-steering-profile"] == receipt["profile"]
    sources = [reply.headers["x-steering-source"] for reply in (by_field, by_header, by_model)]
    assert sources == ["body", "header", "body"]
    traced = one(live, steering={"trace": "tokens"})["logprobs"]
    assert [entry["fired"] for entry in traced["steering"]][:2] == [False, True]
    observed = one(live, steering={"mode": "observe", "trace": "tokens"}, echo=True)["logprobs"]
    assert observed["steering"][0] is None and observed["steering"][-1]["drift"] == 0.25
    refused(live, "steering_profile_not_found", "steering.profile", status=404, ask="complete", steering="nobody")


def test_J10_every_field_of_openai_is_served_ignored_or_refused_by_name(live: Live) -> None:
    theirs = set(completion_create_params.CompletionCreateParamsStreaming.__annotations__) | set(
        completion_create_params.CompletionCreateParamsBase.__annotations__
    )
    assert theirs <= set(CompletionRequest.model_fields) | IGNORED_IN_COMPLETIONS
    assert len(theirs) > 15
    assert live.complete(user="Ada").headers["x-ignored-params"] == "user"
    nothing = {name: None for name in CompletionRequest.model_fields if name not in ("model", "prompt")}
    assert live.complete(**nothing | {"seed": 1}).status_code == 200
    refused(live, "unknown_parameter", "ecco", says="did you mean echo?", ask="complete", ecco=True)
    refused(live, "unknown_parameter", "messages", ask="complete", messages=[])


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"suffix": "x"}, "suffix", "unsupported_parameter"),
        ({"best_of": 2}, "best_of", "unsupported_parameter"),
        ({"best_of": 2, "n": 3}, "best_of", "unsupported_parameter"),
        ({"logprobs": 21}, "logprobs", "integer_above_max_value"),
        ({"logprobs": True}, "logprobs", "invalid_type"),
        ({"max_tokens": -1}, "max_tokens", "integer_below_min_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"prompt": ["x"] * 64, "n": 3}, "n", "integer_above_max_value"),
        ({"model": "nobody"}, "model", "model_not_found"),
    ],
    ids=str,
)
def test_what_is_not_served(live: Live, fields: dict[str, Any], param: str, code: str) -> None:
    refused(live, code, param, status=404 if code == "model_not_found" else 400, ask="complete", **fields)


def test_what_asks_for_nothing_is_taken(live: Live) -> None:
    assert live.complete(suffix="", best_of=1).status_code == 200
    assert live.complete(best_of=2, n=2).status_code == 200
    assert live.complete(prompt=["x"] * 64, n=2, max_tokens=1).status_code == 200


@pytest.mark.parametrize(
    ("prompt", "param", "code"),
    [
        (None, "prompt", "invalid_type"),
        ([], "prompt", "invalid_type"),
        ([[]], "prompt.0", "invalid_value"),
        (5, "prompt", "invalid_type"),
        ({}, "prompt", "invalid_type"),
        (["a", 5], "prompt.1", "invalid_type"),
        ([5, "a"], "prompt.1", "invalid_type"),
        ([5, 5.5], "prompt.1", "invalid_type"),
        ([True], "prompt", "invalid_type"),
        ([[5], ["a"]], "prompt.1.0", "invalid_type"),
        ([[5], 5], "prompt.1", "invalid_type"),
        (["x"] * 65, "prompt", "array_above_max_length"),
        ([[5]] * 65, "prompt", "array_above_max_length"),
        ([384], "prompt.0", "invalid_value"),
        ([[5], [5, -1]], "prompt.1.1", "invalid_value"),
        ([2**70], "prompt.0", "invalid_value"),
        ([7] * 513, "prompt", "context_length_exceeded"),
        ([[7], [7] * 512], "prompt.1", "context_length_exceeded"),
        ([7] * 1_000_000, "prompt", "context_length_exceeded"),
        ("x" * 3_900_000, "prompt", "context_length_exceeded"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_S5_prompts_that_cannot_run(live: Live, prompt: object, param: str, code: str) -> None:
    refused(live, code, param, ask="complete", prompt=prompt)


def test_S4_the_context_is_the_limit(live: Live) -> None:
    refused(
        live, "context_length_exceeded", "max_tokens", says="at most 2", ask="complete", prompt=[7] * 510, max_tokens=3
    )
    assert live.complete(prompt=[7] * 510, max_tokens=2).status_code == 200
    assert live.complete(prompt=[7] * 512, max_tokens=0, echo=True).status_code == 200
    refused(live, "context_length_exceeded", "prompt", ask="complete", prompt=[7] * 512)


def test_J7_unicode_and_forms_of_json(live: Live) -> None:
    post = lambda body: live.client.post("/v1/completions", content=body, headers={"content-type": "application/json"})  # noqa: E731
    assert post('{"model": "tiny", "prompt": "\\ud800"}').json()["error"]["code"] == "invalid_unicode"
    assert post('{"model": "tiny"}').json()["error"]["param"] == "prompt"
    assert post("[]").json()["error"]["code"] == "invalid_type"


def test_more_prompts_than_the_queue_can_ever_hold(model: LanguageModel, store: PackStore) -> None:
    served = Served(model, FakeEngine(model, EngineConfig(max_rows=1, queue=3)), store, None, 1)  # type: ignore[arg-type]
    with serve(lambda: served) as live:
        assert live.complete(prompt=["x"] * 3).status_code == 200
        refused(live, "array_above_max_length", "prompt", says="at most 3", ask="complete", prompt=["x"] * 4)


def test_a_model_without_a_chat_template(fake: Served) -> None:
    tokenizer = fake.model.tokenizer
    before, tokenizer.chat_template = tokenizer.chat_template, None
    try:
        with serve(lambda: fake) as live:
            error = live.chat().json()["error"]
            assert error["code"] == "template_error" and "/v1/completions" in error["message"]
            assert one(live)["text"] == "Hello there"
    finally:
        tokenizer.chat_template = before
