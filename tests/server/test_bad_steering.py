"""FAULTS T1-T8: the steering field, names of profiles, model ids."""

from __future__ import annotations

import json

import pytest

from tests.server.live import HELLO, Live
from tests.server.refusals import refused


@pytest.mark.parametrize(
    ("strength", "code"),
    [
        (1e308, "decimal_above_max_value"),
        (2.0001, "decimal_above_max_value"),
        (-0.5, "decimal_below_min_value"),
        (5e-324, "decimal_below_min_value"),
        ("1", "invalid_type"),
        (True, "invalid_type"),
    ],
)
def test_T1_strength(live: Live, strength: object, code: str) -> None:
    says = "between 0 and 2" if code.endswith("above_max_value") else ""
    refused(live, code, "steering.strength", says=says, steering={"strength": strength})


def test_T1_minus_zero_is_zero(live: Live) -> None:
    receipt = live.post(
        json.dumps({"model": "tiny", "messages": HELLO, "seed": 1, "steering": {"strength": -0.0}})
    ).json()["choices"][0]["steering"]
    assert str(receipt["strength"]) == "0.0" and receipt["skipped"] == "strength 0" and not receipt["applied"]


@pytest.mark.parametrize("value", [-0.01, 1.01])
def test_T1_threshold(live: Live, value: float) -> None:
    code = "decimal_below_min_value" if value < 0 else "decimal_above_max_value"
    refused(live, code, "steering.threshold", says="between 0 and 1", steering={"threshold": value})


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("mode", "sideways", "invalid_value"),
        ("gate", "prompt", "invalid_value"),
        ("phases", [], "array_below_min_length"),
        ("phases", ["completion", "completion"], "invalid_value"),
        ("phases", ["prompt"], "invalid_value"),
        ("exempt", ["code", "code"], "invalid_value"),
        ("exempt", "code", "invalid_type"),
        ("trace", "everything", "invalid_value"),
    ],
)
def test_options_out_of_their_sets(live: Live, field: str, value: object, code: str) -> None:
    refused(live, code, f"steering.{field}", steering={field: value})


def test_options_out_of_their_sets_inside_a_list(live: Live) -> None:
    refused(live, "invalid_value", "steering.phases.1", steering={"phases": ["prompt", "later"]})
    refused(live, "invalid_value", "steering.exempt.0", steering={"exempt": ["prose"]})


@pytest.mark.parametrize("kind", ["tool_calls", "reasoning"])
def test_spans_that_the_template_does_not_mark_are_refused(live: Live, kind: str) -> None:
    asked = {"exempt": ["code", kind]}
    refused(live, "unsupported_parameter", "steering.exempt.1", says="it can exempt code", steering=asked)
    assert live.chat(steering={**asked, "mode": "off"}).status_code == 200
    receipt = live.chat(steering={"exempt": ["code"]}).json()["choices"][0]["steering"]
    assert (receipt["exempt"], receipt["exempt_tokens"]) == (["code"], 0)
    assert "exempt" not in live.chat(steering={"exempt": []}).json()["choices"][0]["steering"]


BAD_NAMES = [
    "../x",
    "%2e%2e",
    "..%2f",
    "a\0b",
    "x" * 300,
    "c\u0430ndid",
    "CON",
    "-a",
    ".a",
    "a b",
    "",
    "off",
    "none",
    "candid@",
    "candid@xyz",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_T4_names_that_cannot_be(live: Live, name: str) -> None:
    refused(live, "invalid_name", "steering.profile", steering=name)
    refused(live, "invalid_name", "steering.profile", steering={"profile": name})


def test_T4_names_that_are_not(live: Live) -> None:
    refused(live, "steering_profile_not_found", "steering.profile", status=404, says="candid", steering="nobody")
    refused(live, "steering_profile_not_found", "steering.profile", status=404, steering="candid@0000")
    digest = live.served.store.get("candid").digest
    for length in (4, 12, 64):
        assert live.chat(steering=f"candid@{digest[:length]}").status_code == 200


@pytest.mark.parametrize("path", ["..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "tiny+../x", "tiny%00", "x" * 5000])
def test_T4_names_in_a_path(live: Live, path: str) -> None:
    assert live.client.get(f"/v1/models/{path}").status_code == 404


def test_T5_profile_of_another_model(live: Live) -> None:
    stored = dict(live.served.store.entries())["alien"]
    for fingerprint in (stored.expected, stored.got):  # type: ignore[union-attr]
        refused(live, "profile_model_mismatch", "steering.profile", says=fingerprint[:19], steering="alien")


def test_T6_broken_profile(live: Live) -> None:
    reply = live.chat(steering="broken")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "profile_unavailable")
    assert reply.headers["x-should-retry"] == "false"
    listed = {p["name"]: p for p in live.client.get("/v1/steering/profiles").json()["data"]}
    assert "digest" in listed["broken"]["broken"] and "broken" not in listed["candid"]


@pytest.mark.parametrize(
    "model_id", ["tiny++a", "tiny+", "+candid", "tiny+candid+firm", "tiny+nobody", "TINY", "", "tiny "]
)
def test_T8_model_ids(live: Live, model_id: str) -> None:
    if model_id:
        refused(live, "model_not_found", "model", status=404, says="tiny+candid", model=model_id)
    else:
        refused(live, "string_below_min_length", "model", model=model_id)


def test_observe_only_profile(live: Live) -> None:
    refused(live, "profile_observe_only", "steering.mode", steering="watch")
    refused(live, "profile_observe_only", "steering.mode", steering={"profile": "watch", "mode": "compare"})
    assert live.chat(steering={"profile": "watch", "mode": "observe"}).status_code == 200
