"""GET /v1/steering/profiles/{name}: one pack with its evidence, its card, its ETag."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter

from server.schemas.steering import ProfileDetails
from server.serving import Served
from server.translate.catalog import profile_details
from steering.model.loading import LanguageModel
from steering.pack import Pack, save_pack
from steering.store import PackStore
from tests.packs import full_pack
from tests.server.fake_engine import FakeEngine
from tests.server.live import Live, serve

DETAILS = TypeAdapter(ProfileDetails)


def test_one_profile_with_its_corrections_and_evidence(live: Live) -> None:
    reply = live.client.get("/v1/steering/profiles/candid")
    pack = live.served.store.get("candid")
    told = reply.json()
    DETAILS.validate_python(told, strict=True, extra="forbid")
    assert (told["name"], told["digest"], told["max_strength"]) == ("candid", pack.digest, 2.0)
    assert told["model"] == "tiny" and told["fingerprint"] == live.served.model.fingerprint
    assert told["detector"] == {"lens": "LogitLens", "layer": 1, "threshold": 0.05, "num_candidates": 64}
    (correction,) = told["corrections"]
    assert correction["site"] == "resid_post.2" and correction["gate"] == "drift, latched"
    assert told["evidence"] == pack.evidence and told["created"] == pack.created
    listed = {one["name"]: one for one in live.client.get("/v1/steering/profiles").json()["data"]}["candid"]
    assert listed.items() <= told.items()


def test_a_correction_says_which_units_it_touches(model: LanguageModel, tmp_path: Path) -> None:
    served = Served(model, FakeEngine(model), PackStore(tmp_path, model), None, 1)  # type: ignore[arg-type]
    told = {one["name"]: one for one in profile_details(full_pack(model), served)["corrections"]}
    assert told["groups"]["units"] == ["group.2.1"]
    assert told["neurons"]["units"] == [f"neuron.3.{i}" for i in range(model.layout.d_mlp)]
    assert all("units" not in told[name] for name in ("push", "erase", "contrast"))


def test_what_is_absent_is_left_out(live: Live) -> None:
    told = live.client.get("/v1/steering/profiles/watch").json()
    assert told["observe_only"] is True and told["corrections"] == [] and None not in told.values()


def test_a_digest_prefix_names_one_state_of_it(live: Live) -> None:
    digest = live.served.store.get("candid").digest
    for prefix in (digest[:4], digest[:12], digest):
        assert live.client.get(f"/v1/steering/profiles/candid@{prefix}").json()["digest"] == digest
    other = "0" if digest[0] != "0" else "1"
    reply = live.client.get(f"/v1/steering/profiles/candid@{other}{digest[1:12]}")
    assert reply.status_code == 404 and digest[:12] in reply.json()["error"]["message"]


@pytest.mark.parametrize("path", ["", "/card"])
@pytest.mark.parametrize("form", ['"{}"', 'W/"{}"', '"x", "{}"', "*"])
def test_who_has_it_is_sent_nothing(live: Live, form: str, path: str) -> None:
    url, digest = f"/v1/steering/profiles/candid{path}", live.served.store.get("candid").digest
    assert live.client.get(url).headers["etag"] == f'"{digest}"'
    reply = live.client.get(url, headers={"if-none-match": form.format(digest)})
    assert (reply.status_code, reply.content, reply.headers["etag"]) == (304, b"", f'"{digest}"')
    assert live.client.get(url, headers={"if-none-match": '"another"'}).status_code == 200


@pytest.mark.parametrize("path", ["", "/card"])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("candis", "did you mean candid?"),
        ("zzz", "there are: "),
        ("..%2f..%2fetc%2fpasswd", ""),
        ("%2e%2e", ""),
        ("candid@", ""),
        ("candid@zzzz", ""),
        ("x" * 300, ""),
        ("%00", ""),
    ],
)
def test_T4_unknown_names(live: Live, name: str, says: str, path: str) -> None:
    reply = live.client.get(f"/v1/steering/profiles/{name}{path}")
    if name == "candid@":  # no digest at all is no other state
        assert reply.status_code == 200
        return
    assert reply.status_code == 404, reply.text
    error = reply.json()["error"]
    assert error["code"] in ("steering_profile_not_found", "not_found") and says in error["message"]


def test_T6_a_broken_one_says_why(live: Live) -> None:
    for name in ("broken", "alien"):
        told = live.client.get(f"/v1/steering/profiles/{name}")
        assert told.status_code == 200 and told.json().keys() == {"name", "broken"} and "etag" not in told.headers
        card = live.client.get(f"/v1/steering/profiles/{name}/card")
        assert (card.status_code, card.json()["error"]["code"]) == (503, "profile_unavailable")
    assert live.client.get("/v1/steering/profiles/broken@abcd").json()["error"]["code"] == "profile_unavailable"


def test_the_card_is_markdown(live: Live) -> None:
    reply = live.client.get("/v1/steering/profiles/candid/card")
    assert reply.headers["content-type"] == "text/markdown; charset=utf-8"
    assert reply.text == live.served.store.get("candid").card and reply.text.startswith("# candid")
    assert reply.headers["x-content-type-options"] == "nosniff"


def test_T25_a_description_is_told_as_it_was_written(model: LanguageModel, tmp_path: Path) -> None:
    """Markup, formulas, quotes and line breaks: JSON carries them, and whoever shows them escapes them."""
    text = '=cmd|"/c calc"!A1 <img src=x onerror=alert(1)> **b** `c` \u202etxt\n</script>{{7*7}}\\u0041 \x7f'
    name = "x.-_9"
    save_pack(Pack(name, text, model.name, model.fingerprint), tmp_path / name)
    store = PackStore(tmp_path, model)
    with serve(lambda: Served(model, FakeEngine(model), store, None, 1)) as live:  # type: ignore[arg-type]
        (listed,) = live.client.get("/v1/steering/profiles").json()["data"]
        reply = live.client.get(f"/v1/steering/profiles/{name}")
        assert listed["description"] == reply.json()["description"] == text
        assert reply.headers["content-type"] == "application/json"
        card = live.client.get(f"/v1/steering/profiles/{name}/card")
        assert card.headers["content-type"].startswith("text/markdown")
