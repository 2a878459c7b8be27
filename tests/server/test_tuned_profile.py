"""A profile of changed weights over HTTP: served like any other, told in its receipts, refused what it cannot do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.serving import load
from server.settings import Settings
from steering.model.chat import encode_chat
from steering.model.loading import load_model
from steering.pack import save_pack
from steering.plan import Plan
from tests.models import tiny_hf
from tests.oracles.patched_hf import patched
from tests.oracles.plain_hf import answer
from tests.packs import tuned_pack
from tests.server.live import HELLO, Live, serve

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 6, "logprobs": True, "top_logprobs": 2}


@pytest.fixture(scope="module")
def tuned(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    packs = tmp_path_factory.mktemp("packs")
    save_pack(tuned_pack(load_model(str(tiny_folder))), packs / "tuned")
    settings = Settings(
        model=str(tiny_folder), packs=packs, served_model_name="tiny", deterministic=True, max_rows=4, threads=1
    )
    with serve(lambda: load(settings), settings) as running:
        yield running


def test_it_answers_as_the_changed_model_and_says_so(tuned: Live) -> None:
    reply = tuned.chat(**GREEDY, steering="tuned").json()
    choice, pack = reply["choices"][0], tuned.served.store.get("tuned")
    (correction,) = pack.weight_corrections
    hf = patched(tiny_hf(), (correction.strength, correction.edit))
    hf.set_attn_implementation("eager")
    prompt = encode_chat(tuned.served.model, HELLO)
    positions = answer(hf, prompt, Plan(), max_tokens=6, stop_ids=tuned.served.model.stop_ids)
    told = choice["logprobs"]["content"]
    said = [p for p in positions if p.token_id not in tuned.served.model.stop_ids]
    assert [entry["logprob"] for entry in told] == pytest.approx([p.logprobs.max().item() for p in said], abs=1e-4)
    assert choice["steering"] == {
        "applied": True,
        "mode": "on",
        "profile": f"tuned@{pack.digest[:12]}",
        "strength": 1.0,
        "gate": "always",
        "fired_tokens": 0,
        "tokens": len(said),
    }
    assert reply["usage"]["completion_tokens_details"]["steered_tokens"] == len(said) > 2
    plain = tuned.chat(**GREEDY).json()["choices"][0]
    assert [entry["logprob"] for entry in plain["logprobs"]["content"]] != [entry["logprob"] for entry in told]
    off = tuned.chat(**GREEDY, steering={"profile": "tuned", "strength": 0}).json()["choices"][0]
    assert off["logprobs"] == plain["logprobs"] and off["steering"]["skipped"] == "strength 0"


def test_compared_with_plain_it_shares_no_prompt(tuned: Live) -> None:
    choices = tuned.chat(**GREEDY, steering={"profile": "tuned", "mode": "compare"}).json()["choices"]
    assert [choice["steering"]["applied"] for choice in choices] == [True, False]
    assert choices[0]["steering"]["prefill_shared"] is False
    assert choices[0]["logprobs"] != choices[1]["logprobs"]
    assert choices[1]["logprobs"] == tuned.chat(**GREEDY).json()["choices"][0]["logprobs"]


@pytest.mark.parametrize(
    ("options", "param", "expected"),
    [
        ({"gate": "drift"}, "steering.gate", "no detector"),
        ({"phases": ["completion"]}, "steering.phases", "can only be both"),
        ({"strength": 1.5}, "steering.strength", "between 0 and 1"),
        ({"mode": "observe"}, "steering.mode", "no detector"),
    ],
)
def test_T1_what_it_cannot_do_is_refused(tuned: Live, options: dict[str, Any], param: str, expected: str) -> None:
    reply = tuned.chat(steering={"profile": "tuned"} | options)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["param"] == param and expected in error["message"]
