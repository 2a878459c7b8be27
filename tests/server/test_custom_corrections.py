"""`steering.corrections`: what a request brings along is what the model does, alone and on top of a profile; what
cannot be is refused before any work (T1 to T3, T16, T17)."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from server.serving import Served, load
from server.settings import Settings
from steering.correction import Correction
from steering.custom import ScaledUnits, customised
from steering.edit import Scale
from steering.engine.config import EngineConfig
from steering.engine.engine import Engine
from steering.errors import LayerOutOfRange
from steering.gate import Gate
from steering.model.chat import encode_chat
from steering.model.loading import LanguageModel, load_model
from steering.pack import save_pack
from steering.plan import Plan
from steering.site import Site
from steering.store import PackStore
from tests.models import tiny_hf, tiny_model
from tests.oracles.plain_hf import answer
from tests.packs import tuned_pack
from tests.plans import BOTH, COMPLETION, PROMPT
from tests.server.fake_engine import FakeEngine
from tests.server.live import HELLO, Live, serve
from tests.server.packs import save_packs
from tests.server.refusals import refused

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 6, "logprobs": True, "top_logprobs": 2}
GROUP = {"site": "attn_z.2", "groups": [1], "scale": 0.0}
NEURONS = {"site": "mlp_act.1", "neurons": [17, 88, 3], "scale": -2.5}


@pytest.fixture(scope="module")
def real(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    packs = tmp_path_factory.mktemp("packs")
    model = load_model(str(tiny_folder))
    save_packs(packs, model, tiny_model(seed=1))
    save_pack(tuned_pack(model), packs / "tuned")
    settings = Settings(
        model=str(tiny_folder), packs=packs, default_profile="firm", served_model_name="tiny", max_rows=4,
        threads=1, deterministic=True,
    )  # fmt: skip
    with serve(lambda: load(settings), settings) as running:
        yield running


def asked(live: Live, **fields: Any) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Log-probabilities, receipt, reply."""
    reply = live.chat(**GREEDY | fields)
    assert reply.status_code == 200, reply.text
    told = reply.json()
    choice = told["choices"][0]
    return choice["logprobs"]["content"], choice.get("steering", {}), {**told, "headers": reply.headers}


def by_hand(phases: Any = COMPLETION, strength: float = 1.0) -> Plan:
    """The same as a plan whose tensors are written out."""
    z, act = torch.ones(64), torch.ones(128)
    z[32:] = 0.0
    act[[3, 17, 88]] = -2.5
    parts = (
        Correction("z", Site("attn_z", 2), Scale(z), Gate(phases=phases)),
        Correction("act", Site("mlp_act", 1), Scale(act), Gate(phases=phases)),
    )
    return Plan("on", strength=strength, corrections=parts)


@pytest.mark.parametrize(
    ("fields", "plan"),
    [
        ({}, by_hand()),
        ({"phases": ["prompt"]}, by_hand(PROMPT)),
        ({"phases": ["completion", "prompt"]}, by_hand(BOTH)),
        ({"strength": 0.5}, by_hand(strength=0.5)),
        ({"gate": "always", "exempt": ["code"]}, by_hand()),
    ],
)
def test_alone_they_are_what_the_request_says(real: Live, fields: dict[str, Any], plan: Plan) -> None:
    content, receipt, reply = asked(real, steering={"corrections": [GROUP, NEURONS], **fields})
    hf = tiny_hf()
    hf.set_attn_implementation("eager")
    positions = answer(hf, encode_chat(real.served.model, HELLO), plan, max_tokens=6, stop_ids={2})
    expected = [p.logprobs[p.token_id].item() for p in positions if p.token_id != 2]
    assert [entry["logprob"] for entry in content] == pytest.approx(expected, abs=1e-4)
    plain, _, unsteered = asked(real)
    assert [entry["logprob"] for entry in plain] != [entry["logprob"] for entry in content]
    assert (receipt["profile"], receipt["applied"], receipt["gate"]) == ("custom", True, "always")
    assert reply["headers"]["x-steering-profile"] == "custom" and reply["headers"]["x-steering-source"] == "body"
    assert reply["system_fingerprint"] != unsteered["system_fingerprint"]


def test_the_fingerprint_tells_them_apart(real: Live) -> None:
    def fingerprint(*corrections: dict[str, Any]) -> str:
        return str(asked(real, steering={"corrections": list(corrections)})[2]["system_fingerprint"])

    assert fingerprint(GROUP) == fingerprint({**GROUP, "scale": -0.0}) == fingerprint(GROUP)
    assert len({fingerprint(GROUP), fingerprint({**GROUP, "scale": 0.1}), fingerprint(GROUP, NEURONS)}) == 3


def test_T17_what_changes_nothing_is_the_plain_answer(real: Live) -> None:
    plain = asked(real)[0]
    for steering in (
        {"corrections": [{**GROUP, "scale": 1}]},
        {"corrections": [GROUP], "strength": 0},
        {"corrections": [GROUP], "mode": "off"},
    ):
        assert asked(real, steering=steering)[0] == plain
    assert asked(real, steering={"corrections": [], "profile": "firm"})[0] == asked(real, steering="firm")[0] != plain


def test_on_top_of_a_profile_that_is_named(real: Live) -> None:
    """After its own; wherever it is named. The server's default is not meant."""
    digest = real.served.store.get("firm").digest[:12]
    alone = asked(real, steering={"corrections": [GROUP]})
    both, receipt, reply = asked(real, steering={"profile": "firm", "corrections": [GROUP]})
    assert receipt["profile"] == reply["headers"]["x-steering-profile"] == f"firm@{digest}+custom"
    assert both not in (alone[0], asked(real, steering="firm")[0])
    for elsewhere in ({"model": "tiny+firm"}, {"headers": {"x-steering-profile": "firm"}}):
        assert asked(real, steering={"corrections": [GROUP]}, **elsewhere)[0] == both
    # One that had nothing to apply measures on.
    observed = asked(real, steering={"profile": "watch", "corrections": [GROUP], "trace": "summary"})
    assert observed[0] == alone[0] and observed[1]["max_drift"] > 0


def test_drift_opens_them_where_a_profile_reads_it(real: Live) -> None:
    fields = {"profile": "watch", "corrections": [GROUP], "gate": "drift"}
    opened, shut = (asked(real, steering={**fields, "threshold": threshold}) for threshold in (0, 1))
    assert opened[1]["at"] == 0 and opened[0] == asked(real, steering={"corrections": [GROUP]})[0]
    assert shut[0] == asked(real)[0] and shut[1]["skipped"] == "gate did not open"


def test_compared_and_several_at_once(real: Live) -> None:
    reply = real.chat(**GREEDY, steering={"mode": "compare", "corrections": [GROUP]}).json()
    steered, plain = (choice["logprobs"]["content"] for choice in reply["choices"])
    assert steered == asked(real, steering={"corrections": [GROUP]})[0] and plain == asked(real)[0]
    text = json.dumps({"corrections": [GROUP]})
    assert asked(real, steering=text)[0] == steered
    assert real.complete(max_tokens=3, steering=text).json()["choices"][0]["steering"]["profile"] == "custom"


def custom(**fields: Any) -> dict[str, Any]:
    return {"corrections": [{**GROUP, **fields}]}


def neurons(*ids: object, **fields: Any) -> dict[str, Any]:
    return {"corrections": [{**NEURONS, "neurons": list(ids), **fields}]}


@pytest.mark.parametrize(
    ("code", "param", "says", "steering"),
    [
        ("decimal_above_max_value", "0.scale", "between -8.0 and 8.0", custom(scale=8.01)),
        ("decimal_above_max_value", "0.scale", "", custom(scale=1e308)),
        ("decimal_below_min_value", "0.scale", "", custom(scale=-9)),
        ("decimal_below_min_value", "0.scale", "0.000001", custom(scale=5e-324)),
        ("invalid_type", "0.scale", "", custom(scale="1")),
        ("invalid_type", "0.scale", "", custom(scale=True)),
        ("invalid_type", "0.scale", "", custom(scale=None)),
        ("layer_out_of_range", "0.site", "0..3", custom(site="attn_z.-1")),
        ("layer_out_of_range", "0.site", "0..3", custom(site="attn_z.4")),
        ("layer_out_of_range", "0.site", "0..3", custom(site=f"attn_z.{2**31}")),
        ("layer_out_of_range", "0.site", "0..3", custom(site="attn_z.1.5")),
        ("layer_out_of_range", "0.site", "0..3", custom(site="attn_z.03")),
        ("layer_out_of_range", "0.site", "0..3", custom(site="attn_z.")),
        ("invalid_type", "0.site", "", custom(site=3)),
        ("invalid_value", "0", "attn_z.12", custom(site="resid_post.1")),
        ("invalid_value", "0", "attn_z.12", custom(site="")),
        ("string_above_max_length", "0.site", "", custom(site="attn_z." + "1" * 300)),
        ("layer_out_of_range", "0.groups", "0..1", custom(groups=[2])),
        ("layer_out_of_range", "0.groups", "0..1", custom(groups=[0, -1])),
        ("layer_out_of_range", "0.neurons", "0..127", neurons(128)),
        ("layer_out_of_range", "0.neurons", "0..127", neurons(10**30)),
        ("array_below_min_length", "0.groups", "", custom(groups=[])),
        ("array_above_max_length", "0.neurons", "4096", neurons(*range(4097))),
        ("invalid_value", "0.groups", "once", custom(groups=[1, 1])),
        ("invalid_type", "0.groups.0", "", custom(groups=["1"])),
        ("invalid_type", "0.groups.0", "", custom(groups=[1.0])),
        ("invalid_type", "0.groups.1", "", custom(groups=[1, True])),
        ("invalid_type", "0.groups", "", custom(groups=1)),
        ("invalid_value", "0", "groups, and nothing else", custom(neurons=[1])),
        ("invalid_value", "0", "groups, and nothing else", {"corrections": [{"site": "attn_z.1", "scale": 0}]}),
        ("invalid_value", "0", "neurons, and nothing else", custom(site="mlp_act.1")),
        ("missing_required_parameter", "0.scale", "", {"corrections": [{"site": "attn_z.1", "groups": [0]}]}),
        ("unknown_parameter", "0.neuron", "neurons", custom(neuron=[1])),
        ("invalid_value", "1.groups", "attn_z.2 has 1", {"corrections": [GROUP, {**GROUP, "groups": [0, 1]}]}),
        ("array_above_max_length", "", "32", {"corrections": [GROUP] * 33}),
        ("invalid_type", "", "", {"corrections": GROUP}),
    ],
)
def test_T1_T2_T3_what_cannot_be(live: Live, code: str, param: str, says: str, steering: dict[str, Any]) -> None:
    steps = live.served.engine.steps  # type: ignore[attr-defined]
    where = f"steering.corrections.{param}".rstrip(".")
    refused(live, code, where, says=says, steering=steering)
    assert live.served.engine.steps == steps  # type: ignore[attr-defined]


def test_T3_a_million_ids_are_refused_at_once(live: Live) -> None:
    refused(live, "array_above_max_length", "steering.corrections.0.neurons", steering=neurons(*range(400_000)))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_T1_not_finite(live: Live, value: str) -> None:
    body = json.dumps({"model": "tiny", "messages": HELLO, "steering": custom(scale="#")}).replace('"#"', value)
    error = live.post(body).json()["error"]
    assert (error["code"], error["param"]) == ("non_finite_number", "steering.corrections.0.scale")


@pytest.mark.parametrize(
    ("code", "param", "says", "steering"),
    [
        ("invalid_value", "steering.gate", "custom", {"corrections": [GROUP], "gate": "drift"}),
        ("invalid_value", "steering.threshold", "custom", {"corrections": [GROUP], "threshold": 0.5}),
        ("invalid_value", "steering.mode", "custom", {"corrections": [GROUP], "mode": "observe"}),
        ("decimal_above_max_value", "steering.strength", "0 and 1", {"corrections": [GROUP], "strength": 1.5}),
        ("invalid_value", "steering.exempt", "everywhere", {"profile": "tuned", "exempt": ["code"]}),
        (
            "layer_out_of_range",
            "steering.corrections.0.site",
            "1..3",
            {"profile": "candid", **custom(site="attn_z.0")},
        ),
    ],
)
def test_what_does_not_go_together(real: Live, code: str, param: str, says: str, steering: dict[str, Any]) -> None:
    refused(real, code, param, says=says, steering=steering)


def test_of_a_mixture_of_experts_only_heads() -> None:
    model = tiny_model("mixtral")
    with pytest.raises(LayerOutOfRange, match=r"corrections\.0\.site: layer 1 is a mixture of experts"):
        customised(None, [ScaledUnits(Site("mlp_act", 1), (0,), 0.0)], model=model)
    assert customised(None, [ScaledUnits(Site("attn_z", 1), (0,), 0.0)], model=model).corrections


def test_names_of_a_profile_are_in_nobodys_way() -> None:
    model, scaled = tiny_model(), [ScaledUnits(Site("attn_z", 1), (0,), 0.0)]
    once = customised(None, scaled, model=model)
    twice = customised(replace(once, name="own", digest="f" * 64), scaled, model=model)
    assert len({c.name for c in twice.corrections}) == 2 and twice.label == "own@ffffffffffff+custom"


@torch.no_grad()
def on_the_brink() -> LanguageModel:
    """The neurons of block 1 come near the largest float, and nobody reads them."""
    model = tiny_model()
    mlp = model.hf.model.layers[1].mlp
    mlp.gate_proj.weight *= 4.5e18
    mlp.up_proj.weight *= 4.5e18
    mlp.down_proj.weight *= 0.0
    return replace(model, name="tiny")


def test_T16_a_scale_that_overflows_ends_that_request_alone() -> None:
    model = on_the_brink()

    def served() -> Served:
        engine = Engine(model, EngineConfig(max_rows=3, context=128, deterministic=True))
        return Served(model, engine, PackStore(None, model), None, 1)

    with serve(served) as live:
        plain = asked(live)[0]
        scaled = {"site": "mlp_act.1", "neurons": list(range(128))}
        assert asked(live, steering={"corrections": [{**scaled, "scale": 0.5}]})[0] == plain
        broken = {"corrections": [{**scaled, "scale": 8}]}
        reply = live.chat(**GREEDY, steering=broken)
        assert (reply.status_code, reply.json()["error"]["code"]) == (500, "numerical_error")
        assert reply.headers["x-should-retry"] == "false"
        streamed = live.chat(**GREEDY, steering=broken, stream=True)
        assert "numerical_error" in streamed.text
        assert asked(live)[0] == plain and live.served.engine.num_running == 0


def test_a_pack_that_is_gone_is_not_kept(tmp_path: Path) -> None:
    """Though corrections were asked for on top of it; asked for again, they are the same object while it is there."""
    model = replace(tiny_model(), name="tiny")
    save_packs(tmp_path, model, tiny_model(seed=1))
    store = PackStore(tmp_path, model)
    served = Served(model, FakeEngine(model), store, "firm", 1)  # type: ignore[arg-type]
    scaled = (ScaledUnits(Site("attn_z", 2), (0,), 0.0),)
    assert served.customised(None, scaled) is served.customised(None, scaled)
    first = served.customised(store.get("firm"), scaled)
    assert first is served.customised(store.get("firm"), scaled)
    gone, made = weakref.ref(store.get("firm")), weakref.ref(first)
    del first
    store.remove("firm")
    gc.collect()
    assert gone() is None and made() is None


def test_the_receipt_tells_the_gate_that_let_most_through(real: Live) -> None:
    """Corrections that always act do so beside those that wait for drift."""
    receipt = asked(real, steering={"profile": "candid", "corrections": [GROUP]})[1]
    assert receipt["gate"] == "always" and receipt["applied"]
    assert asked(real, steering={"profile": "candid"})[1]["gate"] == "drift"
