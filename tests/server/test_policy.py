"""API.md: a default on the API key, between model id and server; a policy that clamps or refuses last, and says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.schemas.steering import SteeringOptions
from server.serving import Served
from server.translate.policy import _FREE
from steering.model.loading import LanguageModel
from steering.store import PackStore
from tests.server.fake_engine import FakeEngine
from tests.server.keyed import Keyed, bearer, keyed
from tests.server.live import Live

HEADER = "x-steering-profile"

TABLES: dict[str, dict[str, Any]] = {
    "plain": {},
    "true": {"steering": True},
    "false": {"steering": False},
    "named": {"steering": "firm"},
    "text": {"steering": '{"profile": "firm", "strength": 0.5}'},
    "object": {"steering": {"profile": "candid", "strength": 0.5, "gate": "always"}},
    "refines": {"steering": {"strength": 0.5}},
    "watches": {"steering": {"mode": "observe"}},
    "capped": {"policy": {"max_strength": 0.5}},
    "listed": {"policy": {"profiles": ["candid"]}},
    "own": {"scopes": ["chat", "steer:custom"], "policy": {"profiles": ["candid"], "max_strength": 0.5}},
    "stays": {"scopes": ["chat", "trace"], "steering": "candid", "policy": {"may_switch_off": False}},
    "missing": {"steering": "nowhere"},
}


@pytest.fixture(scope="module")
def server(model: LanguageModel, store: PackStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    served = Served(model, FakeEngine(model), store, default_profile="candid", created=1)  # type: ignore[arg-type]
    pins = {"profiles": ["candid@0000", f"firm@{store.get('firm').digest[:8]}"]}
    with keyed(served, tmp_path_factory.mktemp("keys"), TABLES | {"pinned": {"policy": pins}}) as running:
        yield running


def ask(live: Live, key: str, body: object = None, header: str | None = None, suffix: str = "") -> httpx.Response:
    fields = {} if body is None else {"steering": body}
    return live.chat(bearer(key) | ({} if header is None else {HEADER: header}), model=f"tiny{suffix}", **fields)


def outcome(reply: httpx.Response) -> tuple[object, ...]:
    """(mode, profile, strength, gate, source), or (off, source)."""
    assert reply.status_code == 200, reply.text
    source, receipt = reply.headers["x-steering-source"], reply.json()["choices"][0].get("steering")
    if receipt is None:
        assert reply.headers["x-steering-profile"] == "off"
        return "off", source
    return receipt["mode"], receipt["profile"].partition("@")[0], receipt["strength"], receipt.get("gate"), source


@pytest.mark.parametrize(
    ("key", "asked", "expected"),
    [
        ("plain", {}, ("off", "server")),
        ("true", {}, ("on", "candid", 1.0, "drift", "key")),
        ("false", {}, ("off", "key")),
        ("named", {}, ("on", "firm", 1.0, "always", "key")),
        ("text", {}, ("on", "firm", 0.5, "always", "key")),
        ("object", {}, ("on", "candid", 0.5, "always", "key")),
        ("refines", {}, ("on", "candid", 0.5, "drift", "key")),
        ("watches", {}, ("observe", "candid", 1.0, "drift", "key")),
        # Every other source is higher, key by key.
        ("named", {"body": False}, ("off", "body")),
        ("named", {"header": "off"}, ("off", "header")),
        ("named", {"suffix": "+none"}, ("off", "model")),
        ("named", {"body": True}, ("on", "firm", 1.0, "always", "body")),
        ("named", {"body": {"strength": 0.25}}, ("on", "firm", 0.25, "always", "body")),
        ("object", {"header": "on"}, ("on", "candid", 0.5, "always", "header")),
        ("object", {"body": {"gate": "drift"}}, ("on", "candid", 0.5, "drift", "body")),
        ("false", {"suffix": "+firm"}, ("on", "firm", 1.0, "always", "model")),
        ("false", {"body": {"strength": 0.5}}, ("off", "body")),
        ("watches", {"body": "firm"}, ("on", "firm", 1.0, "always", "body")),
        # A default gives way; two names in one request conflict as ever.
        ("named", {"body": "candid"}, ("on", "candid", 1.0, "drift", "body")),
        ("named", {"suffix": "+candid"}, ("on", "candid", 1.0, "drift", "model")),
        ("text", {"body": "candid"}, ("on", "candid", 0.5, "drift", "body")),
    ],
)
def test_the_key_s_default(server: Keyed, key: str, asked: dict[str, Any], expected: tuple[object, ...]) -> None:
    assert outcome(ask(server.live, key, **asked)) == expected


def test_two_names_in_one_request_conflict_whatever_the_key_says(server: Keyed) -> None:
    error = ask(server.live, "named", body="candid", suffix="+firm").json()["error"]
    assert error["code"] == "conflicting_steering"


def test_the_server_s_default_is_below_the_key_s(tmp_path: Path, fake: Served) -> None:
    with keyed(fake, tmp_path, TABLES, default_mode="observe", default_profile="candid") as server:
        assert outcome(ask(server.live, "plain"))[::4] == ("observe", "server")
        assert outcome(ask(server.live, "named"))[::4] == ("on", "key")
        assert outcome(ask(server.live, "false")) == ("off", "key")


def test_a_default_that_is_not_there_says_whose_it_is(server: Keyed) -> None:
    error = ask(server.live, "missing").json()["error"]
    assert (error["code"], error["param"]) == ("steering_profile_not_found", "api_key.steering")
    assert ask(server.live, "missing", body="candid").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("asked", [{"steering": True}, {"steering": {"strength": 0.75}}, {"model": "tiny+firm"}])
def test_a_strength_above_the_policy_s_is_clamped_and_that_is_said(
    server: Keyed, asked: dict[str, Any], stream: bool
) -> None:
    reply = server.live.chat(bearer("capped"), stream=stream, **asked)
    assert reply.status_code == 200 and reply.headers["x-steering-clamped"] == "strength=0.5"
    wanted = asked["steering"]["strength"] if isinstance(asked.get("steering"), dict) else 1
    for text in (f'"clamped":"strength {wanted:g} to 0.5, by the policy of the API key"', '"strength":0.5'):
        assert text in reply.text.replace('": ', '":'), reply.text


@pytest.mark.parametrize("asked", [{"steering": {"strength": 0.5}}, {"steering": {"strength": 0.25}}, {}])
def test_what_the_policy_allows_is_not_clamped(server: Keyed, asked: dict[str, Any]) -> None:
    reply = server.live.chat(bearer("capped"), **asked)
    assert "x-steering-clamped" not in reply.headers and "clamped" not in reply.text


def test_clamping_comes_last(server: Keyed) -> None:
    """What no key could have is refused, not made to fit."""
    error = ask(server.live, "capped", body={"strength": 2.5}).json()["error"]
    assert (error["code"], error["param"]) == ("decimal_above_max_value", "steering.strength")


def test_a_clamped_answer_is_the_one_of_that_strength(server: Keyed) -> None:
    clamped = ask(server.live, "capped", body="firm").json()
    asked = ask(server.live, "plain", body={"profile": "firm", "strength": 0.5}).json()
    assert clamped["system_fingerprint"] == asked["system_fingerprint"]
    assert clamped["choices"][0]["message"] == asked["choices"][0]["message"]


@pytest.mark.parametrize("asked", [{"body": "firm"}, {"header": "firm"}, {"suffix": "+firm"}])
def test_profiles_that_the_policy_does_not_name(server: Keyed, asked: dict[str, Any]) -> None:
    reply = ask(server.live, "listed", **asked)
    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["code"]) == (403, "permission_error", "steering_policy")
    assert "the profiles candid (got firm)" in error["message"] and error["param"]
    assert (
        ask(server.live, "listed", body="candid").status_code
        == ask(server.live, "listed", body=True).status_code
        == 200
    )


OWN = {"corrections": [{"site": "mlp_act.2", "neurons": [0], "scale": 8}]}


@pytest.mark.parametrize("mode", ["on", "observe", "compare"])
def test_corrections_alone_are_of_no_profile_that_the_policy_names(server: Keyed, mode: str) -> None:
    reply = ask(server.live, "own", body=OWN | {"mode": mode})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (403, "steering_policy", "steering.corrections")
    assert "the profiles candid (got corrections of none)" in error["message"]


def test_corrections_on_top_of_a_profile_that_the_policy_names(server: Keyed) -> None:
    """`max_strength` bounds the strength, and not the scale."""
    reply = ask(server.live, "own", body=OWN | {"profile": "candid"})
    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"][0]["steering"]["strength"] == 0.5
    assert ask(server.live, "own", body=OWN | {"profile": "firm"}).json()["error"]["code"] == "steering_policy"


def test_a_policy_may_name_digests(server: Keyed) -> None:
    assert ask(server.live, "pinned", body="firm").status_code == 200
    assert ask(server.live, "pinned", body="candid").json()["error"]["code"] == "steering_policy"


OFF = [
    ({"body": False}, "steering.mode"),
    ({"body": "false"}, "steering.mode"),
    ({"body": {"mode": "off"}}, "steering.mode"),
    ({"header": "off"}, "steering.mode"),
    ({"header": "none"}, "steering.mode"),
    ({"suffix": "+none"}, "steering.mode"),
    # Off by another name.
    ({"body": {"mode": "observe"}}, "steering.mode"),
    ({"body": {"mode": "compare"}}, "steering.mode"),
    ({"header": "compare"}, "steering.mode"),
    ({"body": {"strength": 0}}, "steering.strength"),
    ({"body": {"strength": 0.999}}, "steering.strength"),
    ({"header": "candid;strength=0.1"}, "steering.strength"),
    ({"body": {"threshold": 1}}, "steering.threshold"),
    ({"body": {"gate": "drift"}}, "steering.gate"),
    ({"body": {"phases": ["prompt"]}}, "steering.phases"),
]


@pytest.mark.parametrize(("asked", "param"), OFF)
@pytest.mark.parametrize("stream", [False, True])
def test_who_may_not_switch_off_may_not_weaken_either(
    server: Keyed, asked: dict[str, Any], param: str, stream: bool
) -> None:
    fields = {"steering": asked["body"]} if "body" in asked else {}
    headers = bearer("stays") | ({HEADER: asked["header"]} if "header" in asked else {})
    reply = server.live.chat(headers, model=f"tiny{asked.get('suffix', '')}", stream=stream, **fields)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (403, "steering_policy", param)
    assert "API key stays does not allow" in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        *(None, True, {}, "candid", "firm", {"strength": 1.5}, {"strength": 1}, {"mode": "on"}),
        *({"trace": "tokens"}, {"exempt": []}, {"gate": None}),
    ],
)
def test_who_may_not_switch_off_may_do_the_rest(server: Keyed, body: object) -> None:
    mode, *_ = outcome(ask(server.live, "stays", body=body))
    assert mode == "on"


def test_a_new_field_of_steering_is_refused_until_somebody_decides() -> None:
    """Of whoever may not switch off. What is free is that on purpose."""
    assert _FREE == {"profile", "strength", "trace"} < SteeringOptions.model_fields.keys()


def test_completions_too(server: Keyed) -> None:
    assert server.live.complete(bearer("named")).headers["x-steering-source"] == "key"
    assert server.live.complete(bearer("stays"), steering=False).status_code == 403
    assert server.live.complete(bearer("capped"), steering=True).headers["x-steering-clamped"] == "strength=0.5"


def test_a_key_is_told_what_it_is(server: Keyed) -> None:
    told = {
        name: server.live.client.get("/v1/me", headers=bearer(name)).json() for name in ("plain", "stays", "capped")
    }
    assert told["plain"] == {
        "object": "key",
        "id": "plain",
        "scopes": ["chat"],
        "policy": {"may_switch_off": True},
        "limits": {},
    }
    assert told["stays"]["steering"] == {"profile": "candid", "mode": "on"}
    assert told["stays"]["policy"] == {"may_switch_off": False}
    assert told["capped"]["policy"] == {"may_switch_off": True, "max_strength": 0.5}
    assert "secret" not in json.dumps(told) and "sha256" not in json.dumps(told)
