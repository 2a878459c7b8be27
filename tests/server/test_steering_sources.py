"""FAULTS T7 and API.md: body > header > model id > server, merged key by key; off in a higher source wins."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from server.serving import Served
from server.settings import Settings
from tests.server.live import HELLO, Live, serve

HEADER = "X-Steering-Profile"
OFF = None


def outcome(live: Live, *, body: object = None, header: str | None = None, suffix: str = "") -> tuple[object, str]:
    """(mode, profile, strength, gate) or None for off, and the source that the reply names."""
    reply = live.chat(
        headers={} if header is None else {HEADER: header},
        model=f"tiny{suffix}",
        **({} if body is None else {"steering": body}),
    )
    assert reply.status_code == 200, reply.text
    receipt = reply.json()["choices"][0].get("steering")
    named = reply.headers["x-steering-profile"]
    assert reply.json()["model"] == f"tiny{suffix}"
    if receipt is None:
        assert named == "off"
        return OFF, reply.headers["x-steering-source"]
    assert named == receipt["profile"] and len(named.partition("@")[2]) == 12
    parts = (receipt["mode"], named.partition("@")[0], receipt["strength"], receipt.get("gate"))
    return parts, reply.headers["x-steering-source"]


ON = ("on", "candid", 1.0, "drift")
FIRM = ("on", "firm", 1.0, "always")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (None, OFF),
        (False, OFF),
        (True, ON),
        ("candid", ON),
        ("firm", FIRM),
        ({}, ON),
        ({"profile": "firm"}, FIRM),
        ({"profile": None, "strength": None, "mode": None, "gate": None, "phases": None, "trace": None}, ON),
        ({"mode": "off"}, OFF),
        ({"profile": "firm", "mode": "off"}, OFF),
        ({"mode": "observe"}, ("observe", "candid", 1.0, "drift")),
        ({"mode": "compare"}, ON),
        ('{"mode": "compare", "profile": "firm"}', FIRM),
        ({"strength": 0.5}, ("on", "candid", 0.5, "drift")),
        ({"gate": "always"}, ("on", "candid", 1.0, "always")),
        ({"profile": "firm", "gate": "drift"}, ("on", "firm", 1.0, "drift")),
        ("true", ON),
        ("false", OFF),
        (' "firm" ', FIRM),
        ('{"profile": "firm", "strength": 0.25}', ("on", "firm", 0.25, "always")),
    ],
)
def test_the_forms_of_the_field(live: Live, body: object, expected: object) -> None:
    assert outcome(live, body=body) == (expected, "server" if body is None else "body")


@pytest.mark.parametrize("body", [None, "null"])
def test_null_asks_for_nothing(live: Live, body: object) -> None:
    reply = live.post(json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "a"}], "steering": body}))
    assert reply.headers["x-steering-source"] == "server"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("candid", ON),
        ("on", ON),
        ("default", ON),
        ("off", OFF),
        ("none", OFF),
        ("observe", ("observe", "candid", 1.0, "drift")),
        ("observe;profile=firm", ("observe", "firm", 1.0, "always")),
        ("candid;strength=0.7", ("on", "candid", 0.7, "drift")),
        ("firm ; strength = 0.5 ; gate=drift", ("on", "firm", 0.5, "drift")),
        ("firm;mode=observe", ("observe", "firm", 1.0, "always")),
        ("compare", ("on", "candid", 1.0, "drift")),
        ("firm;mode=compare;strength=0.5", ("on", "firm", 0.5, "always")),
    ],
)
def test_the_header(live: Live, header: str, expected: object) -> None:
    assert outcome(live, header=header) == (expected, "header")


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("", "invalid_name"),
        ("../x", "invalid_name"),
        ("candid;strength", "invalid_value"),
        ("candid;strength=1;strength=2", "invalid_value"),
        ("candid;strength=nan", "non_finite_number"),
        ("candid;strength=9", "decimal_above_max_value"),
        ("candid;power=1", "unknown_parameter"),
        ("candid;gate=7", "invalid_type"),
        ("candid;" + "x" * 600, "invalid_value"),
    ],
)
def test_bad_headers(live: Live, header: str, code: str) -> None:
    error = live.chat(headers={HEADER: header}).json()["error"]
    assert error["code"] == code and (error["param"] or "").startswith(("x-steering-profile", "steering."))


def test_two_headers(live: Live) -> None:
    headers = [(HEADER, "candid"), (HEADER, "firm"), ("content-type", "application/json")]
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "a"}]})
    reply = live.client.post("/v1/chat/completions", content=body, headers=headers)
    assert reply.json()["error"]["code"] == "invalid_value"


def test_the_model_id(live: Live) -> None:
    assert outcome(live, suffix="+firm") == (FIRM, "model")
    assert outcome(live, suffix="+none") == (OFF, "model")


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        # off in a higher source wins over on in a lower one, and the other way round
        ({"body": False, "header": "firm", "suffix": "+firm"}, OFF),
        ({"header": "off", "suffix": "+firm"}, OFF),
        ({"body": "firm", "header": "off"}, FIRM),
        ({"body": True, "header": "off"}, ON),
        ({"header": "firm", "suffix": "+none"}, FIRM),
        # what refines leaves profile and mode to the sources below
        ({"body": {"strength": 0.5}, "suffix": "+firm"}, ("on", "firm", 0.5, "always")),
        ({"body": {"strength": 0.5}, "header": "observe"}, ("observe", "candid", 0.5, "drift")),
        ({"body": {"strength": 0.5}, "header": "off"}, OFF),
        ({"body": {"mode": "observe"}, "header": "firm;strength=0.25"}, ("observe", "firm", 0.25, "always")),
        # key by key: the higher one's value of each key
        ({"body": {"strength": 0.5}, "header": "firm;strength=0.25;gate=drift"}, ("on", "firm", 0.5, "drift")),
        ({"body": True, "suffix": "+firm"}, FIRM),
        # the same profile twice is no conflict
        ({"body": "firm", "header": "firm", "suffix": "+firm"}, FIRM),
    ],
)
def test_precedence(live: Live, sources: dict[str, object], expected: object) -> None:
    source = "body" if "body" in sources else "header"
    assert outcome(live, **sources) == (expected, source)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "header", "suffix", "names"),
    [
        ("candid", None, "+firm", ("candid", "firm")),
        ({"profile": "firm"}, "candid", "", ("firm", "candid")),
        (None, "candid;strength=0.5", "+firm", ("candid", "firm")),
        ({"profile": "watch", "mode": "off"}, None, "+firm", ("watch", "firm")),
        ("candid", "candid", "+firm", ("candid", "firm")),
    ],
)
def test_T7_two_profiles_conflict(
    live: Live, body: object, header: str | None, suffix: str, names: tuple[str, str]
) -> None:
    fields = {} if body is None else {"steering": body}
    reply = live.chat(headers={} if header is None else {HEADER: header}, model=f"tiny{suffix}", **fields)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (400, "conflicting_steering")
    assert all(name in error["message"] for name in names)


def test_without_a_default_profile(fake: Served) -> None:
    served = replace(fake, default_profile=None)
    with serve(lambda: served) as live:
        for fields in ({"steering": True}, {"steering": {"strength": 0.5}}, {"steering": {"mode": "observe"}}):
            error = live.chat(**fields).json()["error"]
            assert error["code"] == "no_default_profile" and "unsway calibrate MODEL" in error["message"]
        assert live.chat(headers={HEADER: "on"}).json()["error"]["code"] == "no_default_profile"
        error = live.client.post("/v1/steering/verify", json={"messages": HELLO}).json()["error"]
        assert (error["code"], error["param"]) == ("no_default_profile", "profile")
        assert '("profile": "NAME")' in error["message"] and "unsway calibrate MODEL" in error["message"]
        assert live.chat(steering=False).status_code == live.chat(steering="firm").status_code == 200


@pytest.mark.parametrize("mode", ["on", "observe"])
def test_the_server_s_default_mode(fake: Served, mode: str) -> None:
    settings = Settings(default_mode=mode, default_profile="candid")  # type: ignore[arg-type]
    with serve(lambda: fake, settings) as live:
        assert outcome(live) == ((mode, "candid", 1.0, "drift"), "server")
        assert outcome(live, body=False) == (OFF, "body")
        assert outcome(live, suffix="+none") == (OFF, "model")
        assert outcome(live, suffix="+firm") == (FIRM, "model")
