"""Packs: save and load are the identity, plans follow the overrides, and the impossible cannot be made."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from steering.correction import Correction
from steering.edit import Shift
from steering.errors import InvalidRequest, PackError, PackModelMismatch, ProfileObserveOnly, ValueOutOfRange
from steering.gate import Gate
from steering.model.loading import LanguageModel, wrap
from steering.pack import RESERVED_NAMES, Overrides, Pack, load_pack, save_pack
from steering.plan import Detector, Plan
from steering.site import Site
from tests.models import byte_tokenizer, tiny_hf, tiny_model
from tests.packs import dola_pack, full_pack, observing_pack, simple_pack, tuned_pack

MODEL = tiny_model()
BOTH = frozenset({"prompt", "completion"})
COMPLETION = frozenset({"completion"})


def same(a: object, b: object) -> bool:
    """Equality through dataclasses, sequences and tensors: bits, dtype and device."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
    if is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


PACKS = {"full": full_pack, "simple": simple_pack, "observing": observing_pack, "tuned": tuned_pack, "dola": dola_pack}


@pytest.mark.parametrize("kind", PACKS)
def test_law_load_after_save_is_the_identity(tmp_path: Path, kind: str) -> None:
    saved = save_pack(PACKS[kind](MODEL), tmp_path / "pack")
    loaded = load_pack(tmp_path / "pack", MODEL)
    assert same(saved, loaded)
    assert same(replace(PACKS[kind](MODEL), card=saved.card, digest=saved.digest), saved)
    assert len(loaded.digest) == 64


def test_law_save_after_load_gives_the_same_bytes(tmp_path: Path) -> None:
    first = save_pack(full_pack(MODEL), tmp_path / "one")
    second = save_pack(load_pack(tmp_path / "one", MODEL), tmp_path / "two")
    assert first.digest == second.digest
    for name in ("pack.json", "tensors.safetensors", "CARD.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    "changes",
    [{"description": "other"}, {"evidence": {"n": 1}}, {"card": "# mine"}, {"max_strength": 3.0}, {"name": "other"}],
)
def test_the_digest_covers_everything(tmp_path: Path, changes: dict[str, object]) -> None:
    reference = save_pack(full_pack(MODEL), tmp_path / "a").digest
    assert save_pack(full_pack(MODEL), tmp_path / "b").digest == reference
    assert save_pack(full_pack(MODEL, **changes), tmp_path / "c").digest != reference


def test_the_digest_covers_tensors(tmp_path: Path) -> None:
    digests = set()
    for value in (1.0, 1.0000001):
        shift = Correction("push", Site("resid_post", 1), Shift(torch.full((64,), value)))
        digests.add(save_pack(simple_pack(MODEL, corrections=(shift,)), tmp_path / "pack").digest)
    assert len(digests) == 2


def test_tensors_land_in_the_models_dtype(tmp_path: Path) -> None:
    half = wrap(tiny_hf().to(torch.bfloat16), byte_tokenizer(), "half")
    save_pack(full_pack(MODEL), tmp_path / "pack")
    loaded = load_pack(tmp_path / "pack", half)
    assert loaded.corrections[0].edit.target.dtype == torch.bfloat16
    assert loaded.corrections[0].edit.mask.dtype == torch.bool
    assert loaded.detector.lens.weight.dtype == torch.bfloat16


def test_tensors_that_share_memory_can_be_saved(tmp_path: Path) -> None:
    rows = torch.randn(2, 64)
    corrections = tuple(Correction(f"c{i}", Site("resid_post", 1), Shift(rows[i])) for i in range(2))
    save_pack(simple_pack(MODEL, corrections=corrections), tmp_path / "pack")
    assert torch.equal(load_pack(tmp_path / "pack", MODEL).corrections[1].edit.vector, rows[1])


def test_saving_replaces_a_pack_as_a_whole(tmp_path: Path) -> None:
    save_pack(full_pack(MODEL), tmp_path / "pack")
    save_pack(simple_pack(MODEL), tmp_path / "pack")
    assert load_pack(tmp_path / "pack", MODEL).name == "simple"
    assert [path.name for path in tmp_path.iterdir()] == ["pack"], "nothing temporary is left"


def test_saving_never_replaces_what_is_no_pack(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("x")
    with pytest.raises(PackError, match="is no pack"):
        save_pack(full_pack(MODEL), tmp_path / "precious")
    assert (tmp_path / "precious" / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("target", "operation", "last"),
    [(os, "fsync", 0), (os, "fsync", 1), (os, "fsync", 2), (Path, "rename", 0), (Path, "rename", 1)],
)
def test_a_save_that_fails_leaves_the_old_pack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: object, operation: str, last: int
) -> None:
    """At every write and every rename in turn."""
    old = save_pack(full_pack(MODEL), tmp_path / "pack").digest
    real, calls = getattr(target, operation), itertools.count()

    def fails_once(*args: object) -> object:
        if next(calls) == last:
            raise OSError("disk full")
        return real(*args)

    monkeypatch.setattr(target, operation, fails_once)
    with pytest.raises(OSError, match="disk full"):
        save_pack(simple_pack(MODEL), tmp_path / "pack")
    assert load_pack(tmp_path / "pack", MODEL).digest == old
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


def test_T5_pack_of_another_model_names_both_fingerprints(tmp_path: Path) -> None:
    other = tiny_model("qwen3")
    save_pack(full_pack(MODEL), tmp_path / "pack")
    with pytest.raises(PackModelMismatch) as caught:
        load_pack(tmp_path / "pack", other)
    assert (caught.value.expected, caught.value.got) == (MODEL.fingerprint, other.fingerprint)
    for part in (MODEL.name, other.name, MODEL.fingerprint[:19], other.fingerprint[:19]):
        assert part in str(caught.value)


def test_T5_mismatch_is_told_before_tensors_are_read(tmp_path: Path) -> None:
    save_pack(full_pack(MODEL), tmp_path / "pack")
    (tmp_path / "pack" / "tensors.safetensors").unlink()
    with pytest.raises(PackModelMismatch):
        load_pack(tmp_path / "pack", tiny_model("qwen3"))


def test_the_card_is_for_people(tmp_path: Path) -> None:
    save_pack(full_pack(MODEL), tmp_path / "pack")
    card = (tmp_path / "pack" / "CARD.md").read_text()
    for part in ("# full", MODEL.fingerprint, "attn_z.2", "layer 1", "0.25 bits", '"caves on": 0.09'):
        assert part in card


@pytest.mark.parametrize(
    "name", [*sorted(RESERVED_NAMES), "", "A", "-a", ".a", "a/b", "..", "a" * 65, "ä", "a\n", "a b"]
)
def test_T4_impossible_names(name: str) -> None:
    with pytest.raises(ValueError, match="pack name"):
        simple_pack(MODEL, name=name)


DRIFTING = Correction("c", Site("resid_post", 1), Shift(torch.ones(64)), Gate("drift"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"max_strength": 0.5}, "max_strength"),
        ({"max_strength": float("nan")}, "max_strength"),
        ({"fingerprint": "sha256:12"}, "fingerprint"),
        ({"corrections": (DRIFTING,)}, "drift gate needs a detector"),
        ({"corrections": full_pack(MODEL).corrections[2:3] * 2}, "unique"),
        ({"corrections": (replace(DRIFTING, gate=Gate(), strength=float("inf")),)}, "finite"),
        ({"corrections": (replace(DRIFTING, gate=Gate(), name="A b"),)}, "names of corrections"),
        ({"detector": replace(full_pack(MODEL).detector, threshold=1.5)}, "threshold"),
        ({"detector": Detector(replace(full_pack(MODEL).detector.lens, layer=3), 0.5)}, "early layer"),
        (
            {
                "detector": full_pack(MODEL).detector,
                "logit_corrections": (
                    replace(full_pack(MODEL).logit_corrections[0], gate=Gate("always", frozenset({"prompt"}))),
                ),
            },
            "at the logits",
        ),
    ],
)
def test_impossible_packs(changes: dict[str, object], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        simple_pack(MODEL, **changes)


# Overrides


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    return save_pack(full_pack(MODEL), tmp_path / "pack")


def tuned_and_watching(model: LanguageModel) -> Pack:
    return tuned_pack(model, detector=full_pack(model).detector)


def drift_only(**changes: object) -> Pack:
    """A pack whose corrections all wait for drift."""
    pack = full_pack(MODEL)
    return full_pack(MODEL, **({"corrections": pack.corrections[:2]} | changes))


def test_defaults_change_nothing(pack: Pack) -> None:
    plan = pack.plan(Overrides())
    assert plan.profile == f"full@{pack.digest[:12]}"
    assert (plan.mode, plan.strength, plan.trace) == ("on", 1.0, "off")
    assert all(a is b for a, b in zip(plan.all_corrections, pack.all_corrections, strict=True))
    assert plan.detector is pack.detector
    assert plan.acts


def test_off_is_the_plan_that_is_off(pack: Pack) -> None:
    assert pack.plan(Overrides(mode="off", trace="tokens")) == Plan()


def test_observe_measures_and_never_acts(pack: Pack) -> None:
    for watcher in (pack, observing_pack(MODEL)):
        plan = watcher.plan(Overrides(mode="observe", trace="tokens"))
        assert (plan.mode, plan.trace, plan.acts, plan.measures) == ("observe", "tokens", False, True)


@pytest.mark.parametrize("strength", [0, 0.5, 2, 2.0])
def test_strength_within_the_limit(pack: Pack, strength: float) -> None:
    plan = pack.plan(Overrides(strength=strength))
    assert plan.strength == strength
    assert plan.acts == (strength > 0)


def test_gate_always_lifts_drift_and_latch_and_leaves_the_rest() -> None:
    pack = full_pack(MODEL)
    plan = pack.plan(Overrides(gate="always"))
    assert [c.gate for c in plan.all_corrections] == [Gate(), Gate(), pack.corrections[2].gate, Gate(), Gate()]
    assert plan.corrections[2] is pack.corrections[2]
    assert plan.corrections[0].edit is pack.corrections[0].edit


def test_gate_drift_on_a_pack_that_acts_always() -> None:
    corrections = (full_pack(MODEL).corrections[3],)
    plan = full_pack(MODEL, corrections=corrections, logit_corrections=()).plan(Overrides(gate="drift"))
    assert [c.gate for c in plan.corrections] == [Gate("drift")]


def test_phases_and_gate_together_can_do_what_neither_can_alone() -> None:
    pack = full_pack(MODEL)
    plan = pack.plan(Overrides(gate="drift", phases=COMPLETION))
    assert {c.gate.kind for c in plan.all_corrections} == {"drift"}
    plan = drift_only(logit_corrections=()).plan(Overrides(gate="always", phases=BOTH))
    assert [c.gate for c in plan.corrections] == [Gate("always", BOTH)] * 2


def test_threshold_replaces_the_detectors() -> None:
    plan = full_pack(MODEL).plan(Overrides(threshold=0.9))
    assert (plan.detector.threshold, plan.detector.num_candidates) == (0.9, 32)


REFUSED = {
    "strength above the limit": (full_pack, Overrides(strength=2.5), ValueOutOfRange, "strength", "between 0 and 2 "),
    "strength above 1": (simple_pack, Overrides(strength=1.5), ValueOutOfRange, "strength", "between 0 and 1 "),
    "strength below 0": (full_pack, Overrides(strength=-0.1), ValueOutOfRange, "strength", "between 0 and 2 "),
    "strength NaN": (full_pack, Overrides(strength=float("nan")), ValueOutOfRange, "strength", "between"),
    "strength while off": (full_pack, Overrides("off", strength=9), ValueOutOfRange, "strength", "between"),
    "observe-only on": (observing_pack, Overrides(), ProfileObserveOnly, "mode", "only measures"),
    "nothing to observe": (simple_pack, Overrides("observe"), InvalidRequest, "mode", "no detector"),
    "drift without detector": (simple_pack, Overrides(gate="drift"), InvalidRequest, "gate", "no detector"),
    "drift in the prompt": (full_pack, Overrides(gate="drift"), InvalidRequest, "gate", "not in the prompt"),
    "threshold without detector": (simple_pack, Overrides(threshold=0.5), InvalidRequest, "threshold", "no detector"),
    "threshold above 1": (full_pack, Overrides(threshold=1.1), ValueOutOfRange, "threshold", "between 0 and 1"),
    "threshold NaN": (full_pack, Overrides(threshold=float("nan")), ValueOutOfRange, "threshold", "between 0 and 1"),
    "no phases": (simple_pack, Overrides(phases=frozenset()), InvalidRequest, "phases", "must name"),
    "prompt behind drift": (full_pack, Overrides(phases=BOTH), InvalidRequest, "phases", "behind a drift gate"),
    "prompt at the logits": (full_pack, Overrides(gate="always", phases=BOTH), InvalidRequest, "phases", "logits"),
    "weights behind drift": (tuned_and_watching, Overrides(gate="drift"), InvalidRequest, "gate", "acts always"),
    "weights in the completion": (tuned_pack, Overrides(phases=COMPLETION), InvalidRequest, "phases", "only be both"),
    "drift and prompt": (full_pack, Overrides(gate="drift", phases=BOTH), InvalidRequest, "phases", "drift gate"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_overrides_name_their_key(case: str) -> None:
    make, overrides, error, key, expected = REFUSED[case]
    with pytest.raises(error, match=expected) as caught:
        make(MODEL).plan(overrides)
    assert type(caught.value) is error
    assert caught.value.param == f"steering.{key}"


def test_equal_overrides_share_a_plan_and_equal_gates_share_corrections() -> None:
    pack = full_pack(MODEL)
    assert pack.plan(Overrides(gate="always")) is pack.plan(Overrides(gate="always"))
    weak, strong = pack.plan(Overrides(gate="always", strength=0.5)), pack.plan(Overrides(gate="always"))
    assert weak is not strong
    assert all(a is b for a, b in zip(weak.all_corrections, strong.all_corrections, strict=True))


def test_the_cache_of_plans_is_bounded() -> None:
    pack = simple_pack(MODEL)
    plans = [pack.plan(Overrides(strength=i / 2000)) for i in range(1000)]
    assert pack.plan(Overrides(strength=999 / 2000)) is plans[999]
    assert pack.plan(Overrides(strength=0)) is not plans[0]


def test_a_plan_survives_the_disk(pack: Pack, tmp_path: Path) -> None:
    """Saved, loaded and planned, a pack does what it did in memory: the engine's digest says so."""
    loaded = load_pack(tmp_path / "pack", MODEL)
    assert loaded.plan(Overrides(strength=0.5)).digest == full_pack(MODEL).plan(Overrides(strength=0.5)).digest


def test_pack_json_reads_as_documented(pack: Pack, tmp_path: Path) -> None:
    document = json.loads((tmp_path / "pack" / "pack.json").read_text())
    assert document["format"] == "unsway.pack/1"
    assert document["digest"] == pack.digest
    assert document["corrections"][0] == {
        "name": "groups",
        "site": "attn_z.2",
        "edit": {"kind": "set", "tensors": {"target": "corrections.0.target", "mask": "corrections.0.mask"}},
        "gate": {"kind": "drift", "phases": ["completion"], "latch": False},
        "strength": 1.0,
    }
    assert document["detector"]["lens"]["layer"] == 1
    assert document["corrections"][4]["site"] == "logits"
