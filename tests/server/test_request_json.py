"""FAULTS J1-J9, J13: what is not one clear JSON object never reaches a schema."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import ApiError
from server.request_json import MAX_DEPTH, MAX_ITEMS, parse
from tests.server.live import Live

BODY = '{"model": "tiny", "messages": [{"role": "user", "content": "Hello there"}], "seed": 1%s}'


def refused(live: Live, body: bytes | str, code: str, param: str | None) -> str:
    reply = live.post(body)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, code, param), reply.text
    assert error.keys() == {"message", "type", "param", "code"} and len(reply.content) < 32_000
    return str(error["message"])


def quickest(body: bytes) -> float:
    """Seconds to refuse it: the best of three, since the machine has other things to do."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        with pytest.raises(ApiError):
            parse(body)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@pytest.mark.parametrize("body", ['{"a":', BODY % "" + "x", "", "{'a': 1}", '{"a": 1,}', "[" * 10 + "}" * 10])
def test_J1_malformed_json(live: Live, body: str) -> None:
    refused(live, body, "invalid_json", None)


@pytest.mark.parametrize("body", ["[]", '"x"', "42", "null", "true"])
def test_J2_top_level_is_not_an_object(live: Live, body: str) -> None:
    refused(live, body, "invalid_type", None)


@pytest.mark.parametrize(
    "body",
    [
        "[" * 100_000 + "]" * 100_000,
        "[" * 100_000,
        '{"a":' * 5_000 + "1" + "}" * 5_000,
        BODY % (', "metadata": ' + "[" * 63 + "[]" + "]" * 63),
    ],
)
def test_J3_deep_nesting(live: Live, body: str) -> None:
    assert str(MAX_DEPTH) in refused(live, body, "invalid_json", None)
    assert quickest(body.encode()) < 0.05


def test_J3_depth_is_counted_outside_strings_only(live: Live) -> None:
    assert live.post(BODY % (', "user": "' + "[" * 1000 + '\\"{"')).status_code == 200
    assert live.post(BODY % (', "metadata": ' + "[" * 62 + "]" * 62)).status_code == 200


@pytest.mark.parametrize("digits", [41, 4_000, 5_000])
@pytest.mark.parametrize("sign", ["", "-"])
def test_J4_huge_integers(live: Live, digits: int, sign: str) -> None:
    refused(live, BODY % f', "max_tokens": {sign}{"9" * digits}', "integer_above_max_value", "max_tokens")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize(
    ("field", "param"),
    [
        ('"temperature": %s', "temperature"),
        ('"top_p": %s', "top_p"),
        ('"min_p": %s', "min_p"),
        ('"presence_penalty": %s', "presence_penalty"),
        ('"logit_bias": {"5": %s}', "logit_bias.5"),
        ('"steering": {"strength": %s}', "steering.strength"),
        ('"steering": {"threshold": %s}', "steering.threshold"),
        ('"steering": "{\\"strength\\": %s}"', "steering.strength"),
        ('"metadata": {"a": [0, %s]}', "metadata.a.1"),
    ],
)
def test_J5_numbers_that_are_not_finite(live: Live, number: str, field: str, param: str) -> None:
    assert param in refused(live, BODY % (", " + field % number), "non_finite_number", param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": "1"}, "temperature"),
        ({"temperature": "nan"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"max_tokens": "7"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 7.0}, "max_tokens"),
        ({"top_k": 7.0}, "top_k"),
        ({"seed": "1"}, "seed"),
        ({"stream": 1}, "stream"),
        ({"stream": "true"}, "stream"),
        ({"logprobs": 5}, "logprobs"),
        ({"n": "1"}, "n"),
        ({"model": 5}, "model"),
        ({"messages": "hi"}, "messages"),
        ({"stop": 5}, "stop"),
        ({"steering": {"strength": "1"}}, "steering.strength"),
        ({"steering": {"strength": True}}, "steering.strength"),
        ({"steering": {"threshold": "0.5"}}, "steering.threshold"),
        ({"steering": {"phases": "completion"}}, "steering.phases"),
        ({"steering": 1}, "steering"),
        ({"steering": ["candid"]}, "steering"),
    ],
)
def test_J6_types_are_strict(live: Live, fields: dict[str, object], param: str) -> None:
    reply = live.chat(**fields)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "invalid_type", param), reply.text


def test_J6_integers_are_numbers(live: Live) -> None:
    assert live.chat(temperature=1, top_p=1, steering={"strength": 1, "threshold": 0}).status_code == 200


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ('"user": "\\ud800"', "user"),
        ('"stop": ["a", "\\udfff"]', "stop.1"),
        ('"steering": "\\ud800"', "steering"),
        ('"steering": {"profile": "\\ud800"}', "steering.profile"),
        ('"metadata": {"\\ud800": 1}', "metadata.?"),
    ],
)
def test_J7_lone_surrogates(live: Live, field: str, param: str) -> None:
    refused(live, BODY % f", {field}", "invalid_unicode", param)


def test_J7_lone_surrogate_in_content(live: Live) -> None:
    body = (BODY % "").replace("Hello", "\\ud83d")
    refused(live, body, "invalid_unicode", "messages.0.content")
    assert live.post(body.replace("\\ud83d", "\\ud83d\\ude00")).status_code == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"model": "\xff"}', "invalid_unicode"),
        (b'{"model": "\xed\xa0\x80"}', "invalid_unicode"),
        ((BODY % "").encode("utf-16"), "invalid_json"),
        ((BODY % "").encode("utf-16-le"), "invalid_json"),
        ((BODY % "").encode("utf-8-sig"), "invalid_json"),
    ],
)
def test_J8_utf8_only(live: Live, body: bytes, code: str) -> None:
    refused(live, body, code, None)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ('"steering": false, "steering": true', "steering"),
        ('"seed": 1', "seed"),
        ('"steering": {"strength": 1, "strength": 0}', "steering.strength"),
        ('"steering": "{\\"mode\\": \\"on\\", \\"mode\\": \\"off\\"}"', "steering.mode"),
        ('"metadata": [{"a": 1, "b": 2, "b": 2}]', "metadata.0.b"),
    ],
)
def test_J9_duplicate_keys(live: Live, fields: str, param: str) -> None:
    refused(live, BODY % f", {fields}", "duplicate_key", param)


def test_J13_a_million_keys(live: Live) -> None:
    body = BODY % (', "metadata": {' + ",".join(f'"{i:x}":1' for i in range(300_000)) + "}")
    assert f"{MAX_ITEMS:,}" in refused(live, body, "invalid_json", None)


@pytest.mark.parametrize("body", [b'"' + b'\\"' * 500_000, b'"a' * 300_000, b"\\" * 1_000_000])
def test_J3_the_scan_is_linear(body: bytes) -> None:
    assert quickest(body) < 1.0


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**39), 10**39)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=20,
)


@settings(max_examples=40, deadline=None)
@given(json_values, st.booleans())
def test_what_is_well_formed_is_parsed_as_python_does(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert parse(text) == json.loads(text) == value


@settings(deadline=None)
@given(st.binary(max_size=40) | st.text(alphabet='{}[]":,\\0aeN-. ', max_size=40).map(str.encode))
def test_whatever_comes_is_a_value_or_an_api_error(body: bytes) -> None:
    try:
        parse(body)
    except ApiError as error:
        assert error.status == 400 and len(json.dumps(error.reply())) < 4_000
