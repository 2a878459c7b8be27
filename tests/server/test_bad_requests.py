"""FAULTS J10-J14, S1-S14: parameters. Each refusal is a clear 4xx that names the field and what it may be."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import completion_create_params

from server.errors import ApiError
from server.schemas.openai import _NEUTRAL, IGNORED, ChatRequest
from server.schemas.steering import SteeringOptions
from server.translate.chat import _validate
from server.translate.steering import from_body, from_header
from tests.server.live import HELLO, Live
from tests.server.refusals import refused, user

# Unknown, ignored and unsupported parameters


def test_J10_unknown_field_with_a_suggestion(live: Live) -> None:
    refused(live, "unknown_parameter", "steeering", says="did you mean steering?", steeering=True)
    refused(live, "unknown_parameter", "temprature", says="did you mean temperature?", temprature=1)
    refused(live, "unknown_parameter", "zzz", says="zzz is not a known parameter.", zzz=1)
    refused(live, "unknown_parameter", "steering.strenght", says="did you mean strength?", steering={"strenght": 1})
    refused(
        live,
        "unknown_parameter",
        "stream_options.includ_usage",
        says="include_usage",
        stream=True,
        stream_options={"includ_usage": True},
    )
    refused(
        live,
        "unknown_parameter",
        "messages.0.kontent",
        says="content",
        messages=[{"role": "user", "content": "", "kontent": 1}],
    )
    reply = live.chat(**{"x" * 100_000: 1})
    assert reply.status_code == 400 and len(reply.content) < 4_000


def test_J10_ignored_fields_are_taken_and_named(live: Live) -> None:
    ignored = {name: {"any": ["thing"]} for name in IGNORED}
    reply = live.chat(**ignored, messages=[HELLO[0] | {"name": "Ada"}])
    assert reply.status_code == 200
    assert reply.headers["x-ignored-params"].split(", ") == [*sorted(IGNORED), "messages.name"]
    assert "x-ignored-params" not in live.chat().headers


def test_J10_every_field_of_openai_is_served_ignored_or_refused_by_name() -> None:
    theirs = set(completion_create_params.CompletionCreateParamsStreaming.__annotations__) | set(
        completion_create_params.CompletionCreateParamsBase.__annotations__
    )
    ours = set(ChatRequest.model_fields)
    assert theirs <= ours | IGNORED
    assert set(_NEUTRAL) < ours and not IGNORED & ours
    assert len(theirs) > 30  # else the comparison is vacuous


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("functions", [{"name": "f"}]),
        ("function_call", {"name": "f"}),
        ("audio", {"voice": "x"}),
        ("modalities", ["text", "audio"]),
        ("web_search_options", {}),
    ],
)
def test_what_would_change_the_answer_is_never_ignored(live: Live, name: str, value: object) -> None:
    refused(live, "unsupported_parameter", name, says=name, **{name: value})


def test_values_that_ask_for_nothing_are_taken(live: Live) -> None:
    neutral = {name: values[0] for name, values in _NEUTRAL.items() if values}
    assert live.chat(**neutral).status_code == 200
    nothing = {name: None for name in ChatRequest.model_fields if name not in ("model", "messages")}
    assert live.chat(**nothing | {"seed": 1}).status_code == 200


def test_J11_twelve_thousand_wrong_items(live: Live) -> None:
    bad = [{"role": "user", "content": 5}] * 1024
    refused(live, "invalid_type", "messages.0.content", says="1024 errors, first 5 shown", messages=bad)
    refused(live, "array_above_max_length", "messages", messages=[{"role": 5}] * 12_000)
    refused(live, "array_above_max_length", "messages.0.content", messages=user([{}] * 12_000))


def test_J12_nul(live: Live) -> None:
    refused(live, "invalid_name", "steering.profile", steering="can\0did")
    assert live.chat(messages=user("a\0b")).status_code == 200


def test_J14_keys_of_objects_are_data(live: Live) -> None:
    assert live.chat(metadata={"__proto__": "x", "constructor": "y"}).status_code == 200


# Sampling


@pytest.mark.parametrize(("value", "code"), [(-0.1, "decimal_below_min_value"), (2.1, "decimal_above_max_value")])
def test_S1_temperature(live: Live, value: float, code: str) -> None:
    refused(live, code, "temperature", says="between 0 and 2", temperature=value)


@pytest.mark.parametrize("value", [1e-320, 5e-324])
def test_S1_denormals_count_as_greedy(live: Live, value: float) -> None:
    assert live.chat(temperature=value).status_code == 200


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("top_p", 0, "decimal_below_min_value"),
        ("top_p", 1.0001, "decimal_above_max_value"),
        ("top_p", -1, "decimal_below_min_value"),
        ("top_k", -2, "integer_below_min_value"),
        ("top_k", 2**31, "integer_above_max_value"),
        ("min_p", 1.1, "decimal_above_max_value"),
        ("min_p", -0.1, "decimal_below_min_value"),
    ],
)
def test_S2_truncation(live: Live, name: str, value: float, code: str) -> None:
    refused(live, code, name, says=f"{name} must be ", **{name: value})


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (0, "integer_below_min_value"),
        (17, "integer_above_max_value"),
        (129, "integer_above_max_value"),
        (2**31, "integer_above_max_value"),
    ],
)
def test_S3_n(live: Live, value: int, code: str) -> None:
    for ask in ("chat", "complete"):
        refused(live, code, "n", says="between 1 and 16", n=value, ask=ask)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_S4_max_tokens(live: Live, name: str) -> None:
    for value in (0, -1):
        refused(live, "integer_below_min_value", name, says="between 1 and", **{name: value})
    refused(live, "integer_above_max_value", name, **{name: 2**63})
    refused(live, "context_length_exceeded", name, says="at most 501", **{name: 502})
    assert live.chat(**{name: 501}).status_code == 200
    refused(live, "invalid_value", "max_tokens", max_tokens=5, max_completion_tokens=6)


def test_S4_without_a_limit_the_context_is_the_limit(live: Live) -> None:
    reply = live.chat(seed=0, messages=user("x" * 480))  # seed 0 never ends by itself
    usage = reply.json()["usage"]
    assert usage["total_tokens"] == 512 and reply.json()["choices"][0]["finish_reason"] == "length"


def test_S5_prompt_over_the_context(live: Live) -> None:
    fixed = live.chat(messages=user("")).json()["usage"]["prompt_tokens"]
    assert live.chat(messages=user("x" * (511 - fixed))).status_code == 200
    for extra in (0, 1):
        message = f"The context is 512 tokens and messages has {512 + extra}"
        refused(live, "context_length_exceeded", "messages", says=message, messages=user("x" * (512 - fixed + extra)))


def test_S6_logprobs(live: Live) -> None:
    for value, code in (
        (21, "integer_above_max_value"),
        (-1, "integer_below_min_value"),
        (384, "integer_above_max_value"),
    ):
        refused(live, code, "top_logprobs", says="between 0 and 20", logprobs=True, top_logprobs=value)
    refused(live, "invalid_value", "top_logprobs", says="logprobs: true", top_logprobs=5)
    refused(live, "invalid_value", "top_logprobs", says="logprobs: true", top_logprobs=5, logprobs=False)


@pytest.mark.parametrize(
    ("stop", "param", "code"),
    [
        ("", "stop", "string_below_min_length"),
        (["a", ""], "stop.1", "string_below_min_length"),
        (["a"] * 5, "stop", "array_above_max_length"),
        ("x" * 257, "stop", "string_above_max_length"),
        ("x" * 2**20, "stop", "string_above_max_length"),
        ([7], "stop.0", "invalid_type"),
        ([["a"]], "stop.0", "invalid_type"),
    ],
)
def test_S8_stop(live: Live, stop: object, param: str, code: str) -> None:
    refused(live, code, param, stop=stop)


@pytest.mark.parametrize(("seed", "code"), [(-1, "integer_below_min_value"), (2**64, "integer_above_max_value")])
def test_S9_seed(live: Live, seed: int, code: str) -> None:
    refused(live, code, "seed", says="between 0 and 18446744073709551615", seed=seed)


@pytest.mark.parametrize("ask", ["chat", "complete"])
@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("presence_penalty", 2.1, "decimal_above_max_value"),
        ("frequency_penalty", -2.1, "decimal_below_min_value"),
        ("repetition_penalty", 2.1, "decimal_above_max_value"),
        ("repetition_penalty", 0, "decimal_below_min_value"),
        ("presence_penalty", "1", "invalid_type"),
        ("frequency_penalty", True, "invalid_type"),
    ],
)
def test_S10_penalties(live: Live, name: str, value: object, code: str, ask: str) -> None:
    refused(live, code, name, ask=ask, **{name: value})
    refused(live, code, name, ask=ask, steering=True, **{name: value})


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("field", ['"presence_penalty": NaN', '"frequency_penalty": 1e999', '"logit_bias": {"5": NaN}'])
def test_S7_S10_numbers_that_are_none(live: Live, path: str, field: str) -> None:
    body = f'{{"model": "tiny", "messages": [], "prompt": "x", {field}}}'
    error = live.client.post(path, content=body, headers={"content-type": "application/json"}).json()["error"]
    assert error["code"] == "non_finite_number"


@pytest.mark.parametrize("ask", ["chat", "complete"])
@pytest.mark.parametrize(
    ("bias", "param", "code"),
    [
        ({"384": 1}, "logit_bias", "invalid_value"),  # the width of the logits
        ({"99999999999": 1}, "logit_bias", "invalid_value"),
        ({"-1": 1}, "logit_bias", "invalid_value"),
        ({"abc": 1}, "logit_bias", "invalid_value"),
        ({"05": 1}, "logit_bias", "invalid_value"),
        ({"5.0": 1}, "logit_bias", "invalid_value"),
        ({"\u0665": 1}, "logit_bias", "invalid_value"),
        ({"": 1}, "logit_bias", "invalid_value"),
        ({str(i): 0 for i in range(301)}, "logit_bias", "array_above_max_length"),
        ({str(i): 0 for i in range(90_000)}, "logit_bias", "array_above_max_length"),
        ({"5": 100.5}, "logit_bias.5", "decimal_above_max_value"),
        ({"5": -1e30}, "logit_bias.5", "decimal_below_min_value"),
        ({"5": "1"}, "logit_bias.5", "invalid_type"),
        ({"5": True}, "logit_bias.5", "invalid_type"),
        ({"5": None}, "logit_bias.5", "invalid_type"),
        ([[5, 1]], "logit_bias", "invalid_type"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_S7_logit_bias(live: Live, bias: object, param: str, code: str, ask: str) -> None:
    refused(live, code, param, ask=ask, logit_bias=bias)


@pytest.mark.parametrize("ask", ["chat", "complete"])
@pytest.mark.parametrize(
    ("ids", "param", "code"),
    [
        ([384], "stop_token_ids", "invalid_value"),
        ([-1], "stop_token_ids", "invalid_value"),
        ([2**63], "stop_token_ids", "invalid_value"),
        ([1] * 65, "stop_token_ids", "array_above_max_length"),
        (["1"], "stop_token_ids.0", "invalid_type"),
        ([1.0], "stop_token_ids.0", "invalid_type"),
        (7, "stop_token_ids", "invalid_type"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_S8_stop_token_ids(live: Live, ids: object, param: str, code: str, ask: str) -> None:
    refused(live, code, param, ask=ask, stop_token_ids=ids)


def test_S12_stream_options_without_stream(live: Live) -> None:
    refused(live, "invalid_value", "stream_options", says="stream: true", stream_options={"include_usage": True})


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0},
        {"temperature": 2},
        {"top_p": 1},
        {"top_p": 5e-324},
        {"top_k": 0},
        {"top_k": 2**31 - 1},
        {"min_p": 0},
        {"min_p": 1},
        {"n": 1},
        {"n": 16, "max_tokens": 1, "seed": 20},
        {"presence_penalty": -2, "frequency_penalty": 2, "repetition_penalty": 0.1},
        {"repetition_penalty": 2},
        {"logit_bias": {str(i): 100 - i % 2 * 200 for i in range(300)}},
        {"logit_bias": {"0": 0, "383": -100}},
        {"logit_bias": {}},
        {"stop_token_ids": list(range(320, 384))},
        {"ignore_eos": True},
        {"max_tokens": 1},
        {"seed": 0, "max_tokens": 1},
        {"seed": 2**64 - 1},
        {"stop": "x" * 256},
        {"stop": ["x" * 256] * 4},
        {"stop": []},
        {"logprobs": True, "top_logprobs": 0},
        {"logprobs": True, "top_logprobs": 20},
        {"steering": {"strength": 0}},
        {"steering": {"strength": 2}},
        {"steering": {"threshold": 0}},
        {"steering": {"threshold": 1}},
        {"steering": {"phases": ["completion"], "exempt": [], "trace": "off", "gate": "drift", "mode": "on"}},
        {"messages": [HELLO[0] | {"content": "x"}, {"role": "assistant", "content": ""}] * 20 + HELLO},
        {"messages": user([{"type": "text", "text": "a"}] * 64)},
    ],
)
def test_S14_every_field_at_its_bound(live: Live, fields: dict[str, object]) -> None:
    reply = live.chat(**fields)
    assert reply.status_code == 200, reply.text


def test_a_4xx_leaves_no_traceback(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    for fields in ({"n": 0}, {"steering": "alien"}, {"messages": HELLO * 2}, {"model": "x"}):
        assert live.chat(**fields).status_code in (400, 404)
    assert not [record for record in caplog.records if record.exc_info or "Traceback" in record.message]


NAMES = sorted({*ChatRequest.model_fields, *SteeringOptions.model_fields, "role", "content", "type", "text", "zzz"})
WORDS = ["", "on", "compare", "candid", "text", "image_url", "user", "root", "{}", '{"mode": 5}', "x" * 300, "\0", "é"]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(WORDS),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.sampled_from(NAMES), children, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), values, max_size=5))
def test_whatever_comes_is_a_request_or_a_4xx(fields: dict[str, object]) -> None:
    try:
        chat, _ = _validate({"model": "tiny", "messages": HELLO} | fields)
        from_body(chat.steering)
    except ApiError as error:
        assert 400 <= error.status < 500 and len(json.dumps(error.reply())) < 4_000


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="candid;=.0159e-+ onfgtrhmp", max_size=40))
def test_whatever_a_header_holds_is_steering_or_a_4xx(value: str) -> None:
    try:
        assert from_header([value]) is not None
    except ApiError as error:
        assert error.status == 400
